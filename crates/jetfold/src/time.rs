//! `UnixNanos`, the time that servers stamp, and `LogTime`, the time that a log makes of it.

/// Nanoseconds since the Unix epoch, as the server that keeps the log stamped them.
pub type UnixNanos = i64;

/// Nanoseconds that the log's own clock has run: see [`Checkpoint::step`](crate::checkpoint::Checkpoint::step).
pub type LogTime = i64;
