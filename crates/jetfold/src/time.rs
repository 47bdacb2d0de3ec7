//! `UnixNanos`, the time that servers stamp, and `LogTime`, the time that a log makes of it.

use std::time::Duration;

/// Nanoseconds since the Unix epoch, as the server that keeps the log stamped them.
pub type UnixNanos = i64;

/// Nanoseconds that the log's own clock has run: see [`Checkpoint::step`](crate::checkpoint::Checkpoint::step).
pub type LogTime = i64;

/// How old something is that was stored at `then`: 0 if that comes after `now`, since clocks step.
pub fn age(then: UnixNanos, now: UnixNanos) -> Duration {
    Duration::from_nanos(u64::try_from(now.saturating_sub(then)).unwrap_or(0))
}
