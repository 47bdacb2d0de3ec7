//! `Counted`: what happens in a partition, counted once for the worker as a whole and once for its metrics.

use super::counters::Counters;
use crate::application::Application;
use crate::commit::effect::{Confirmed, Outcome};
use crate::metrics::Meters;
use crate::refused::Rejections;
use crate::transaction::Tally;
use std::sync::Arc;
use std::time::Duration;

pub struct Counted<A: Application> {
    counters: Arc<Counters<A>>,
    pub meters: Arc<Meters>,
}

impl<A: Application> Clone for Counted<A> {
    fn clone(&self) -> Self {
        Self { counters: self.counters.clone(), meters: self.meters.clone() }
    }
}

impl<A: Application> Counted<A> {
    /// Of a partition, as `worker` folds it, whose own counts are `counters`.
    pub fn new(counters: Arc<Counters<A>>, worker: &str, partition: u32) -> Self {
        Self { counters, meters: Arc::new(Meters::new(worker, partition)) }
    }

    /// The log was opened.
    pub fn opened(&self) {
        self.counters.opened.add(1);
        self.meters.opened.increment(1);
    }

    /// A batch was folded, and of it these were rejected.
    pub fn folded(&self, rejected: Option<&Rejections>) {
        self.counters.batches.add(1);
        self.meters.batches.increment(1);
        if let Some(rejected) = rejected {
            self.meters.rejected(rejected);
        }
    }

    /// An output was stored by its first try.
    pub fn published(&self) {
        self.counters.outputs_published.add(1);
        self.meters.published.increment(1);
    }

    /// An effect took more than one try.
    pub fn confirmed(&self, outcome: &Outcome<A::Output>) {
        match outcome {
            Outcome::Output(Ok(Confirmed { already_there: true, .. })) => {
                self.counters.outputs_already_there.add(1);
                self.meters.already_there.increment(1);
            }
            Outcome::Output(Ok(_)) => self.published(),
            Outcome::Reject(Confirmed { already_there, differs, .. }) => {
                self.counters.rejects_differing.add(u64::from(*differs));
                match already_there {
                    true => self.counters.rejects_already_there.add(1),
                    false => self.counters.rejects_published.add(1),
                }
            }
            // Counted where it is let pass.
            Outcome::Output(Err(_)) => {}
        }
    }

    /// Outputs contradict what is there, and are let pass.
    pub fn conflicting(&self, outputs: u64) {
        self.counters.conflicting_outputs.add(outputs);
        self.meters.conflicting.increment(outputs);
    }

    /// A transaction was committed, which took so long to be on disk.
    pub fn committed(&self, tally: &Tally<A::Tally>, took: Duration) {
        self.counters.folded(tally);
        self.meters.committed(tally, took);
    }
}
