//! What a worker measures of itself: every metric once, by its name, its unit, its labels and what it says.
//!
//! They go to whatever recorder the process has installed, by the crate `metrics`; without one they cost nothing. With the feature
//! `http`, [`http`](crate::http) installs one for Prometheus and serves it. What is counted is counted when it happens; what stands is looked at
//! when somebody asks. Labels are partitions, workers, and words of a short list, never a key.

mod meters;

pub use meters::Meters;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// As Prometheus has it: what is measured, in which unit, and `_total` where it only grows.
    pub name: &'static str,
    pub kind: Kind,
    pub unit: Unit,
    pub labels: &'static [&'static str],
    pub what: &'static str,
}

const PARTITION: &[&str] = &["worker", "partition"];

macro_rules! metrics {
    ($($constant:ident = $name:literal, $kind:ident, $unit:ident, $labels:expr, $what:literal;)*) => {
        $(pub const $constant: &str = $name;)*
        /// All that a worker measures.
        pub const ALL: &[Metric] = &[$(Metric { name: $name, kind: Kind::$kind, unit: Unit::$unit, labels: $labels, what: $what }),*];
    };
}

metrics! {
    BATCHES = "jetfold_batches_total", Counter, Count, PARTITION, "Batches folded, those folded again after a log was opened again included";
    RECORDS = "jetfold_records_total", Counter, Count, PARTITION, "Records of committed transactions, rejected ones included";
    REJECTS = "jetfold_rejects_total", Counter, Count, &["worker", "partition", "reason"], "Records that were rejected when they were folded, by reason";
    LOSSES = "jetfold_losses_total", Counter, Count, PARTITION, "Records of committed transactions that prove that something before them was lost";
    OUTPUTS = "jetfold_outputs_total", Counter, Count, &["worker", "partition", "how"], "Outputs confirmed: published, or already-there from an earlier fold or another worker; or conflicting with one that is there";
    APPLICATION = "jetfold_application_total", Counter, Count, &["worker", "partition", "count"], "What the application counts of committed transactions";
    COMMITS = "jetfold_commits_total", Counter, Count, PARTITION, "Transactions committed";
    COMMIT_SECONDS = "jetfold_commit_duration_seconds", Histogram, Seconds, PARTITION, "How long a transaction took to be written and synced to the store";
    OPENED = "jetfold_logs_opened_total", Counter, Count, PARTITION, "How often the log was opened: more than once a take-over, something was lost or doubted";
    POSITION = "jetfold_position", Gauge, Count, PARTITION, "The committed position: everything through it is folded, and its effects are confirmed";
    LAG_BATCHES = "jetfold_lag_batches", Gauge, Count, PARTITION, "Batches between the committed position and the end of the log";
    LAG_SECONDS = "jetfold_lag_seconds", Gauge, Seconds, PARTITION, "How long ago the oldest batch that is not committed was stored, by the clock of the log's leader; 0 without a lag";
    COMMIT_AGE = "jetfold_commit_age_seconds", Gauge, Seconds, PARTITION, "The age of the last commit of this process; none before its first";
    LIVE_ROWS = "jetfold_live_rows", Gauge, Count, PARTITION, "Rows that are under way";
    ROWS = "jetfold_rows", Gauge, Count, PARTITION, "Rows in the store, expired ones included until they are collected";
    STORE_BYTES = "jetfold_store_bytes", Gauge, Bytes, PARTITION, "The size of the store's file";
    SNAPSHOT_TIME = "jetfold_snapshot_timestamp_seconds", Gauge, Seconds, PARTITION, "When this worker last wrote a snapshot, in seconds since 1970";
    RESTORE_LEFT = "jetfold_restore_left_rows", Gauge, Count, PARTITION, "Rows of the snapshot that is being restored and are not in the store yet; 0 where none is";
    STATE = "jetfold_partition_state", Gauge, Count, &["worker", "partition", "state"], "1 for what the worker does with the partition: folding, following, waiting, refused";
    BLOCKED = "jetfold_blocked", Gauge, Count, &["worker", "partition", "verdict"], "1 while the log is refused, by the verdict on it";
    MOVES = "jetfold_moves_total", Counter, Count, &["worker", "cause"], "Partitions that this worker has taken over, by cause: handed-over, left, silent";
    CONNECTS = "jetfold_connects_total", Counter, Count, &["worker"], "Connections made to NATS for publishing: one at the start, and each after it a reconnect";
}

/// Tells the recorder of the process what each of them is.
pub fn describe(all: &[Metric]) {
    for &Metric { name, kind, unit, what, .. } in all {
        match kind {
            Kind::Counter => describe_counter!(name, unit, what),
            Kind::Gauge => describe_gauge!(name, unit, what),
            Kind::Histogram => describe_histogram!(name, unit, what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_say_what_only_grows() {
        let names: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
        for Metric { name, kind, .. } in ALL {
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(name.starts_with("jetfold_"), "{name}");
        }
    }

    #[test]
    fn no_label_is_a_key() {
        let labels: BTreeSet<_> = ALL.iter().flat_map(|metric| metric.labels).copied().collect();
        assert_eq!(labels, ["cause", "count", "how", "partition", "reason", "state", "verdict", "worker"].into());
    }
}
