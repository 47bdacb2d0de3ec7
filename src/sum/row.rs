//! `Row`: what a store knows of one stream, and how that looks in bytes.
//!
//! | row | tag | then, little-endian |
//! | --- | --- | --- |
//! | live | 1 | `changed_at` i64, `seq_no` u64, SHA-1 state of 92 bytes |
//! | broken | 2 | `changed_at` i64, `seq_no` u64 |
//! | completed | 3 | `changed_at` i64, `seq_no` u64, digest of 20 bytes |
//!
//! A tag is never given another meaning: a change of a row's shape takes a new one.

use crate::sum::chunk::SeqNo;
use crate::sum::running::{RunningSum, Sum, Value};
use crate::sum::stream_id::StreamId;

pub use jetfold::{LogTime, UnixNanos};

/// What a store knows of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// Under way: the sum so far.
    Live { sum: RunningSum, changed_at: LogTime },
    /// A chunk is missing: it never gets a final. `seq_no` is the last chunk before the gap.
    Broken { seq_no: SeqNo, changed_at: LogTime },
    /// Ended with the closing chunk `seq_no`; kept so that what comes again is known as a duplicate.
    Completed { seq_no: SeqNo, value: Value, changed_at: LogTime },
}

const LIVE: u8 = 1;
const BROKEN: u8 = 2;
const COMPLETED: u8 = 3;

/// How long a row is remembered, in nanoseconds of log time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// For live and broken rows.
    pub idle: LogTime,
    pub completed: LogTime,
}

/// An expired row stays for this part of its time longer, so that a chunk which comes too late is told so.
const STAYS: LogTime = 4;

impl Row {
    /// Whether the row counts as absent at `log_time`.
    ///
    /// Only log time decides, never a clock: so every replay of the log decides the same.
    pub fn is_expired(&self, log_time: LogTime, expiry: Expiry) -> bool {
        log_time.saturating_sub(self.changed_at()) > self.kept(expiry)
    }

    /// Whether nothing tells the row from one that never was: it may be collected, and may be stored still.
    pub fn is_forgotten(&self, log_time: LogTime, expiry: Expiry) -> bool {
        let kept = self.kept(expiry);
        log_time.saturating_sub(self.changed_at()) > kept.saturating_add(kept / STAYS)
    }

    fn kept(&self, expiry: Expiry) -> LogTime {
        match self {
            Row::Live { .. } | Row::Broken { .. } => expiry.idle,
            Row::Completed { .. } => expiry.completed,
        }
    }

    /// The log time of the last change.
    pub fn changed_at(&self) -> LogTime {
        match self {
            Row::Live { changed_at, .. } | Row::Broken { changed_at, .. } | Row::Completed { changed_at, .. } => {
                *changed_at
            }
        }
    }

    /// The final that this row stands for, where the stream `id` has completed.
    pub fn final_sum(&self, id: StreamId) -> Option<Sum> {
        match self {
            Row::Completed { seq_no, value, .. } => Some(Sum { id, seq_no: *seq_no, value: *value }),
            Row::Live { .. } | Row::Broken { .. } => None,
        }
    }
}

impl jetfold::Row for Row {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut head = |tag: u8, changed_at: i64, seq_no: SeqNo| {
            out.push(tag);
            out.extend_from_slice(&changed_at.to_le_bytes());
            out.extend_from_slice(&seq_no.get().to_le_bytes());
        };
        match self {
            Row::Live { sum, changed_at } => {
                head(LIVE, *changed_at, sum.seq_no());
                out.extend_from_slice(&sum.state());
            }
            Row::Broken { seq_no, changed_at } => head(BROKEN, *changed_at, *seq_no),
            Row::Completed { seq_no, value, changed_at } => {
                head(COMPLETED, *changed_at, *seq_no);
                out.extend_from_slice(&value.0);
            }
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        let (changed_at, rest) = rest.split_first_chunk()?;
        let changed_at = i64::from_le_bytes(*changed_at);
        let (seq_no, rest) = rest.split_first_chunk()?;
        let seq_no = SeqNo::new(u64::from_le_bytes(*seq_no))?;
        match *tag {
            LIVE => Some(Row::Live { sum: RunningSum::resume(seq_no, rest.try_into().ok()?)?, changed_at }),
            BROKEN if rest.is_empty() => Some(Row::Broken { seq_no, changed_at }),
            COMPLETED => Some(Row::Completed { seq_no, value: Value(rest.try_into().ok()?), changed_at }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sum::chunk::Chunk;
    use crate::sum::stream_id::StreamId;
    use jetfold::Row as _;

    #[test]
    fn rows_come_back_and_bytes_of_another_shape_do_not() {
        let sum = RunningSum::open(&Chunk { id: StreamId::new([1; 16]), seq_no: SeqNo::FIRST, data: b"battery" });
        let value = sum.value();
        for row in [
            Row::Live { sum, changed_at: 3 },
            Row::Broken { seq_no: SeqNo::FIRST, changed_at: -4 },
            Row::Completed { seq_no: SeqNo::new(9).unwrap(), value, changed_at: 5 },
        ] {
            let mut bytes = Vec::new();
            row.encode(&mut bytes);
            assert_eq!(Row::decode(&bytes), Some(row));
            assert_eq!(Row::decode(&bytes[..bytes.len() - 1]), None);
            bytes[0] = 9;
            assert_eq!(Row::decode(&bytes), None);
        }
        assert_eq!(Row::decode(&[]), None);
    }
}
