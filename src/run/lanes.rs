//! The chunk publisher: one lane a partition, one batch in flight on each.
//!
//! While a batch travels, the next fills: little load makes small batches and low latency, much load large ones, and
//! no timer is involved. An ack that stays out leaves the outcome unknown, so the same batch is sent again, and the
//! fold drops what it has already. With one batch in flight, chunks can't overtake each other: a gap always means loss.
//!
//! A lane that is full takes nothing until its batch is acknowledged. Who has chunks for several lanes tries each, and waits
//! only where none has room: so a log that takes nothing holds up its own streams, and those of no other.

pub use crate::run::lane::Closed;

use crate::run::lane::{Block, Emptied, Lane, Standstill};
use crate::run::ledger::{BatchPlace, Ledger};
use crate::run::may_send::MaySend;
use crate::run::presence::Moment;
use crate::run::report::{Reason, Waiting};
use crate::sum::Summer;
use crate::sum::chunk::Chunk;
use crate::sum::stream_id::StreamId;
use bytes::Bytes;
use jetfold::Position;
use jetfold::joined;
use jetfold::nats::connect::Connection;
use jetfold::nats::topology::Topology;
use jetfold::{Account, Delivery, DeliveryError, Halt, Patience};
use jetfold::{Throttle, ThrottleByCause};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A log that has been full for so long is told of.
const WORTH_A_LINE: Duration = Duration::from_millis(500);

/// The lanes of all partitions.
pub struct Lanes {
    lanes: Vec<Arc<Lane>>,
    sending: JoinSet<Result<(), DeliveryError>>,
}

impl Lanes {
    /// Without `may_send`, nobody else sends the streams of the run.
    pub fn start(
        connection: &Connection,
        topology: &Topology<Summer>,
        limit: usize,
        patience: Patience,
        ledger: &Arc<Mutex<Ledger>>,
        began: Instant,
        may_send: Option<MaySend>,
    ) -> Self {
        let mut sending = JoinSet::new();
        let complaints = Arc::new(ThrottleByCause::new());
        let emptied = Arc::<Emptied>::default();
        let names = &topology.names;
        let lanes = (0..topology.partitions)
            .map(|partition| {
                let lane = Arc::new(Lane::new(limit, emptied.clone()));
                let sender = Sender {
                    lane: lane.clone(),
                    partition,
                    delivery: Delivery {
                        connection: connection.clone(),
                        log: names.log(partition),
                        subject: names.log_subject(partition),
                        patience,
                        complaints: complaints.clone(),
                        words: names.words(),
                        told: None,
                    },
                    ledger: ledger.clone(),
                    began,
                    full: Throttle::new(),
                };
                sending.spawn(sender.run(may_send.clone()));
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
    pub async fn failed(&mut self) -> DeliveryError {
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
    partition: u32,
    delivery: Delivery,
    ledger: Arc<Mutex<Ledger>>,
    began: Instant,
    /// Each log that is full is named.
    full: Throttle,
}

impl Sender {
    async fn run(self, mut may_send: Option<MaySend>) -> Result<(), DeliveryError> {
        while let Some(Block { payload, closings }) = self.lane.take().await {
            let (payload, mut batch) = (Bytes::from(payload), Batch { sender: &self, closings });
            let Some(may_send) = &mut may_send else {
                self.delivery.send(payload, &mut batch).await?;
                continue;
            };
            loop {
                may_send.granted().await;
                tokio::select! {
                    // Before the batch is sent again.
                    biased;
                    () = may_send.withdrawn() => {}
                    sent = self.delivery.send(payload.clone(), &mut batch) => {
                        sent?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("nothing panics while it holds the ledger")
    }
}

/// A batch on its way, as the ledger keeps account of it: by the streams whose closing chunks are in it.
struct Batch<'a> {
    sender: &'a Sender,
    closings: Vec<StreamId>,
}

impl Account for Batch<'_> {
    fn now(&self) -> Moment {
        self.sender.began.elapsed()
    }

    fn sending(&mut self, now: Moment) {
        if !self.closings.is_empty() {
            self.sender.ledger().sent(&self.closings, now);
        }
    }

    fn stored(&mut self, position: Position) {
        if !self.closings.is_empty() {
            let batch = BatchPlace { partition: self.sender.partition, position };
            self.sender.ledger().acked(&self.closings, batch, self.now());
        }
        *self.sender.lane.standstill() = None;
    }

    fn stands_still(&mut self, halt: Halt, since: Moment, now: Moment, cause: &str) {
        let Sender { lane, partition, delivery, full, .. } = self.sender;
        let reason = match halt {
            Halt::LogFull => Reason::LogFull,
            Halt::NoAnswer => Reason::NoAnswer,
        };
        let standstill = Standstill { since, reason, closings: self.closings.len() };
        *lane.standstill() = Some(standstill);
        // A log that runs full again and again for a moment is not worth a line.
        if halt == Halt::LogFull
            && now.saturating_sub(since) >= WORTH_A_LINE
            && let Some(times) = full.count()
        {
            let streams = lane.waiting(&standstill);
            tracing::warn!(
                partition,
                log = delivery.log,
                streams,
                cause,
                times,
                "partition {partition} takes nothing ({reason}): {streams} streams wait for summers to make room"
            );
        }
    }

    fn waited(&self, halt: Halt, since: Moment, now: Moment) -> Duration {
        let ledger = self.sender.ledger();
        match halt {
            Halt::LogFull => ledger.presence().present(since, now),
            Halt::NoAnswer => ledger.presence().awake(since, now),
        }
    }
}
