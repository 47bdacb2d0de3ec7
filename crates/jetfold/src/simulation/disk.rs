//! The disk of a worker, and the log that its store was really folded from.

use super::tales::{Expected, Tales, Told};
use crate::checkpoint::Checkpoint;
use crate::identity::accept::Accepted;
use crate::transaction::Transaction;
use std::collections::BTreeMap;

/// What a store holds, or a snapshot of one.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub checkpoint: Option<Checkpoint>,
    pub rows: BTreeMap<u64, Told>,
    pub accepted: Vec<Accepted>,
    /// What it should hold.
    pub expected: Expected,
}

impl Disk {
    pub fn position(&self) -> u64 {
        self.checkpoint.map_or(0, |checkpoint| checkpoint.position)
    }

    pub fn commit(&mut self, transaction: &Transaction<Tales>, expected: Expected) {
        self.rows.extend(transaction.rows.iter().copied());
        for tale in &transaction.collected {
            self.rows.remove(tale);
        }
        self.checkpoint = Some(transaction.checkpoint);
        self.expected = expected;
    }

    /// Moves on to where something was accepted, and records that it was.
    pub fn accept(&mut self, after: &Checkpoint, accepted: Accepted) {
        self.checkpoint = Some(*after);
        self.accepted.push(accepted);
        self.expected.at(after);
    }
}
