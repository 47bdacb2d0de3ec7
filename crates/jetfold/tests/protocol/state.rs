//! A state of the whole: streams, bucket and workers, and what is under way between them.

use crate::protocol::history::{Key, Output};
use crate::protocol::streams::{Found, Judgement, Log, Outputs};
use crate::protocol::worker::{Store, Told, Worker};
use std::collections::BTreeSet;

/// A copy of a store in the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Snapshot {
    pub store: Store,
    /// Whether it is so old that the broker has it, and all that it is of, on disk.
    pub settled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub log: Log,
    pub outputs: Outputs,
    /// Publishes that were sent and have not arrived. They outlive whoever has sent them.
    pub sent: BTreeSet<Output>,
    /// Everything that owners have ever told. It may come late, again, never, or from a zombie.
    pub told: BTreeSet<Told>,
    pub snapshots: BTreeSet<Snapshot>,
    /// Subjects under which somebody has found another output than its own, and said so.
    pub reported: BTreeSet<Key>,
    pub workers: Vec<Worker>,
    pub disks_lost: u8,
}

impl State {
    pub fn begin(workers: usize) -> Self {
        Self {
            log: Log::default(),
            outputs: Outputs::default(),
            sent: BTreeSet::new(),
            told: BTreeSet::new(),
            snapshots: BTreeSet::new(),
            reported: BTreeSet::new(),
            workers: vec![Worker::default(); workers],
            disks_lost: 0,
        }
    }

    pub fn judge(&self, store: &Store) -> Judgement {
        self.log.judge(store.position(), store.era())
    }

    pub fn is_sound(&self, store: &Store) -> bool {
        self.judge(store) == Judgement::Sound
    }

    /// Whether all snapshots are of another log, or of what this one was: an empty store must not hide what one with its disk
    /// would refuse.
    pub fn would_hide(&self, store: &Store) -> bool {
        let of_others = || self.snapshots.iter().all(|snapshot| self.judge(&snapshot.store) == Judgement::Diverged);
        store.position() == 0 && !self.snapshots.is_empty() && of_others()
    }

    /// The furthest snapshot that has settled, of this log.
    pub fn furthest_settled(&self) -> Option<&Snapshot> {
        let usable = |snapshot: &&Snapshot| snapshot.settled && self.is_sound(&snapshot.store);
        self.snapshots.iter().filter(usable).max_by_key(|snapshot| snapshot.store.position())
    }

    /// Outputs that a store has committed and that are not there.
    pub fn missing(&self, store: &Store) -> impl Iterator<Item = Output> {
        store.folded.outputs_after(0).filter(|output| self.outputs.find(output) == Found::Nothing)
    }
}
