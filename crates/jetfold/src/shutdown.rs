//! Stopping: the first SIGTERM or Ctrl-C asks for it, the second does not wait.

use std::io;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long a role may take to drain and commit once it is asked to stop.
pub const DRAIN: std::time::Duration = std::time::Duration::from_secs(8);

/// Watches for signals. The token is cancelled by the first; the second ends the process at once.
pub fn on_signals() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        loop {
            let number = tokio::select! {
                _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
                _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            };
            if token.is_cancelled() {
                std::process::exit(128 + number);
            }
            token.cancel();
            // Not here: where nobody reads what is logged, the second signal must still be heard.
            tokio::task::spawn_blocking(|| {
                tracing::info!("stopping: draining and committing; a second signal stops at once");
            });
        }
    });
    Ok(stop)
}
