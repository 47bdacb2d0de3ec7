//! The workload: content that any process can make again.
//!
//! The content of a stream is ChaCha8 keyed by seed and StreamId, so what its sum must be can be computed by
//! anybody who knows both.

use crate::sum::chunk::{Chunk, SeqNo};
use crate::sum::running::{RunningSum, Sum};
use crate::sum::stream_id::StreamId;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What one run makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    pub seed: u64,
    /// Chunks of data a stream; the closing chunk comes after them.
    pub chunks: u64,
    /// Bytes of data a chunk.
    pub chunk_bytes: usize,
}

impl Workload {
    fn content(&self, id: StreamId) -> ChaCha8Rng {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..24].copy_from_slice(id.as_bytes());
        ChaCha8Rng::from_seed(key)
    }

    /// What the sum of a stream of this workload must be.
    pub fn expected(&self, id: StreamId) -> Sum {
        let mut stream = LiveStream::open(self, id, 0);
        let mut buffer = Vec::new();
        loop {
            if let (_, Some(sum)) = stream.next(self, &mut buffer) {
                return sum;
            }
        }
    }
}

/// A stream that is being made.
pub struct LiveStream {
    id: StreamId,
    partition: u32,
    content: ChaCha8Rng,
    sum: Option<RunningSum>,
}

impl LiveStream {
    pub fn open(workload: &Workload, id: StreamId, partition: u32) -> Self {
        Self { id, partition, content: workload.content(id), sum: None }
    }

    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// The next chunk, and with the closing one the sum of all.
    pub fn next<'a>(&mut self, workload: &Workload, buffer: &'a mut Vec<u8>) -> (Chunk<'a>, Option<Sum>) {
        let seq_no = self.sum.as_ref().map_or(SeqNo::FIRST, |sum| sum.seq_no().next());
        let closes = seq_no.get() > workload.chunks;
        buffer.resize(if closes { 0 } else { workload.chunk_bytes }, 0);
        self.content.fill_bytes(buffer);
        let chunk = Chunk { id: self.id, seq_no, data: buffer };
        match &mut self.sum {
            None => self.sum = Some(RunningSum::open(&chunk)),
            Some(sum) => sum.update(&chunk).expect("chunks are made in order"),
        }
        let sum = self.sum.as_ref().filter(|_| closes);
        (chunk, sum.map(|sum| Sum { id: self.id, seq_no, value: sum.value() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKLOAD: Workload = Workload { seed: 7, chunks: 5, chunk_bytes: 33 };

    fn id(n: u8) -> StreamId {
        StreamId::new([n; 16])
    }

    #[test]
    fn content_depends_on_seed_and_id_alone() {
        let other = Workload { seed: 8, ..WORKLOAD };
        assert_eq!(WORKLOAD.expected(id(1)), WORKLOAD.expected(id(1)));
        assert_ne!(WORKLOAD.expected(id(1)).value, other.expected(id(1)).value);
        assert_ne!(WORKLOAD.expected(id(1)).value, WORKLOAD.expected(id(2)).value);
    }

    /// Another process, of another version, recomputes these: they must never change.
    #[test]
    fn content_is_the_same_for_ever() {
        let known = Workload { seed: 1, chunks: 3, chunk_bytes: 32 };
        assert_eq!(known.expected(id(0)).value.to_string(), "2d7bf73125e25d01e0518f3a49c2d12b241cbffc");
    }

    #[test]
    fn a_stream_without_data_is_the_closing_chunk_alone() {
        let empty = Workload { chunks: 0, ..WORKLOAD };
        let sum = empty.expected(id(1));
        assert_eq!((sum.seq_no.get(), sum.value.to_string().as_str()), (1, "da39a3ee5e6b4b0d3255bfef95601890afd80709"));
    }
}
