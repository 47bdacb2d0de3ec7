//! Publishing records: to each log one batch at a time, while the next fills.
//!
//! Little load makes small batches, much load large ones, and no timer is involved. Each batch is [stamped](crate::stamp), and is
//! in its log [once](stamped), however often its [`delivery`] is tried.
//!
//! A publisher that dies has sent some of what it was given, and one without a name can't tell how much. A publisher that has a
//! [name](Publisher::named) gives each record an offset of its own input. Its next life finds in the logs how far the last one has
//! come, and goes on there: no record is lost, and none is sent twice.

pub mod delivery;
mod named;
pub mod stamped;

pub use named::NamedError;

use crate::application::Application;
use crate::joined::joined;
use crate::key::Key;
use crate::nats::connect::Connection;
use crate::nats::names::Names;
use crate::nats::topology::{REJECT_HEADROOM, Topology};
use crate::throttle::ThrottleByCause;
use bytes::Bytes;
use delivery::{Account, Delivery, DeliveryError, Patience};
use stamped::Stamped;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Bytes of one batch, unless a single record is larger or the server takes less.
const BATCH_BYTES: usize = 256 << 10;

/// How long a log may be full, and how long nobody may answer, before a publisher gives up.
const PATIENCE: Patience = Patience { full: Duration::from_secs(60), unknown: Some(Duration::from_secs(60)) };

/// Why records can't be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    #[error("a record of {bytes} bytes is more than the {most} that one message may hold: split it")]
    TooLarge { bytes: usize, most: usize },
    #[error(
        "the records of offset {offset} have {bytes} bytes, which is more than the {most} of a batch, and must not be parted: give \
         them offsets of their own"
    )]
    OffsetTooLarge { offset: u64, bytes: usize, most: usize },
    #[error("offset {offset} comes after {after}: offsets never go back")]
    OutOfOrder { offset: u64, after: u64 },
}

/// A batch that fills.
#[derive(Default)]
struct Filling {
    payload: Vec<u8>,
    /// Of its last record.
    offset: u64,
    /// Bytes of the records before those of that offset, and the last offset of those.
    whole: usize,
    whole_offset: u64,
}

/// What is handed to the sending end.
enum Work {
    /// A batch, and the offset of its last record.
    Batch(u64, Bytes),
    /// To be told when everything before it is stored.
    Stored(oneshot::Sender<()>),
}

/// One partition: what fills, and the way to its log.
struct Lane {
    filling: Filling,
    /// Records up to this offset are in the log already.
    sent: u64,
    work: mpsc::Sender<Work>,
    sending: JoinHandle<Result<(), DeliveryError>>,
}

/// Publishes the records of one application.
pub struct Publisher<A> {
    lanes: Vec<Lane>,
    /// The last offset that was pushed, and the last that was flushed.
    offset: u64,
    flushed: u64,
    most: usize,
    of: PhantomData<fn() -> A>,
}

struct Alone(Instant);

impl Account for Alone {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

impl<A: Application> Publisher<A> {
    /// For records that nobody sends again: a name that is drawn, and offsets that count.
    pub fn anonymous(connection: &Connection, topology: &Topology<A>) -> Self {
        let producer = hex::encode(rand::random::<[u8; 8]>());
        let stands = (0..topology.partitions).map(|_| Stamped::new(producer.clone(), 1)).collect();
        Self::start(connection, topology, &producer, stands)
    }

    fn start(connection: &Connection, topology: &Topology<A>, producer: &str, stands: Vec<Stamped>) -> Self {
        let complaints = Arc::new(ThrottleByCause::new());
        let names = &topology.names;
        let most = connection.client.server_info().max_payload.saturating_sub(REJECT_HEADROOM);
        let most = BATCH_BYTES.min(most).min(topology.max_message_bytes.unwrap_or(usize::MAX));
        let lanes = (0..).zip(stands).map(|(partition, stamped)| {
            let delivery = delivery(connection, names, partition, producer, complaints.clone());
            // One that travels, and one that waits.
            let (work, queue) = mpsc::channel(1);
            let sent = stamped.offset();
            let sending = tokio::spawn(send(delivery, stamped, queue));
            Lane { filling: Filling::default(), sent, work, sending }
        });
        Self { lanes: lanes.collect(), offset: 0, flushed: 0, most, of: PhantomData }
    }

    /// Appends a record to the next batch of its key's partition: `encode` appends the bytes. Waits while two batches of that
    /// partition are on their way.
    pub async fn push(
        &mut self,
        key: &<A::Key as Key>::Ref,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), PublishError> {
        self.push_at(self.offset + 1, key, encode).await
    }

    /// The same for a record at an offset of the publisher's own input, from 1 on: such as the number of its line. Records of
    /// one offset travel together, so that a later life does not send some of them again. What an earlier life has sent is
    /// passed over.
    pub async fn push_at(
        &mut self,
        offset: u64,
        key: &<A::Key as Key>::Ref,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), PublishError> {
        if offset < self.offset || offset <= self.flushed {
            return Err(PublishError::OutOfOrder { offset, after: self.offset });
        }
        self.offset = offset;
        let partition = A::Key::partition(key, u32::try_from(self.lanes.len()).expect("as many as the topology says"));
        let lane = &mut self.lanes[partition as usize];
        if offset <= lane.sent {
            return Ok(());
        }
        if offset > lane.filling.offset {
            // What is there is whole: it travels as soon as there is room, and the record fills the next.
            (lane.filling.whole, lane.filling.whole_offset) = (lane.filling.payload.len(), lane.filling.offset);
            if lane.filling.whole > 0
                && let Ok(permit) = lane.work.try_reserve()
            {
                permit.send(lane.filling.take());
            }
        }
        let before = lane.filling.payload.len();
        encode(&mut lane.filling.payload);
        let bytes = lane.filling.payload.len() - before;
        if bytes > self.most {
            lane.filling.payload.truncate(before);
            return Err(PublishError::TooLarge { bytes, most: self.most });
        }
        lane.filling.offset = offset;
        if lane.filling.payload.len() > self.most {
            // The records of this offset stay behind, for the next batch.
            let rest = lane.filling.payload.split_off(lane.filling.whole);
            if rest.len() > self.most {
                return Err(PublishError::OffsetTooLarge { offset, bytes: rest.len(), most: self.most });
            }
            lane.filling.offset = lane.filling.whole_offset;
            let whole = lane.filling.take();
            lane.filling = Filling { payload: rest, offset, ..Filling::default() };
            lane.hand_over(whole).await?;
        }
        Ok(())
    }

    /// Returns when all that was pushed is stored. The next record needs a further offset.
    pub async fn flush(&mut self) -> Result<(), PublishError> {
        self.flushed = self.offset;
        let mut stored = Vec::with_capacity(self.lanes.len());
        for lane in &mut self.lanes {
            if !lane.filling.payload.is_empty() {
                let batch = lane.filling.take();
                lane.hand_over(batch).await?;
            }
            let (told, wait) = oneshot::channel();
            lane.hand_over(Work::Stored(told)).await?;
            stored.push(wait);
        }
        for (lane, wait) in self.lanes.iter_mut().zip(stored) {
            if wait.await.is_err() {
                return Err(lane.why_it_ended().await);
            }
        }
        Ok(())
    }

    /// Sends all that was pushed, and returns when all of it is stored.
    pub async fn finish(mut self) -> Result<(), PublishError> {
        self.flush().await
    }
}

impl Lane {
    async fn hand_over(&mut self, work: Work) -> Result<(), PublishError> {
        match self.work.send(work).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.why_it_ended().await),
        }
    }

    async fn why_it_ended(&mut self) -> PublishError {
        match joined((&mut self.sending).await) {
            Err(error) => error.into(),
            Ok(()) => unreachable!("it does not end well while more may come"),
        }
    }
}

impl Filling {
    /// What is there, as a batch; another begins.
    fn take(&mut self) -> Work {
        let Self { payload, offset, .. } = std::mem::take(self);
        Work::Batch(offset, payload.into())
    }
}

fn delivery(
    connection: &Connection,
    names: &Names,
    partition: u32,
    producer: &str,
    complaints: Arc<ThrottleByCause>,
) -> Delivery {
    Delivery {
        connection: connection.clone(),
        log: names.log(partition),
        subject: names.producer_subject(partition, producer),
        patience: PATIENCE,
        complaints,
        words: names.words(),
    }
}

/// The sending end of one partition.
async fn send(delivery: Delivery, mut stamped: Stamped, mut queue: mpsc::Receiver<Work>) -> Result<(), DeliveryError> {
    while let Some(work) = queue.recv().await {
        match work {
            Work::Batch(offset, payload) => {
                delivery.send_stamped(&mut stamped, offset, payload, &mut Alone(Instant::now())).await?;
            }
            // Whoever does not wait any more need not be told.
            Work::Stored(told) => _ = told.send(()),
        }
    }
    Ok(())
}
