//! What goes into a fold and what comes out: messages of a log, the effects of each, and the transaction that gathers what
//! has changed since the last.

use crate::application::{self, Application};
use crate::checkpoint::{Checkpoint, Position};
use crate::producer::ChangedProducer;
use crate::refused::RejectedBatch;
use crate::stamp::Stamp;
use crate::time::UnixNanos;
use bytes::Bytes;

/// A batch of records as the log holds it.
#[derive(Clone, Debug)]
pub struct Batch {
    pub position: Position,
    /// The server's timestamp of the message.
    pub time: UnixNanos,
    pub payload: Bytes,
    /// Which batch of which producer it is, if it says so.
    pub stamp: Option<Stamp>,
}

/// How many records met which fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally<T> {
    /// Records decoded, but for those of batches that came again.
    pub records: u64,
    /// Batches that came again, and were dropped: their stamps say so.
    pub again: u64,
    /// Keys that had no row, and have one.
    pub opened: u64,
    /// Records rejected; an undecodable batch counts as one.
    pub rejected: u64,
    /// Those of the rejected that prove loss.
    pub losses: u64,
    /// What the application counts.
    pub own: T,
}

impl<T: application::Tally> Tally<T> {
    pub fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.again += other.again;
        self.opened += other.opened;
        self.rejected += other.rejected;
        self.losses += other.losses;
        self.own.add(&other.own);
    }
}

/// What folding one batch asks of the world.
#[derive(Clone, Debug, PartialEq)]
pub struct Folded<A: Application> {
    /// What is to be published, in the order in which it was put out.
    pub outputs: Vec<A::Output>,
    /// The batch, if something of it was rejected.
    pub rejected: Option<RejectedBatch>,
    /// What is lost, if the batch proves that something is: the first of it.
    pub loss: Option<String>,
    pub tally: Tally<A::Tally>,
}

/// All that changed between two checkpoints, ready to be committed.
#[derive(Clone, Debug, PartialEq)]
pub struct Transaction<A: Application> {
    pub number: u64,
    /// Changed rows, each once, in the order of their first change.
    pub rows: Vec<(A::Key, A::Row)>,
    /// Keys whose rows are forgotten, and leave the store.
    pub collected: Vec<A::Key>,
    /// What has become of producers, each once, by name.
    pub producers: Vec<ChangedProducer>,
    /// Where the store stands once this is committed. The committer fills in the marks; until then they are out of date.
    pub checkpoint: Checkpoint,
    pub tally: Tally<A::Tally>,
}
