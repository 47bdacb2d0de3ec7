//! `Meters`: what is counted of one partition, by one worker.

use super::{
    APPLICATION, BATCHES, COMMIT_SECONDS, COMMITS, LOSSES, OPENED, OUTPUTS, RECORDS, REJECTS, RESTORE_LEFT,
    SNAPSHOT_TIME,
};
use crate::application::Tally;
use crate::refused::Rejections;
use crate::transaction;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub struct Meters {
    worker: String,
    partition: String,
    pub batches: Counter,
    pub opened: Counter,
    pub published: Counter,
    pub already_there: Counter,
    pub conflicting: Counter,
    records: Counter,
    losses: Counter,
    commits: Counter,
    commit_seconds: Histogram,
    snapshot_time: Gauge,
    restore_left: Gauge,
    /// What is counted by a word of a short list: made when it is first needed.
    by_word: Mutex<BTreeMap<(&'static str, &'static str), Counter>>,
}

impl Meters {
    /// Of a partition, as `worker` folds it. What the process records is recorded; without a recorder, nothing is.
    pub fn new(worker: &str, partition: u32) -> Self {
        let partition = partition.to_string();
        let labels = [("worker", worker.to_owned()), ("partition", partition.clone())];
        let outputs = |how: &'static str| {
            let [worker, partition] = labels.clone();
            counter!(OUTPUTS, &[worker, partition, ("how", how.to_owned())])
        };
        Self {
            worker: worker.to_owned(),
            partition,
            batches: counter!(BATCHES, &labels),
            opened: counter!(OPENED, &labels),
            published: outputs("published"),
            already_there: outputs("already-there"),
            conflicting: outputs("conflicting"),
            records: counter!(RECORDS, &labels),
            losses: counter!(LOSSES, &labels),
            commits: counter!(COMMITS, &labels),
            commit_seconds: histogram!(COMMIT_SECONDS, &labels),
            snapshot_time: gauge!(SNAPSHOT_TIME, &labels),
            restore_left: gauge!(RESTORE_LEFT, &labels),
            by_word: Mutex::default(),
        }
    }

    /// A transaction was committed, which took so long to be on disk.
    pub fn committed<T: Tally>(&self, tally: &transaction::Tally<T>, took: Duration) {
        self.commits.increment(1);
        self.commit_seconds.record(took);
        self.records.increment(tally.records);
        self.losses.increment(tally.losses);
        for (count, n) in tally.own.counts() {
            self.count(APPLICATION, "count", count, n);
        }
    }

    pub fn rejected(&self, rejections: &Rejections) {
        for range in rejections.ranges() {
            self.count(REJECTS, "reason", range.reason, (range.last - range.first + 1) as u64);
        }
    }

    pub fn wrote_a_snapshot(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.snapshot_time.set(now.as_secs_f64());
    }

    pub fn restore_left(&self, rows: u64) {
        self.restore_left.set(rows as f64);
    }

    fn count(&self, name: &'static str, label: &'static str, word: &'static str, n: u64) {
        let mut by_word = self.by_word.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let (worker, partition) = (self.worker.clone(), self.partition.clone());
            counter!(name, &[("worker", worker), ("partition", partition), (label, word.to_owned())])
        };
        by_word.entry((name, word)).or_insert_with(new).increment(n);
    }
}
