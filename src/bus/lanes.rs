//! The chunk publisher: one lane a partition, one batch in flight on each.
//!
//! While a batch travels, the next fills: little load makes small batches and low latency, much load large ones, and
//! no timer is involved. An ack that stays out leaves the outcome unknown, so the same batch is sent again, and the
//! fold drops what it has already. With one batch in flight, chunks can't overtake each other: a gap always means loss.
//!
//! A lane that is full takes nothing until its batch is acknowledged. Who has chunks for several lanes tries each, and waits
//! only where none has room: so a log that takes nothing holds up its own streams, and those of no other.

use crate::bus::backoff;
use crate::bus::connect::Connection;
use crate::bus::names::Names;
use crate::bus::publish::{Refusal, Throttle, publish};
use crate::chunk::Chunk;
use crate::codec::{CHUNK_OVERHEAD, encode_chunk};
use crate::joined::joined;
use crate::presence::Moment;
use crate::report::{Reason, Waiting};
use crate::stream_id::StreamId;
use crate::verify::{BatchPlace, Ledger};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The run has ended: nothing more is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the run has ended")]
pub struct Closed;

#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    #[error(
        "the log {log} has been full for {} ({cause}): start summers, raise topology.log_max_bytes, or purge what is folded",
        humantime::format_duration(*waited)
    )]
    LogFull { log: String, waited: Duration, cause: String },
    #[error("a batch of {bytes} bytes for the log {log} is more than the server takes: lower chunker.batch_bytes")]
    TooLarge { log: String, bytes: usize },
    #[error("no chunk was acknowledged by the log {log} for {} ({cause}): see that NATS is up", humantime::format_duration(*waited))]
    Stuck { log: String, waited: Duration, cause: String },
}

/// A log that has been full for so long is told of.
const WORTH_A_LINE: Duration = Duration::from_millis(500);

/// Waits for room end so soon at the latest, as nothing else ends them where a run is stopped.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// How long a lane goes on without an ack.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// While its log is full.
    pub full: Duration,
    /// While the outcome is unknown; `None`: for as long as NATS is away.
    pub unknown: Option<Duration>,
}

/// That a lane gets no acknowledgements, and what waits for it meanwhile.
#[derive(Clone, Copy, Debug)]
struct Standstill {
    since: Moment,
    reason: Reason,
    /// Streams whose closing chunks are in the batch that is sent again and again.
    closings: usize,
}

/// Encoded chunks of one partition, in order.
#[derive(Default)]
struct Block {
    payload: Vec<u8>,
    /// Streams whose closing chunks are among them.
    closings: Vec<StreamId>,
}

impl Block {
    fn add(&mut self, chunk: &Chunk<'_>) {
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
struct Emptied {
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

    /// Waits until it was counted beyond `seen`, or for so long.
    fn wait(&self, seen: u64, longest: Duration) {
        let unchanged = |times: &mut u64| *times == seen;
        let waited = self.changed.wait_timeout_while(self.lock(), longest, unchanged);
        drop(waited.expect("nothing panics while it holds a number"));
    }
}

/// The filling end of one partition's lane.
pub struct Lane {
    filling: Mutex<Filling>,
    /// There is room again, or the lane is closed.
    room: Condvar,
    /// The same for all lanes.
    emptied: Arc<Emptied>,
    /// Streams that wait for room, as those who make them say.
    beside: AtomicUsize,
    standstill: Mutex<Option<Standstill>>,
    ready: Notify,
    /// Bytes of one batch, at the most; a chunk that is larger travels alone.
    limit: usize,
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, Filling> {
        self.filling.lock().expect("nothing panics while it holds a lane")
    }

    /// Whether the batch that fills has no room for so many bytes.
    fn is_full(&self, filling: &Filling, needed: usize) -> bool {
        let filled = filling.block.payload.len();
        !filling.closed && filled > 0 && filled + needed > self.limit
    }

    /// Adds chunks to the batch that fills, and leaves `block` empty. Blocks the thread while the batch is full.
    fn push(&self, block: &mut Block) -> Result<(), Closed> {
        let needed = block.payload.len();
        let no_room = |filling: &mut Filling| self.is_full(filling, needed);
        let filling = self.room.wait_while(self.lock(), no_room).expect("nothing panics while it holds a lane");
        self.add(filling, block)
    }

    /// The same, but does nothing where the batch is full: then this is false.
    fn try_push(&self, block: &mut Block) -> Result<bool, Closed> {
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

    fn standstill(&self) -> MutexGuard<'_, Option<Standstill>> {
        self.standstill.lock().expect("nothing panics while it holds a standstill")
    }

    /// Streams that have chunks for this lane which are not stored.
    fn waiting(&self, standstill: &Standstill) -> u64 {
        let filling = self.lock().block.closings.len();
        (self.beside.load(Ordering::Relaxed) + filling + standstill.closings) as u64
    }

    fn finish(&self) {
        self.lock().finished = true;
        self.ready.notify_one();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.room.notify_all();
        self.emptied.count();
        self.ready.notify_one();
    }

    /// The batch that has filled, as soon as there is one; `None` where nothing more comes.
    async fn take(&self) -> Option<Block> {
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

/// The lanes of all partitions.
pub struct Lanes {
    lanes: Vec<Arc<Lane>>,
    sending: JoinSet<Result<(), LaneError>>,
}

impl Lanes {
    /// `clock` tells the time since the run began.
    pub fn start(
        connection: &Connection,
        names: &Names,
        partitions: u32,
        limit: usize,
        patience: Patience,
        ledger: &Arc<Mutex<Ledger>>,
        began: Instant,
    ) -> Self {
        let mut sending = JoinSet::new();
        let emptied = Arc::<Emptied>::default();
        let lanes = (0..partitions)
            .map(|partition| {
                let lane = Arc::new(Lane {
                    filling: Mutex::default(),
                    room: Condvar::new(),
                    emptied: emptied.clone(),
                    beside: AtomicUsize::new(0),
                    standstill: Mutex::default(),
                    ready: Notify::new(),
                    limit,
                });
                let sender = Sender {
                    lane: lane.clone(),
                    connection: connection.clone(),
                    partition,
                    log: names.log(partition),
                    subject: names.log_subject(partition),
                    patience,
                    ledger: ledger.clone(),
                    began,
                    complaints: Throttle::default(),
                };
                sending.spawn(sender.run());
                lane
            })
            .collect();
        Self { lanes, sending }
    }

    /// The filling ends, for those who make chunks.
    pub fn entries(&self) -> LaneEntries {
        LaneEntries(self.lanes.clone())
    }

    /// The partitions whose logs take nothing, and what waits for each.
    pub fn waiting(&self, now: Moment) -> Vec<Waiting> {
        let lanes = (0..).zip(&self.lanes);
        lanes
            .filter_map(|(partition, lane)| {
                let standstill = (*lane.standstill())?;
                let (reason, waited) = (standstill.reason, now.saturating_sub(standstill.since));
                Some(Waiting { partition, reason, waited_s: waited.as_secs_f64(), streams: lane.waiting(&standstill) })
            })
            .collect()
    }

    /// Waits until a lane fails. Never ends while all go well, nor when all have ended well. Cancel-safe.
    pub async fn failed(&mut self) -> LaneError {
        while let Some(result) = self.sending.join_next().await {
            let result = joined(result);
            if let Err(error) = result {
                return error;
            }
        }
        std::future::pending().await
    }

    /// Sends what has filled, then ends every lane.
    pub fn finish(&self) {
        self.lanes.iter().for_each(|lane| lane.finish());
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.lanes.iter().for_each(|lane| lane.close());
    }
}

/// Where chunks are handed in. Cheap to clone, for threads.
#[derive(Clone)]
pub struct LaneEntries(Vec<Arc<Lane>>);

impl LaneEntries {
    /// Hands in one chunk at once. Blocks the thread while the batch of its lane is full.
    pub fn push(&self, chunk: &Chunk<'_>) -> Result<(), Closed> {
        let mut block = Block::default();
        block.add(chunk);
        self.0[chunk.id.partition(self.partitions()) as usize].push(&mut block)
    }

    /// How many partitions there are.
    pub fn partitions(&self) -> u32 {
        u32::try_from(self.0.len()).expect("as many as the topology says")
    }

    /// Takes nothing more, and wakes whoever waits.
    pub fn close(&self) {
        self.0.iter().for_each(|lane| lane.close());
    }

    /// Of all lanes, as far as there are any.
    fn emptied(&self) -> Option<&Emptied> {
        self.0.first().map(|lane| &*lane.emptied)
    }
}

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
        let emptied = self.entries.emptied().map_or(0, |emptied| emptied.shown.load(Ordering::Acquire));
        if self.refused.is_empty() || emptied == self.seen {
            return Ok(());
        }
        self.seen = emptied;
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
        while !self.refused.is_empty() {
            self.tell_waiting(|_| 0);
            self.wait(LONGEST_WAIT);
            self.try_again()?;
        }
        self.tell_waiting(|_| 0);
        Ok(())
    }

    /// Says how many streams wait for lanes that had no room: of each partition those that are `open`, and those whose last
    /// chunks are held back here.
    pub fn tell_waiting(&mut self, open: impl Fn(u32) -> usize) {
        let Self { entries, blocks, refused, told, .. } = self;
        told.retain(|partition, before| {
            let waits = refused.contains(partition);
            if !waits {
                entries.0[*partition as usize].beside.fetch_sub(*before, Ordering::Relaxed);
            }
            waits
        });
        for partition in refused.iter() {
            let now = open(*partition) + blocks[*partition as usize].closings.len();
            let before = told.insert(*partition, now).unwrap_or(0);
            // Added, it wraps around to the difference.
            entries.0[*partition as usize].beside.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
        }
    }
}

/// The sending end of one partition's lane.
struct Sender {
    lane: Arc<Lane>,
    connection: Connection,
    partition: u32,
    log: String,
    subject: String,
    patience: Patience,
    ledger: Arc<Mutex<Ledger>>,
    began: Instant,
    complaints: Throttle,
}

impl Sender {
    async fn run(self) -> Result<(), LaneError> {
        while let Some(Block { payload, closings }) = self.lane.take().await {
            self.send(payload.into(), &closings).await?;
        }
        Ok(())
    }

    fn now(&self) -> Moment {
        self.began.elapsed()
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("nothing panics while it holds the ledger")
    }

    /// Notes that the log takes nothing.
    fn stand_still(&self, reason: Reason, since: Moment, closings: &[StreamId]) -> Standstill {
        let standstill = Standstill { since, reason, closings: closings.len() };
        *self.lane.standstill() = Some(standstill);
        standstill
    }

    /// Sends one batch, again and again, until it is acknowledged.
    async fn send(&self, payload: Bytes, closings: &[StreamId]) -> Result<(), LaneError> {
        let first = self.now();
        let mut full_since = None;
        for pause in backoff::republishing() {
            // Patience ends with a try that was sent when it was over: what became of one may be unknown only because this
            // process was paused meanwhile.
            let now = self.now();
            if !closings.is_empty() {
                self.ledger().sent(closings, now);
            }
            match publish(&self.connection, &self.log, &self.subject, None, payload.clone()).await {
                Ok(position) => {
                    if !closings.is_empty() {
                        let batch = BatchPlace { partition: self.partition, position };
                        self.ledger().acked(closings, batch, self.now());
                    }
                    *self.lane.standstill() = None;
                    return Ok(());
                }
                Err(Refusal::Full(cause)) => {
                    let since = *full_since.get_or_insert_with(|| self.now());
                    let standstill = self.stand_still(Reason::LogFull, since, closings);
                    if self.ledger().presence().present(since, now) >= self.patience.full {
                        return Err(LaneError::LogFull { log: self.log.clone(), waited: self.patience.full, cause });
                    }
                    // A log that runs full again and again for a moment is not worth a line.
                    if now.saturating_sub(since) >= WORTH_A_LINE && self.complaints.is_due() {
                        let (partition, streams) = (self.partition, self.lane.waiting(&standstill));
                        tracing::warn!(
                            partition,
                            log = self.log,
                            streams,
                            cause,
                            "partition {partition} takes nothing ({}): {streams} streams wait for summers to make room",
                            Reason::LogFull
                        );
                    }
                }
                Err(Refusal::TooLarge) => {
                    return Err(LaneError::TooLarge { log: self.log.clone(), bytes: payload.len() });
                }
                Err(refusal @ (Refusal::Unknown(_) | Refusal::SubjectTaken)) => {
                    full_since = None;
                    self.stand_still(Reason::NoAnswer, first, closings);
                    let cause = match refusal {
                        Refusal::Unknown(cause) => cause,
                        _ => "it takes one message only".to_owned(),
                    };
                    if self.complaints.is_due() {
                        tracing::warn!(log = self.log, cause, "no acknowledgement: sending the batch again");
                    }
                    if let Some(most) = self.patience.unknown
                        && self.ledger().presence().awake(first, now) >= most
                    {
                        return Err(LaneError::Stuck { log: self.log.clone(), waited: most, cause });
                    }
                }
            }
            tokio::time::sleep(pause).await;
        }
        unreachable!("the pauses never end")
    }
}
