//! The chunk publisher: one lane a partition, one batch in flight on each.
//!
//! While a batch travels, the next fills: little load makes small batches and low latency, much load large ones, and
//! no timer is involved. An ack that stays out leaves the outcome unknown, so the same batch is sent again, and the
//! fold drops what it has already. With one batch in flight, chunks can't overtake each other: a gap always means loss.

use crate::bus::backoff;
use crate::bus::connect::Connection;
use crate::bus::names::Names;
use crate::bus::publish::{Refusal, publish};
use crate::chunk::Chunk;
use crate::codec::{CHUNK_OVERHEAD, encode_chunk};
use crate::joined::joined;
use crate::presence::Moment;
use crate::stream_id::StreamId;
use crate::throttle::ThrottleByCause;
use crate::verify::{BatchPlace, Ledger};
use bytes::Bytes;
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

/// How long a lane goes on without an ack.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// While its log is full.
    pub full: Duration,
    /// While the outcome is unknown; `None`: for as long as NATS is away.
    pub unknown: Option<Duration>,
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

/// The filling end of one partition's lane.
pub struct Lane {
    filling: Mutex<Filling>,
    room: Condvar,
    ready: Notify,
    /// Bytes of one batch, at the most; a chunk that is larger travels alone.
    limit: usize,
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, Filling> {
        self.filling.lock().expect("nothing panics while it holds a lane")
    }

    /// Adds chunks to the batch that fills, and leaves `block` empty. Blocks the thread while the batch is full.
    fn push(&self, block: &mut Block) -> Result<(), Closed> {
        let needed = block.payload.len();
        let no_room = |filling: &mut Filling| {
            let filled = filling.block.payload.len();
            !filling.closed && filled > 0 && filled + needed > self.limit
        };
        let mut filling = self.room.wait_while(self.lock(), no_room).expect("nothing panics while it holds a lane");
        if filling.closed || filling.finished {
            return Err(Closed);
        }
        filling.block.payload.append(&mut block.payload);
        filling.block.closings.append(&mut block.closings);
        drop(filling);
        self.ready.notify_one();
        Ok(())
    }

    fn finish(&self) {
        self.lock().finished = true;
        self.ready.notify_one();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.room.notify_all();
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
                    self.room.notify_all();
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
        let complaints = Arc::new(ThrottleByCause::new());
        let lanes = (0..partitions)
            .map(|partition| {
                let lane =
                    Arc::new(Lane { filling: Mutex::default(), room: Condvar::new(), ready: Notify::new(), limit });
                let sender = Sender {
                    lane: lane.clone(),
                    connection: connection.clone(),
                    partition,
                    log: names.log(partition),
                    subject: names.log_subject(partition),
                    patience,
                    ledger: ledger.clone(),
                    began,
                    complaints: complaints.clone(),
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
}

/// Bytes of one lane's chunks that a thread holds back at the most.
const BLOCK_BYTES: usize = 16 << 10;

/// Chunks that one thread is about to hand in. A lane is shared, and locked for each block of chunks, not for each chunk.
pub struct Outbox {
    entries: LaneEntries,
    blocks: Vec<Block>,
}

impl Outbox {
    pub fn new(entries: LaneEntries) -> Self {
        let blocks = entries.0.iter().map(|_| Block::default()).collect();
        Self { entries, blocks }
    }

    /// Adds a chunk for the lane of its partition. Blocks the thread while that lane's batch is full.
    pub fn push(&mut self, partition: u32, chunk: &Chunk<'_>) -> Result<(), Closed> {
        let (lane, block) = (&self.entries.0[partition as usize], &mut self.blocks[partition as usize]);
        // Room for what comes is made first, so that no block is larger than a batch unless a single chunk is.
        let needed = chunk.data.len() + CHUNK_OVERHEAD;
        if !block.payload.is_empty() && block.payload.len() + needed > BLOCK_BYTES.min(lane.limit) {
            lane.push(block)?;
        }
        block.add(chunk);
        Ok(())
    }

    /// Hands in what is held back for one partition.
    pub fn flush_lane(&mut self, partition: u32) -> Result<(), Closed> {
        let (lane, block) = (&self.entries.0[partition as usize], &mut self.blocks[partition as usize]);
        if block.payload.is_empty() { Ok(()) } else { lane.push(block) }
    }

    /// Hands in all that is held back.
    pub fn flush(&mut self) -> Result<(), Closed> {
        (0..self.entries.partitions()).try_for_each(|partition| self.flush_lane(partition))
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
    /// For all lanes: one server is what all of them wait for.
    complaints: Arc<ThrottleByCause>,
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
                    return Ok(());
                }
                Err(Refusal::Full(cause)) => {
                    let since = *full_since.get_or_insert_with(|| self.now());
                    if self.ledger().presence().present(since, now) >= self.patience.full {
                        return Err(LaneError::LogFull { log: self.log.clone(), waited: self.patience.full, cause });
                    }
                    if let Some(times) = self.complaints.count(&cause) {
                        tracing::warn!(
                            log = self.log,
                            cause,
                            times,
                            "the log is full: waiting for summers to make room"
                        );
                    }
                }
                Err(Refusal::TooLarge) => {
                    return Err(LaneError::TooLarge { log: self.log.clone(), bytes: payload.len() });
                }
                Err(refusal @ (Refusal::Unknown(_) | Refusal::SubjectTaken)) => {
                    full_since = None;
                    let cause = match refusal {
                        Refusal::Unknown(cause) => cause,
                        _ => "it takes one message only".to_owned(),
                    };
                    if let Some(times) = self.complaints.count(&cause) {
                        tracing::warn!(log = self.log, cause, times, "no acknowledgement: sending the batch again");
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
