//! What goes into a fold and what comes out: batches of a log, the effects of each, and the transaction that gathers what
//! has changed since the last.

use crate::checkpoint::{Checkpoint, Position};
use crate::chunk::SeqNo;
use crate::reject::RejectedBatch;
use crate::row::{Expiry, Row, UnixNanos};
use crate::stream_id::StreamId;
use crate::sum::Sum;
use bytes::Bytes;

/// What every fold of a partition must agree on; it stands in the log's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub partition: u32,
    pub partitions: u32,
    /// The most data, in bytes, that one chunk may hold.
    pub max_chunk_bytes: usize,
    pub expiry: Expiry,
}

/// A chunk batch as the log holds it.
#[derive(Clone, Debug)]
pub struct Batch {
    pub position: Position,
    /// The server's timestamp of the message.
    pub time: UnixNanos,
    pub payload: Bytes,
}

/// How many chunks met which fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Chunks decoded.
    pub chunks: u64,
    /// Bytes of data folded into sums.
    pub bytes: u64,
    pub opened: u64,
    pub completed: u64,
    pub duplicates: u64,
    /// Chunks rejected; an undecodable batch counts as one.
    pub rejected: u64,
    /// Those of the rejected that prove loss.
    pub gaps: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        self.chunks += other.chunks;
        self.bytes += other.bytes;
        self.opened += other.opened;
        self.completed += other.completed;
        self.duplicates += other.duplicates;
        self.rejected += other.rejected;
        self.gaps += other.gaps;
    }
}

/// What folding one batch asks of the world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folded {
    /// Finals to publish, in the order in which their streams ended.
    pub finals: Vec<Sum>,
    /// The batch, where something of it was rejected.
    pub rejected: Option<RejectedBatch>,
    /// A chunk that came after a gap, where there was one: loss is proven.
    pub gap: Option<(StreamId, SeqNo)>,
    pub tally: Tally,
}

/// All that changed between two checkpoints, ready to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    pub number: u64,
    /// Changed rows, each once, in the order of their first change.
    pub rows: Vec<(StreamId, Row)>,
    /// Streams whose rows have expired, and are no longer needed.
    pub collected: Vec<StreamId>,
    /// Where the store stands once this is committed. Its `sums` is still that of the transaction before.
    pub checkpoint: Checkpoint,
    pub tally: Tally,
}
