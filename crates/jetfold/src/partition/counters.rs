//! What one worker has done, counted over all its partitions since it started.

use crate::application::Application;
use crate::transaction::Tally;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub struct Counters<A: Application> {
    /// Batches pulled and folded, those folded again after a re-open included.
    pub batches: Counter,
    /// Sources opened, and those of them that an earlier one had been lost for.
    pub opened: Counter,
    /// Transactions committed, and what they folded.
    pub commits: Counter,
    tally: Mutex<Tally<A::Tally>>,
    /// Effects by how they were confirmed.
    pub outputs_published: Counter,
    pub outputs_already_there: Counter,
    pub rejects_published: Counter,
    pub rejects_already_there: Counter,
    pub rejects_differing: Counter,
    pub conflicting_outputs: Counter,
}

impl<A: Application> Default for Counters<A> {
    fn default() -> Self {
        Self {
            batches: Counter::default(),
            opened: Counter::default(),
            commits: Counter::default(),
            tally: Mutex::default(),
            outputs_published: Counter::default(),
            outputs_already_there: Counter::default(),
            rejects_published: Counter::default(),
            rejects_already_there: Counter::default(),
            rejects_differing: Counter::default(),
            conflicting_outputs: Counter::default(),
        }
    }
}

impl<A: Application> Counters<A> {
    /// Adds what one committed transaction has folded.
    pub fn folded(&self, tally: &Tally<A::Tally>) {
        self.commits.add(1);
        self.lock().add(tally);
    }

    /// What committed transactions have folded.
    pub fn tally(&self) -> Tally<A::Tally> {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Tally<A::Tally>> {
        self.tally.lock().expect("nothing panics while it holds numbers")
    }
}
