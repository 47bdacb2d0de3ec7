//! `Chunk` and `SeqNo`: what a chunker publishes and a summer folds.

use crate::sum::stream_id::StreamId;
use std::fmt;
use std::num::NonZeroU64;

/// The place of a chunk in its stream: 1 for the first, and 1 more for each that follows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqNo(NonZeroU64);

impl SeqNo {
    pub const FIRST: SeqNo = SeqNo(NonZeroU64::MIN);

    /// `None` for 0, which is no sequence number.
    pub fn new(n: u64) -> Option<Self> {
        NonZeroU64::new(n).map(Self)
    }

    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// The sequence number that extends a stream standing at this one.
    pub fn next(self) -> Self {
        // One chunk a nanosecond would take 584 years to get there.
        Self(self.0.checked_add(1).expect("a stream ends before 2^64 chunks"))
    }
}

impl fmt::Display for SeqNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SeqNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A piece of a stream's content, borrowed from the batch that carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    pub id: StreamId,
    pub seq_no: SeqNo,
    /// Empty in the chunk that closes the stream, and only there.
    pub data: &'a [u8],
}

impl Chunk<'_> {
    pub fn closes(&self) -> bool {
        self.data.is_empty()
    }
}
