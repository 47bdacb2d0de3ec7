//! Waiting for what was spawned: a panic there is a bug, and goes on where it would have gone.

use tokio::task::JoinError;

/// What a task or a blocking call has returned.
///
/// # Panics
/// As it did. Nothing that is joined so is ever aborted.
pub fn joined<T>(result: Result<T, JoinError>) -> T {
    result.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
