//! `Interleaved`: streams that are open at once and take turns at random, but for those that are parked.

use crate::run::workload::{LiveStream, Workload};
use crate::sum::chunk::Chunk;
use crate::sum::running::Sum;
use crate::sum::stream_id::StreamId;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::BTreeMap;

/// What one turn of one stream has made.
pub struct Turn<'a> {
    pub partition: u32,
    pub chunk: Chunk<'a>,
    /// The sum of the whole stream, where this chunk closes it.
    pub sum: Option<Sum>,
}

/// Streams that are open at once. The order in which they take turns is drawn from the seed; what each is made of does not
/// depend on it.
pub struct Interleaved {
    workload: Workload,
    partitions: u32,
    live: Vec<LiveStream>,
    /// Streams that take no turns, by the partitions that are parked.
    parked: BTreeMap<u32, Vec<LiveStream>>,
    /// Streams that are live or parked.
    open: usize,
    turns: ChaCha8Rng,
    buffer: Vec<u8>,
}

impl Interleaved {
    /// `worker` tells apart the turns of several generators of one seed.
    pub fn new(workload: Workload, partitions: u32, worker: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&workload.seed.to_le_bytes());
        key[24..].copy_from_slice(&(worker + 1).to_le_bytes());
        let (live, parked, turns) = (Vec::new(), BTreeMap::new(), ChaCha8Rng::from_seed(key));
        Self { workload, partitions, live, parked, open: 0, turns, buffer: Vec::new() }
    }

    /// Opens a stream, and says of which partition it is.
    pub fn open(&mut self, id: StreamId) -> u32 {
        let partition = id.partition(self.partitions);
        let stream = LiveStream::open(&self.workload, id, partition);
        self.parked.get_mut(&partition).unwrap_or(&mut self.live).push(stream);
        self.open += 1;
        partition
    }

    /// Streams that take turns.
    pub fn live(&self) -> usize {
        self.live.len()
    }

    /// Streams that are open: those that take turns, and those that are parked.
    pub fn open_streams(&self) -> usize {
        self.open
    }

    /// Whether a partition is parked, with streams or without.
    pub fn has_parked(&self) -> bool {
        !self.parked.is_empty()
    }

    /// Whether every partition is.
    pub fn all_parked(&self) -> bool {
        self.parked.len() == self.partitions as usize
    }

    /// How many streams of a partition take no turns; `None` where it is not parked.
    pub fn parked_streams(&self, partition: u32) -> Option<usize> {
        self.parked.get(&partition).map(Vec::len)
    }

    /// Streams of this partition take no turns until it is unparked, those that are opened meanwhile included.
    pub fn park(&mut self, partition: u32) {
        let streams = self.live.extract_if(.., |stream| stream.partition() == partition);
        self.parked.entry(partition).or_default().extend(streams);
    }

    pub fn unpark(&mut self, partition: u32) {
        self.live.append(&mut self.parked.remove(&partition).unwrap_or_default());
    }

    /// The next chunk of a stream drawn at random; `None` where none takes turns.
    pub fn next_chunk(&mut self) -> Option<Turn<'_>> {
        if self.live.is_empty() {
            return None;
        }
        let drawn = (u64::from(self.turns.next_u32()) * self.live.len() as u64) >> 32;
        let drawn = usize::try_from(drawn).expect("below the number of live streams");
        let stream = &mut self.live[drawn];
        let partition = stream.partition();
        let (chunk, sum) = stream.next(&self.workload, &mut self.buffer);
        if sum.is_some() {
            self.live.swap_remove(drawn);
            self.open -= 1;
        }
        Some(Turn { partition, chunk, sum })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha1::{Digest, Sha1};
    use std::collections::{HashMap, HashSet};

    const WORKLOAD: Workload = Workload { seed: 7, chunks: 5, chunk_bytes: 33 };

    fn id(n: u8) -> StreamId {
        StreamId::new([n; 16])
    }

    /// Streams 0 to 19 over three partitions.
    fn twenty() -> Interleaved {
        let mut streams = Interleaved::new(WORKLOAD, 3, 0);
        (0..20).for_each(|n| _ = streams.open(id(n)));
        streams
    }

    #[test]
    fn interleaved_streams_sum_to_what_anybody_can_recompute() {
        let mut streams = twenty();
        let mut contents: HashMap<StreamId, Vec<u8>> = HashMap::new();
        let mut order = Vec::new();
        while let Some(Turn { partition, chunk, sum }) = streams.next_chunk() {
            assert_eq!(partition, chunk.id.partition(3));
            order.push(chunk.id);
            contents.entry(chunk.id).or_default().extend_from_slice(chunk.data);
            if let Some(sum) = sum {
                assert!(chunk.closes());
                assert_eq!(sum, WORKLOAD.expected(chunk.id));
                assert_eq!(sum.seq_no.get(), 6);
                assert_eq!(sum.value.0, <[u8; 20]>::from(Sha1::digest(&contents[&chunk.id])));
            }
        }
        assert_eq!(order.len(), 20 * 6);
        assert!(contents.values().all(|content| content.len() == 5 * 33));
        assert!(order.windows(2).filter(|pair| pair[0] != pair[1]).count() > 60, "interleaved");
    }

    #[test]
    fn a_parked_partition_takes_no_turns_and_its_streams_are_what_they_would_have_been() {
        let mut streams = twenty();
        for _ in 0..40 {
            streams.next_chunk().unwrap();
        }
        let before = streams.live();
        streams.park(1);
        let begun = streams.parked_streams(1).unwrap();
        assert!(begun > 0 && streams.live() + begun == before && streams.open_streams() == before);
        let late = (20..).map(id).find(|id| id.partition(3) == 1).unwrap();
        streams.open(late);
        assert_eq!(streams.parked_streams(1), Some(begun + 1));
        while let Some(Turn { partition, .. }) = streams.next_chunk() {
            assert_ne!(partition, 1);
        }
        streams.unpark(1);
        assert_eq!((streams.live(), streams.parked_streams(1)), (begun + 1, None));
        let mut closed = HashSet::new();
        while let Some(Turn { chunk, sum, .. }) = streams.next_chunk() {
            if let Some(sum) = sum {
                assert_eq!(sum, WORKLOAD.expected(chunk.id));
                closed.insert(chunk.id);
            }
        }
        assert!(closed.len() == begun + 1 && closed.contains(&late));
    }
}
