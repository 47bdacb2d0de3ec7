//! `Heard`: when something last came from NATS, told by the task that listens and read by others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Cheap to clone: all clones are one.
#[derive(Clone, Debug)]
pub struct Heard {
    began: Instant,
    /// Nanoseconds since then.
    last: Arc<AtomicU64>,
}

impl Default for Heard {
    /// Heard just now.
    fn default() -> Self {
        Self { began: Instant::now(), last: Arc::default() }
    }
}

impl Heard {
    pub fn note(&self, at: Instant) {
        let since = at.saturating_duration_since(self.began).as_nanos();
        self.last.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub fn last(&self) -> Instant {
        self.began + Duration::from_nanos(self.last.load(Ordering::Relaxed))
    }
}
