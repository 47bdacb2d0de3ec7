//! The report of a run: what the ledger has counted, how long finals took, what waits, and what it comes to.

use crate::sum::stream_id::RunPrefix;
use serde::{Serialize, Serializer};
use std::fmt;

/// What the ledger counts. The fields of the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Streams opened.
    pub streams: u64,
    /// Chunks handed over to be sent, closing ones included.
    pub chunks: u64,
    /// Bytes of data in them.
    pub bytes: u64,
    /// Streams with exactly one final, the right one, in time.
    pub verified: u64,
    /// Of those, streams that another life of the run has closed: how long their finals took is not known.
    pub resumed: u64,
    /// Streams whose final did not come within twice the deadline.
    pub missing: u64,
    /// Streams whose final is wrong.
    pub mismatched: u64,
    /// Streams with two finals in `sums`.
    pub duplicate: u64,
    /// Finals of streams that nobody opened.
    pub unexpected: u64,
    /// Streams whose right final was stored after the deadline.
    pub late: u64,
    /// Finals that came again because `sums` had forgotten them.
    pub republished: u64,
    /// Streams that have not ended.
    pub unfinished: u64,
}

impl Counts {
    /// Whether a guarantee was broken.
    pub fn is_broken(&self) -> bool {
        self.missing + self.mismatched + self.duplicate + self.unexpected + self.late > 0
    }
}

/// From the closing chunk's scheduled send to its final's arrival, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// Of the last few seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Interval {
    /// How many they are.
    pub seconds: f64,
    /// Right finals that came in them.
    pub finals: u64,
    /// Of those.
    pub latency_ms: Latency,
}

/// Why a log takes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Reason {
    #[serde(rename = "log full")]
    LogFull,
    #[serde(rename = "no answer")]
    NoAnswer,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LogFull => "log full",
            Self::NoAnswer => "no answer",
        })
    }
}

/// A partition whose log takes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Waiting {
    pub partition: u32,
    pub reason: Reason,
    /// For how many seconds it has taken nothing.
    pub waited_s: f64,
    /// Streams that have begun and go no further.
    pub streams: u64,
}

/// What is known of a run once it has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Facts {
    #[serde(serialize_with = "as_text")]
    pub run: RunPrefix,
    pub seed: u64,
    /// Of the server that it is connected to.
    pub server_version: String,
    /// Copies of the partition logs.
    pub replicas: usize,
    pub partitions: u32,
}

fn as_text<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// How a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// `None` until it has begun.
    #[serde(flatten)]
    pub facts: Option<Facts>,
    /// What was counted.
    #[serde(flatten)]
    pub counts: Counts,
    /// Seconds since the run began.
    pub elapsed_s: f64,
    /// How many of them the run itself was away: cut off from NATS, or paused. No deadline runs meanwhile.
    pub away_s: f64,
    /// Streams that are closed and wait for their finals; of those at the end, nobody knows how they have ended.
    pub awaited: u64,
    /// Of all right finals.
    pub latency_ms: Latency,
    pub interval: Interval,
    /// The partitions whose logs take nothing.
    pub waiting: Vec<Waiting>,
}

/// What a run has come to, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It goes on, or was killed; nothing is broken so far.
    Running,
    /// It has ended, and every stream that it was to make, or if there was no end of them every stream that it has begun,
    /// was verified.
    Verified,
    /// It was stopped, or could not go on. Nothing is broken.
    Unfinished,
    /// A guarantee was broken.
    Broken,
}

impl Verdict {
    /// Of a run that goes on.
    pub fn under_way(counts: &Counts) -> Self {
        if counts.is_broken() { Self::Broken } else { Self::Running }
    }

    /// Of a run that has ended. `wanted` are the streams that it was to make; `None`: without end.
    pub fn at_the_end(counts: &Counts, wanted: Option<u64>, has_failed: bool) -> Self {
        let is_whole = match wanted {
            Some(wanted) => counts.streams == wanted,
            None => counts.streams > 0,
        };
        match counts.is_broken() {
            true => Self::Broken,
            false if is_whole && counts.unfinished == 0 && !has_failed => Self::Verified,
            false => Self::Unfinished,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Verified => "verified",
            Self::Unfinished => "unfinished",
            Self::Broken => "broken",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_verified_only_where_nothing_is_left_and_nothing_went_wrong() {
        let counts =
            |streams, verified| Counts { streams, verified, unfinished: streams - verified, ..Counts::default() };
        let late = Counts { late: 1, ..counts(10, 9) };
        for (counts, wanted, has_failed, verdict) in [
            (counts(10, 10), Some(10), false, Verdict::Verified),
            (counts(0, 0), Some(0), false, Verdict::Verified),
            (counts(10, 10), None, false, Verdict::Verified),
            // Stopped before it began, between two streams, and amid some.
            (counts(0, 0), None, false, Verdict::Unfinished),
            (counts(9, 9), Some(10), false, Verdict::Unfinished),
            (counts(10, 9), Some(10), false, Verdict::Unfinished),
            (counts(10, 9), None, false, Verdict::Unfinished),
            (counts(10, 10), Some(10), true, Verdict::Unfinished),
            (late, Some(10), false, Verdict::Broken),
            (late, None, true, Verdict::Broken),
        ] {
            assert_eq!(Verdict::at_the_end(&counts, wanted, has_failed), verdict, "{counts:?} {wanted:?} {has_failed}");
        }
        assert_eq!(Verdict::under_way(&counts(10, 9)), Verdict::Running);
        assert_eq!(Verdict::under_way(&late), Verdict::Broken, "it stays so");
    }
}
