//! The report of a run: what the ledger has counted, and how long finals took.

use serde::Serialize;

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

/// A run's end, as `--report` writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// What was counted.
    #[serde(flatten)]
    pub counts: Counts,
    /// Seconds since the run began.
    pub elapsed_s: f64,
    /// How many of them the run itself was away: cut off from NATS, or paused. No deadline runs meanwhile.
    pub away_s: f64,
    /// Of all right finals.
    pub latency_ms: Latency,
}
