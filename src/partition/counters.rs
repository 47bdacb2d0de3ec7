//! What one worker has done, counted over all its partitions since it started.

use crate::summer;
use crate::transaction::Tally;
use std::sync::atomic::{AtomicU64, Ordering};

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

#[derive(Debug, Default)]
pub struct Counters {
    /// Chunk batches pulled and folded, those folded again after a re-open included.
    pub batches: Counter,
    /// Sources opened, and those of them that an earlier one had been lost for.
    pub opened: Counter,
    /// Transactions committed, and what they folded.
    pub commits: Counter,
    pub chunks: Counter,
    pub bytes: Counter,
    pub completed: Counter,
    pub duplicates: Counter,
    pub rejected: Counter,
    pub gaps: Counter,
    /// Effects by how they were confirmed.
    pub finals_published: Counter,
    pub finals_already_there: Counter,
    pub rejects_published: Counter,
    pub rejects_already_there: Counter,
    pub rejects_differing: Counter,
    pub conflicting_finals: Counter,
}

impl Counters {
    /// Adds what one committed transaction has folded.
    pub fn folded(&self, tally: &Tally<summer::Tally>) {
        self.commits.add(1);
        self.chunks.add(tally.records);
        self.bytes.add(tally.own.bytes);
        self.completed.add(tally.own.completed);
        self.duplicates.add(tally.own.duplicates);
        self.rejected.add(tally.rejected);
        self.gaps.add(tally.losses);
    }

    /// One log line with all of it.
    pub fn report(&self, message: &str) {
        tracing::info!(
            batches = self.batches.get(),
            opened = self.opened.get(),
            commits = self.commits.get(),
            chunks = self.chunks.get(),
            bytes = self.bytes.get(),
            completed = self.completed.get(),
            duplicates = self.duplicates.get(),
            rejected = self.rejected.get(),
            gaps = self.gaps.get(),
            finals_published = self.finals_published.get(),
            finals_already_there = self.finals_already_there.get(),
            rejects_published = self.rejects_published.get(),
            rejects_already_there = self.rejects_already_there.get(),
            rejects_differing = self.rejects_differing.get(),
            conflicting_finals = self.conflicting_finals.get(),
            "{message}"
        );
    }
}
