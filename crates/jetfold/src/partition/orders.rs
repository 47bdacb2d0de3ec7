//! What a worker says to one of its partitions.

use crate::checkpoint::{Checkpoint, Position};
use crate::identity::accept::Loss;
use tokio::sync::{mpsc, watch};

/// What a worker is to do with a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// To fold it behind its owner, and publish nothing.
    Follow,
    /// To fold it. `from`: what its last owner has committed, if it is being handed over.
    Own { from: Option<Position> },
    /// To stop where it is, since another goes on: no snapshot is to be put away.
    HandOver,
}

/// What the worker says to one of its partitions.
pub struct Orders {
    pub duty: watch::Receiver<Duty>,
    /// What the owner has committed, as it tells whoever follows.
    pub told: watch::Receiver<Option<Checkpoint>>,
    /// Whether somebody follows.
    pub followed: watch::Receiver<bool>,
    /// What the operator accepts of what is in question.
    pub accepts: mpsc::Receiver<Loss>,
}
