//! The chunk publisher: one lane a partition, one batch in flight on each.
//!
//! While a batch travels, the next fills: little load makes small batches and low latency, much load large ones, and
//! no timer is involved. An ack that stays out leaves the outcome unknown, so the same batch is sent again, and the
//! fold drops what it has already. With one batch in flight, chunks can't overtake each other: a gap always means loss.

use crate::bus::backoff;
use crate::bus::connect::Connection;
use crate::bus::names::Names;
use crate::bus::publish::{Refusal, Throttle, publish};
use crate::chunk::Chunk;
use crate::codec::{CHUNK_OVERHEAD, encode_chunk};
use crate::joined::joined;
use crate::stream_id::StreamId;
use crate::verify::{Ledger, Moment};
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

/// A batch that fills.
#[derive(Default)]
struct Filling {
    payload: Vec<u8>,
    closings: Vec<StreamId>,
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

    /// Adds a chunk to the batch that fills. Blocks the thread while that is full.
    pub fn push(&self, chunk: &Chunk<'_>) -> Result<(), Closed> {
        let needed = chunk.data.len() + CHUNK_OVERHEAD;
        let no_room = |filling: &mut Filling| {
            !filling.closed && !filling.payload.is_empty() && filling.payload.len() + needed > self.limit
        };
        let mut filling = self.room.wait_while(self.lock(), no_room).expect("nothing panics while it holds a lane");
        if filling.closed || filling.finished {
            return Err(Closed);
        }
        encode_chunk(&mut filling.payload, chunk);
        if chunk.closes() {
            filling.closings.push(chunk.id);
        }
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
    async fn take(&self) -> Option<(Bytes, Vec<StreamId>)> {
        loop {
            {
                let mut filling = self.lock();
                if filling.closed {
                    return None;
                }
                if !filling.payload.is_empty() {
                    let payload = std::mem::take(&mut filling.payload);
                    let closings = std::mem::take(&mut filling.closings);
                    self.room.notify_all();
                    return Some((payload.into(), closings));
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
        let lanes = (0..partitions)
            .map(|partition| {
                let lane =
                    Arc::new(Lane { filling: Mutex::default(), room: Condvar::new(), ready: Notify::new(), limit });
                let sender = Sender {
                    lane: lane.clone(),
                    connection: connection.clone(),
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
    /// Hands a chunk to the lane of its partition. Blocks the thread while that lane's batch is full.
    pub fn push(&self, chunk: &Chunk<'_>) -> Result<(), Closed> {
        let partitions = u32::try_from(self.0.len()).expect("as many as the topology says");
        self.0[chunk.id.partition(partitions) as usize].push(chunk)
    }

    /// Takes nothing more, and wakes whoever waits.
    pub fn close(&self) {
        self.0.iter().for_each(|lane| lane.close());
    }
}

/// The sending end of one partition's lane.
struct Sender {
    lane: Arc<Lane>,
    connection: Connection,
    log: String,
    subject: String,
    patience: Patience,
    ledger: Arc<Mutex<Ledger>>,
    began: Instant,
    complaints: Throttle,
}

impl Sender {
    async fn run(self) -> Result<(), LaneError> {
        while let Some((payload, closings)) = self.lane.take().await {
            self.send(payload, &closings).await?;
        }
        Ok(())
    }

    fn now(&self) -> Moment {
        self.began.elapsed()
    }

    fn note(&self, closings: &[StreamId], what: fn(&mut Ledger, &[StreamId], Moment)) {
        if !closings.is_empty() {
            what(&mut self.ledger.lock().expect("nothing panics while it holds the ledger"), closings, self.now());
        }
    }

    /// Sends one batch, again and again, until it is acknowledged.
    async fn send(&self, payload: Bytes, closings: &[StreamId]) -> Result<(), LaneError> {
        let first = Instant::now();
        let mut full_since = None;
        for pause in backoff::republishing() {
            self.note(closings, Ledger::sent);
            match publish(&self.connection, &self.log, &self.subject, None, payload.clone()).await {
                Ok(_) => {
                    self.note(closings, Ledger::acked);
                    return Ok(());
                }
                Err(Refusal::Full(cause)) => {
                    let waited = full_since.get_or_insert_with(Instant::now).elapsed();
                    if waited >= self.patience.full {
                        return Err(LaneError::LogFull { log: self.log.clone(), waited: self.patience.full, cause });
                    }
                    if self.complaints.is_due() {
                        tracing::warn!(log = self.log, cause, "the log is full: waiting for summers to make room");
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
                    if self.complaints.is_due() {
                        tracing::warn!(log = self.log, cause, "no acknowledgement: sending the batch again");
                    }
                    if let Some(most) = self.patience.unknown
                        && first.elapsed() >= most
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
