//! Joins a task. If the task panicked, the panic is raised again here.

use tokio::task::JoinError;

/// What a task or a blocking call has returned.
///
/// # Panics
/// If the task panicked. Only for tasks that are never aborted.
pub fn joined<T>(result: Result<T, JoinError>) -> T {
    result.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
