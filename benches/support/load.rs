//! Ready-made logs: chunk batches of interleaved streams, made before anything is measured.

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use stream_sum::Chunk;
use stream_sum::sum::chunk::SeqNo;
use stream_sum::sum::codec;
use stream_sum::sum::stream_id::{RunPrefix, StreamId};

/// Bytes of one batch: what a chunker fills by default.
const BATCH_BYTES: usize = 256 << 10;

/// Streams that are open at once, where nothing else is asked for: as many as a chunker has.
pub const LIVE_STREAMS: usize = 400;

/// What all logs together hold.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub partitions: u32,
    /// Chunks of data a stream; the closing chunk comes after them.
    pub chunks: u64,
    /// Bytes of data a chunk.
    pub chunk_bytes: usize,
    /// Streams that are open at once, over all partitions.
    pub live_streams: usize,
    /// Bytes of batches.
    pub bytes: u64,
}

/// A load, ready to be published.
pub struct Made {
    /// By partition.
    pub batches: Vec<Vec<Bytes>>,
    pub chunks: u64,
    /// Streams that have ended, by partition.
    pub completed: Vec<Vec<StreamId>>,
}

impl Load {
    pub fn make(self) -> Made {
        let mut made = Made { batches: vec![], chunks: 0, completed: vec![] };
        let mut ids = vec![Vec::new(); self.partitions as usize];
        let mut next_id = 0;
        for partition in 0..self.partitions {
            let mut turns = SmallRng::seed_from_u64(partition.into());
            let mut data = vec![0; self.chunk_bytes];
            turns.fill_bytes(&mut data);
            let mut open_one = || {
                while ids[partition as usize].is_empty() {
                    let id = StreamId::of_run(RunPrefix([7; 4]), next_id);
                    next_id += 1;
                    ids[id.partition(self.partitions) as usize].push(id);
                }
                (ids[partition as usize].remove(0), SeqNo::FIRST)
            };
            let live = (self.live_streams / self.partitions as usize).max(1);
            let mut open: Vec<_> = (0..live).map(|_| open_one()).collect();
            let (mut batches, mut payload, mut bytes, mut completed) = (Vec::new(), Vec::new(), 0, Vec::new());
            while bytes < self.bytes / u64::from(self.partitions) {
                let turn = turns.random_range(0..open.len());
                let (id, seq_no) = open[turn];
                let closes = seq_no.get() > self.chunks;
                codec::encode_chunk(&mut payload, &Chunk { id, seq_no, data: if closes { &[] } else { &data } });
                made.chunks += 1;
                if closes {
                    completed.push(id);
                }
                open[turn] = if closes { open_one() } else { (id, seq_no.next()) };
                // A batch has room for one more chunk at least.
                if payload.len() + self.chunk_bytes + codec::CHUNK_OVERHEAD > BATCH_BYTES {
                    bytes += payload.len() as u64;
                    batches.push(std::mem::take(&mut payload).into());
                }
            }
            made.batches.push(batches);
            made.completed.push(completed);
        }
        made
    }
}

impl Made {
    pub fn bytes(&self) -> u64 {
        self.batches.iter().flatten().map(|batch| batch.len() as u64).sum()
    }

    pub fn completed(&self) -> u64 {
        self.completed.iter().map(|ids| ids.len() as u64).sum()
    }
}
