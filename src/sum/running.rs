//! `Sum` and `RunningSum`: the SHA-1 of a stream, finished and under way.

use crate::sum::chunk::{Chunk, SeqNo};
use crate::sum::stream_id::StreamId;
use sha1::digest::common::hazmat::SerializableState;
use sha1::{Digest, Sha1};
use std::fmt;

/// A SHA-1 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Value(pub [u8; 20]);

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The SHA-1 of all data of stream `id` through chunk `seq_no`; final when `seq_no` is the closing chunk's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    pub id: StreamId,
    pub seq_no: SeqNo,
    pub value: Value,
}

/// Blocks of 64 bytes that a sum may have at the most: with one more bit than 2^64 its length can't be told. Half of them, so that
/// whatever comes next still can.
const MOST_BLOCKS: u64 = u64::MAX / 512 / 2;

/// A SHA-1 that is still being extended, and the chunk it stands at.
#[derive(Clone)]
pub struct RunningSum {
    seq_no: SeqNo,
    sha1: Sha1,
}

/// Why a chunk does not extend a running sum.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("chunk {found} does not follow chunk {at}")]
pub struct OutOfOrder {
    pub at: SeqNo,
    pub found: SeqNo,
}

impl RunningSum {
    /// Bytes of a saved state.
    pub const STATE_BYTES: usize = 92;

    /// The sum of a stream's first chunk.
    ///
    /// # Panics
    /// If `chunk` is not the first: whoever calls has decided that it is.
    pub fn open(chunk: &Chunk<'_>) -> Self {
        assert_eq!(chunk.seq_no, SeqNo::FIRST, "a stream opens with its first chunk");
        Self { seq_no: chunk.seq_no, sha1: Sha1::new_with_prefix(chunk.data) }
    }

    /// Adds the chunk that follows; any other is refused and changes nothing.
    pub fn update(&mut self, chunk: &Chunk<'_>) -> Result<(), OutOfOrder> {
        // The number before it is looked at: a row that somebody has made up may stand at the last number there is.
        if chunk.seq_no.get() - 1 != self.seq_no.get() && !jetfold::planted!("a-gap-is-folded") {
            return Err(OutOfOrder { at: self.seq_no, found: chunk.seq_no });
        }
        self.seq_no = chunk.seq_no;
        self.sha1.update(chunk.data);
        Ok(())
    }

    pub fn seq_no(&self) -> SeqNo {
        self.seq_no
    }

    pub fn value(&self) -> Value {
        Value(self.sha1.clone().finalize().into())
    }

    /// The state in mid-block, from which [`RunningSum::resume`] goes on.
    pub fn state(&self) -> [u8; Self::STATE_BYTES] {
        self.sha1.serialize().into()
    }

    /// `None` where `state` is not one that [`RunningSum::state`] gave.
    pub fn resume(seq_no: SeqNo, state: [u8; Self::STATE_BYTES]) -> Option<Self> {
        // Behind five words of the digest: how many blocks there were. SHA-1 counts bits, and nobody has summed so many.
        let blocks = u64::from_le_bytes(state[20..28].try_into().expect("8 bytes"));
        if blocks > MOST_BLOCKS {
            return None;
        }
        let sha1 = Sha1::deserialize(&state.into()).ok()?;
        Some(Self { seq_no, sha1 })
    }
}

impl PartialEq for RunningSum {
    fn eq(&self, other: &Self) -> bool {
        self.seq_no == other.seq_no && self.state() == other.state()
    }
}

impl Eq for RunningSum {}

impl fmt::Debug for RunningSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} through {}", self.value(), self.seq_no)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(seq_no: u64, data: &[u8]) -> Chunk<'_> {
        Chunk { id: StreamId::new([7; 16]), seq_no: SeqNo::new(seq_no).unwrap(), data }
    }

    #[test]
    fn a_saved_sum_resumes_at_every_place_within_a_block() {
        let content: Vec<u8> = (0..200u8).collect();
        let whole = Value(Sha1::digest(&content).into());
        for split in 0..=content.len() {
            let (head, tail) = content.split_at(split);
            let saved = RunningSum::open(&chunk(1, head));
            let mut resumed = RunningSum::resume(saved.seq_no(), saved.state()).unwrap();
            resumed.update(&chunk(2, tail)).unwrap();
            assert_eq!(resumed.value(), whole);
        }
    }

    #[test]
    fn only_the_next_chunk_extends_a_sum() {
        let mut sum = RunningSum::open(&chunk(1, b"battery"));
        let before = sum.clone();
        for seq_no in [1, 3] {
            assert!(sum.update(&chunk(seq_no, b"x")).is_err());
            assert_eq!(sum, before);
        }
        sum.update(&chunk(2, b" horse")).unwrap();
        assert_eq!(sum.value().to_string(), "4b177dc1bb6960eddba2d012b9e29ef727b1d593");
    }

    #[test]
    fn a_state_that_is_none_is_refused() {
        assert!(RunningSum::resume(SeqNo::FIRST, [0xff; RunningSum::STATE_BYTES]).is_none());
        let mut state = RunningSum::open(&chunk(1, &[7; 64])).state();
        assert_eq!(state[20..28], 1u64.to_le_bytes(), "where the blocks are counted");
        state[27] = 1;
        assert!(RunningSum::resume(SeqNo::FIRST, state).is_none(), "more blocks than SHA-1 can count");
    }

    #[test]
    fn nothing_follows_the_last_number_there_is() {
        let last = SeqNo::new(u64::MAX).unwrap();
        let mut sum = RunningSum::resume(last, RunningSum::open(&chunk(1, b"x")).state()).unwrap();
        assert!(sum.update(&chunk(u64::MAX, b"x")).is_err());
    }
}
