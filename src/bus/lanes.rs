//! The chunk publisher: one lane a partition, one batch in flight on each.
//!
//! While a batch travels, the next fills: little load makes small batches and low latency, much load large ones, and
//! no timer is involved. An ack that stays out leaves the outcome unknown, so the same batch is sent again, and the
//! fold drops what it has already. With one batch in flight, chunks can't overtake each other: a gap always means loss.
//!
//! A lane that is full takes nothing until its batch is acknowledged. Who has chunks for several lanes tries each, and waits
//! only where none has room: so a log that takes nothing holds up its own streams, and those of no other.

pub use crate::bus::lane::Closed;

use crate::bus::backoff;
use crate::bus::connect::Connection;
use crate::bus::lane::{Block, Emptied, Lane, Standstill};
use crate::bus::names::Names;
use crate::bus::publish::{Refusal, publish};
use crate::chunk::Chunk;
use crate::joined::joined;
use crate::presence::Moment;
use crate::report::{Reason, Waiting};
use crate::stream_id::StreamId;
use crate::throttle::{Throttle, ThrottleByCause};
use crate::verify::{BatchPlace, Ledger};
use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

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

/// How long a lane goes on without an ack.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// While its log is full.
    pub full: Duration,
    /// While the outcome is unknown; `None`: for as long as NATS is away.
    pub unknown: Option<Duration>,
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
        let emptied = Arc::<Emptied>::default();
        let lanes = (0..partitions)
            .map(|partition| {
                let lane = Arc::new(Lane::new(limit, emptied.clone()));
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
                    full: Throttle::new(),
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
pub struct LaneEntries(pub(super) Vec<Arc<Lane>>);

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
    pub(super) fn emptied(&self) -> Option<&Emptied> {
        self.0.first().map(|lane| &*lane.emptied)
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
    /// Each log that is full is named.
    full: Throttle,
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
                    if now.saturating_sub(since) >= WORTH_A_LINE
                        && let Some(times) = self.full.count()
                    {
                        let (partition, streams) = (self.partition, self.lane.waiting(&standstill));
                        tracing::warn!(
                            partition,
                            log = self.log,
                            streams,
                            cause,
                            times,
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
