//! One partition's lane: a batch that fills while the one before is in flight.

use crate::run::presence::Moment;
use crate::run::report::Reason;
use crate::sum::chunk::Chunk;
use crate::sum::codec::encode_chunk;
use crate::sum::stream_id::StreamId;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;

/// The run has ended: nothing more is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the run has ended")]
pub struct Closed;

/// That a lane gets no acknowledgements, and what waits for it meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standstill {
    pub since: Moment,
    pub reason: Reason,
    /// Streams whose closing chunks are in the batch that is sent again and again.
    pub closings: usize,
}

/// Encoded chunks of one partition, in order.
#[derive(Default)]
pub(super) struct Block {
    pub payload: Vec<u8>,
    /// Streams whose closing chunks are among them.
    pub closings: Vec<StreamId>,
}

impl Block {
    pub fn add(&mut self, chunk: &Chunk<'_>) {
        encode_chunk(&mut self.payload, chunk);
        if chunk.closes() {
            self.closings.push(chunk.id);
        }
    }
}

/// A batch that fills.
#[derive(Default)]
struct Filling {
    block: Block,
    /// Nothing more comes: what is there is sent, and the lane ends.
    finished: bool,
    /// Nothing more is taken.
    closed: bool,
}

/// Counts how often a lane was emptied, for those who wait for room in any of several.
#[derive(Default)]
pub(super) struct Emptied {
    times: Mutex<u64>,
    changed: Condvar,
    /// The same number, for those who only look.
    shown: AtomicU64,
}

impl Emptied {
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.times.lock().expect("nothing panics while it holds a number")
    }

    fn count(&self) {
        let mut times = self.lock();
        *times += 1;
        self.shown.store(*times, Ordering::Release);
        self.changed.notify_all();
    }

    pub fn times(&self) -> u64 {
        self.shown.load(Ordering::Acquire)
    }

    /// Waits until it was counted beyond `seen`, or for so long.
    pub fn wait(&self, seen: u64, longest: Duration) {
        let unchanged = |times: &mut u64| *times == seen;
        let waited = self.changed.wait_timeout_while(self.lock(), longest, unchanged);
        drop(waited.expect("nothing panics while it holds a number"));
    }
}

/// One partition's lane, between those who fill a batch and the one who takes it.
pub(super) struct Lane {
    filling: Mutex<Filling>,
    /// There is room again, or the lane is closed.
    room: Condvar,
    /// The same for all lanes.
    pub emptied: Arc<Emptied>,
    /// Streams that wait for room, as those who make them say.
    pub beside: AtomicUsize,
    standstill: Mutex<Option<Standstill>>,
    ready: Notify,
    /// Bytes of one batch, at the most; a chunk that is larger travels alone.
    pub limit: usize,
}

impl Lane {
    pub fn new(limit: usize, emptied: Arc<Emptied>) -> Self {
        Self {
            filling: Mutex::default(),
            room: Condvar::new(),
            emptied,
            beside: AtomicUsize::new(0),
            standstill: Mutex::default(),
            ready: Notify::new(),
            limit,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Filling> {
        self.filling.lock().expect("nothing panics while it holds a lane")
    }

    /// Whether the batch that fills has no room for so many bytes.
    fn is_full(&self, filling: &Filling, needed: usize) -> bool {
        let filled = filling.block.payload.len();
        !filling.closed && filled > 0 && filled + needed > self.limit
    }

    /// Adds chunks to the batch that fills, and leaves `block` empty. Blocks the thread while the batch is full.
    pub fn push(&self, block: &mut Block) -> Result<(), Closed> {
        let needed = block.payload.len();
        let no_room = |filling: &mut Filling| self.is_full(filling, needed);
        let filling = self.room.wait_while(self.lock(), no_room).expect("nothing panics while it holds a lane");
        self.add(filling, block)
    }

    /// The same, but does nothing where the batch is full: then this is false.
    pub fn try_push(&self, block: &mut Block) -> Result<bool, Closed> {
        let filling = self.lock();
        if self.is_full(&filling, block.payload.len()) {
            return Ok(false);
        }
        self.add(filling, block).map(|()| true)
    }

    fn add(&self, mut filling: MutexGuard<'_, Filling>, block: &mut Block) -> Result<(), Closed> {
        if filling.closed || filling.finished {
            return Err(Closed);
        }
        filling.block.payload.append(&mut block.payload);
        filling.block.closings.append(&mut block.closings);
        drop(filling);
        self.ready.notify_one();
        Ok(())
    }

    /// Since when, and why, its batch is not acknowledged.
    pub fn standstill(&self) -> MutexGuard<'_, Option<Standstill>> {
        self.standstill.lock().expect("nothing panics while it holds a standstill")
    }

    /// Streams that have chunks for this lane which are not stored.
    pub fn waiting(&self, standstill: &Standstill) -> u64 {
        let filling = self.lock().block.closings.len();
        (self.beside.load(Ordering::Relaxed) + filling + standstill.closings) as u64
    }

    pub fn finish(&self) {
        self.lock().finished = true;
        self.ready.notify_one();
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.room.notify_all();
        self.emptied.count();
        self.ready.notify_one();
    }

    /// The batch that has filled, as soon as there is one; `None` where nothing more comes.
    pub async fn take(&self) -> Option<Block> {
        loop {
            {
                let mut filling = self.lock();
                if filling.closed {
                    return None;
                }
                if !filling.block.payload.is_empty() {
                    // Of one size, whatever it fills to: what is freed fits the next.
                    let next = Block { payload: Vec::with_capacity(self.limit), closings: Vec::new() };
                    let block = std::mem::replace(&mut filling.block, next);
                    drop(filling);
                    self.room.notify_all();
                    self.emptied.count();
                    return Some(block);
                }
                if filling.finished {
                    return None;
                }
            }
            self.ready.notified().await;
        }
    }
}
