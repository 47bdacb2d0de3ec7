//! `Outbox`: chunks that one thread is about to hand in, to whichever lane has room.

use crate::run::lane::{Block, Closed, Emptied};
use crate::run::lanes::LaneEntries;
use crate::sum::chunk::Chunk;
use crate::sum::codec::CHUNK_OVERHEAD;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Waits for room end so soon at the latest, as nothing else ends them where a run is stopped.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// Bytes of one lane's chunks that a thread holds back at the most.
const BLOCK_BYTES: usize = 16 << 10;

/// Chunks that one thread is about to hand in. A lane is shared, and locked for each block of chunks, not for each chunk.
///
/// Nothing here blocks on a lane that is full: what it does not take is held back, and the thread makes no more of it.
pub struct Outbox {
    entries: LaneEntries,
    blocks: Vec<Block>,
    /// The most bytes of an encoded chunk.
    most: usize,
    /// Partitions whose lanes had no room for what is held back.
    refused: BTreeSet<u32>,
    /// Partitions that were among them, and are no longer.
    freed: Vec<u32>,
    /// How often lanes had been emptied when those were tried last.
    seen: u64,
    /// By partition, the streams that were said to wait.
    told: BTreeMap<u32, usize>,
}

impl Outbox {
    /// For chunks of `data` bytes at the most.
    pub fn new(entries: LaneEntries, data: usize) -> Self {
        let blocks = entries.0.iter().map(|_| Block::default()).collect();
        let (refused, freed, told) = (BTreeSet::new(), Vec::new(), BTreeMap::new());
        Self { entries, blocks, most: data + CHUNK_OVERHEAD, refused, freed, seen: 0, told }
    }

    /// Adds a chunk for the lane of its partition. To be asked first: whether there [is room](Self::has_room).
    pub fn push(&mut self, partition: u32, chunk: &Chunk<'_>) {
        self.blocks[partition as usize].add(chunk);
    }

    /// Whether one more chunk may be made for a partition. Hands in what is held back where it has to.
    pub fn has_room(&mut self, partition: u32) -> Result<bool, Closed> {
        let (lane, block) = (&self.entries.0[partition as usize], &self.blocks[partition as usize]);
        // No block is larger than a batch unless a single chunk is.
        let fits = block.payload.is_empty() || block.payload.len() + self.most <= BLOCK_BYTES.min(lane.limit);
        if fits { Ok(true) } else { self.hand_in(partition) }
    }

    /// Hands in what is held back for one partition; false where its lane has no room.
    pub fn hand_in(&mut self, partition: u32) -> Result<bool, Closed> {
        let (lane, block) = (&self.entries.0[partition as usize], &mut self.blocks[partition as usize]);
        let is_done = block.payload.is_empty() || lane.try_push(block)?;
        if !is_done {
            self.refused.insert(partition);
        } else if self.refused.remove(&partition) {
            self.freed.push(partition);
        }
        Ok(is_done)
    }

    /// Hands in all that is held back and that lanes have room for.
    pub fn hand_in_all(&mut self) -> Result<(), Closed> {
        (0..self.entries.partitions()).try_for_each(|partition| self.hand_in(partition).map(drop))
    }

    /// Tries again what was refused, where a lane was emptied since.
    pub fn try_again(&mut self) -> Result<(), Closed> {
        if self.refused.is_empty() {
            return Ok(());
        }
        let emptied = self.entries.emptied().map_or(0, Emptied::times);
        if std::mem::replace(&mut self.seen, emptied) == emptied {
            return Ok(());
        }
        let refused: Vec<u32> = self.refused.iter().copied().collect();
        refused.into_iter().try_for_each(|partition| self.hand_in(partition).map(drop))
    }

    /// The partitions whose lanes had no room and have taken what was held back, since this was asked last.
    pub fn freed(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.freed)
    }

    /// Waits for as long as this at the most: less where something was refused, and a lane is emptied.
    pub fn wait(&self, longest: Duration) {
        match self.entries.emptied().filter(|_| !self.refused.is_empty()) {
            Some(emptied) => emptied.wait(self.seen, longest),
            None => std::thread::sleep(longest),
        }
    }

    /// Hands in all that is held back, however long lanes have no room for it.
    pub fn flush(&mut self) -> Result<(), Closed> {
        self.hand_in_all()?;
        for partition in self.refused.clone() {
            self.tell_waiting(partition, 0);
        }
        while !self.refused.is_empty() {
            self.wait(LONGEST_WAIT);
            self.try_again()?;
            for partition in self.freed() {
                self.tell_waiting(partition, 0);
            }
        }
        Ok(())
    }

    /// Says that so many open streams wait for the lane of a partition; those whose last chunks are held back here come on top.
    pub fn tell_waiting(&mut self, partition: u32, open: usize) {
        let closed = self.blocks[partition as usize].closings.len();
        let now = if self.refused.contains(&partition) { open + closed } else { 0 };
        let before = self.told.insert(partition, now).unwrap_or(0);
        // Added, it wraps around to the difference.
        self.entries.0[partition as usize].beside.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::lane::{Lane, Standstill};
    use crate::run::report::Reason;
    use crate::sum::chunk::SeqNo;
    use crate::sum::stream_id::StreamId;
    use std::sync::Arc;
    use std::time::Instant;

    const DATA: usize = 8000;

    /// Two lanes with room for one large chunk each.
    fn lanes() -> (Vec<Arc<Lane>>, Outbox) {
        let emptied = Arc::<Emptied>::default();
        let lanes: Vec<_> = (0..2).map(|_| Arc::new(Lane::new(DATA + 100, emptied.clone()))).collect();
        let outbox = Outbox::new(LaneEntries(lanes.clone()), DATA);
        (lanes, outbox)
    }

    fn push(outbox: &mut Outbox, partition: u32, n: u64, data: usize) -> bool {
        let chunk = Chunk { id: StreamId::new([7; 16]), seq_no: SeqNo::new(n).unwrap(), data: &vec![1; data] };
        outbox.push(partition, &chunk);
        outbox.has_room(partition).unwrap()
    }

    #[tokio::test]
    async fn a_lane_without_room_refuses_and_another_takes_what_it_gets() {
        let (lanes, mut outbox) = lanes();
        assert!(push(&mut outbox, 0, 1, DATA), "it is in the lane");
        assert!(!push(&mut outbox, 0, 2, DATA), "it is held back");
        (1..=9).for_each(|n| assert!(push(&mut outbox, 1, n, 100)));
        outbox.try_again().unwrap();
        assert!(outbox.freed().is_empty(), "nothing was emptied");
        let first = lanes[0].take().await.unwrap();
        outbox.try_again().unwrap();
        assert_eq!(outbox.freed(), [0]);
        assert!(outbox.freed().is_empty(), "said once");
        assert_eq!(lanes[0].take().await.unwrap().payload.len(), first.payload.len());
    }

    #[tokio::test]
    async fn who_waits_for_a_lane_is_woken_when_any_is_emptied_and_when_all_close() {
        let (lanes, mut outbox) = lanes();
        (1..3).for_each(|n| _ = push(&mut outbox, 0, n, DATA));
        let began = Instant::now();
        outbox.wait(Duration::from_millis(20));
        assert!(began.elapsed() >= Duration::from_millis(20));
        lanes[0].take().await.unwrap();
        outbox.wait(Duration::from_secs(60));
        assert!(began.elapsed() < Duration::from_secs(30));
        lanes.iter().for_each(|lane| lane.close());
        assert_eq!((outbox.flush(), outbox.hand_in(0)), (Err(Closed), Err(Closed)));
    }

    #[test]
    fn what_waits_is_what_was_told_and_the_closings_on_the_way() {
        let (lanes, mut outbox) = lanes();
        push(&mut outbox, 0, 1, DATA);
        assert!(push(&mut outbox, 0, 2, 0), "a closing chunk, held back");
        assert!(!push(&mut outbox, 0, 3, DATA), "no room for it");
        let standstill = Standstill { since: Duration::ZERO, reason: Reason::LogFull, closings: 3 };
        assert_eq!(lanes[0].waiting(&standstill), 3);
        for (told, waiting) in [(5, 9), (2, 6), (0, 4)] {
            outbox.tell_waiting(0, told);
            assert_eq!(lanes[0].waiting(&standstill), waiting);
        }
    }
}
