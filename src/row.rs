//! `Row`: what a store knows of one stream.

use crate::chunk::SeqNo;
use crate::stream_id::StreamId;
use crate::sum::{RunningSum, Sum, Value};

/// Nanoseconds since the Unix epoch, as the server that keeps the log stamped them.
pub type UnixNanos = i64;

/// What a store knows of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// Under way: the sum so far.
    Live { sum: RunningSum, changed_at: UnixNanos },
    /// A chunk is missing: it never gets a final. `seq_no` is the last chunk before the gap.
    Broken { seq_no: SeqNo, changed_at: UnixNanos },
    /// Ended with the closing chunk `seq_no`; kept so that what comes again is known as a duplicate.
    Completed { seq_no: SeqNo, value: Value, changed_at: UnixNanos },
}

/// How long a row is remembered, in nanoseconds of log time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// For live and broken rows.
    pub idle: UnixNanos,
    pub completed: UnixNanos,
}

impl Row {
    /// Whether the row counts as absent at `log_time`, be it still stored or not.
    ///
    /// Only log time decides, never a clock: so every replay of the log decides the same.
    pub fn is_expired(&self, log_time: UnixNanos, expiry: Expiry) -> bool {
        let (changed_at, kept) = match self {
            Row::Live { changed_at, .. } | Row::Broken { changed_at, .. } => (*changed_at, expiry.idle),
            Row::Completed { changed_at, .. } => (*changed_at, expiry.completed),
        };
        log_time.saturating_sub(changed_at) > kept
    }

    /// The final that this row stands for, where the stream `id` has completed.
    pub fn final_sum(&self, id: StreamId) -> Option<Sum> {
        match self {
            Row::Completed { seq_no, value, .. } => Some(Sum { id, seq_no: *seq_no, value: *value }),
            Row::Live { .. } | Row::Broken { .. } => None,
        }
    }
}
