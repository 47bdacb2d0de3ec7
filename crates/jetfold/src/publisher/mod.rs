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
use delivery::{Account, Delivery, DeliveryError, Patience, Tells};
use stamped::Stamped;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Bytes of one batch, unless the records of a single offset are more or the server takes less.
const BATCH_BYTES: usize = 256 << 10;

/// What the headers of a message take of the most that a log's message may have.
const HEADERS: usize = 1 << 10;

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
        "the records of offset {offset} have {bytes} bytes, which is more than the {most} that one message may hold, and must not \
         be parted: give them offsets of their own"
    )]
    OffsetTooLarge { offset: u64, bytes: usize, most: usize },
    #[error("offset {offset} comes after {after}: offsets never go back")]
    OutOfOrder { offset: u64, after: u64 },
    #[error(
        "offset {offset} is no further than {flushed}, which is flushed: give the next record a further one, from 1 on"
    )]
    Flushed { offset: u64, flushed: u64 },
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
    /// The offset that is refused, and the bytes of its records.
    refused: Option<(u64, usize)>,
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
    /// Why nothing is sent any more.
    ended: Option<DeliveryError>,
}

/// Publishes the records of one application.
///
/// A publisher that is dropped sends what it has handed over, and not what fills: only [`flush`](Self::flush) and
/// [`finish`](Self::finish) tell that all is stored. A call that is dropped before it returns has pushed nothing.
///
/// A record that is refused leaves the publisher as it was, and it goes on with the next. A
/// [`Delivery`](PublishError::Delivery) error ends the partition of the record, and comes again with each of its records.
pub struct Publisher<A> {
    lanes: Vec<Lane>,
    /// The last offset that was pushed, the last that was flushed, and the furthest of an earlier life.
    offset: u64,
    flushed: u64,
    furthest: u64,
    /// Bytes of one batch, and of one message.
    batch: usize,
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
        let complaints = Arc::new(ThrottleByCause::new());
        let lane = |partition| {
            let way = delivery(connection, &topology.names, partition, &producer, complaints.clone(), None);
            (way, Stamped::new(producer.clone(), 1))
        };
        Self::start(connection, topology, (0..topology.partitions).map(lane).collect())
    }

    /// With the way to each log, and where the producer stands in it.
    fn start(connection: &Connection, topology: &Topology<A>, ways: Vec<(Delivery, Stamped)>) -> Self {
        let most = connection.client.server_info().max_payload.saturating_sub(REJECT_HEADROOM);
        let most = most.min(topology.max_message_bytes.map_or(usize::MAX, |most| most.saturating_sub(HEADERS)));
        let lanes = ways.into_iter().map(|(delivery, stamped)| {
            // One that travels, and one that waits.
            let (work, queue) = mpsc::channel(1);
            let sent = stamped.offset();
            let sending = tokio::spawn(send(delivery, stamped, queue));
            Lane { filling: Filling::default(), sent, work, sending, ended: None }
        });
        let (batch, lanes) = (BATCH_BYTES.min(most), lanes.collect::<Vec<_>>());
        let furthest = lanes.iter().map(|lane: &Lane| lane.sent).max().unwrap_or(0);
        Self { lanes, offset: 0, flushed: 0, furthest, batch, most, of: PhantomData }
    }

    /// Appends a record to the next batch of its key's partition: `encode` appends the bytes. Waits while two batches of that
    /// partition are on their way, if there is no room. The last batch of a partition fills until another record comes, or
    /// [`flush`](Self::flush).
    pub async fn push(
        &mut self,
        key: &<A::Key as Key>::Ref,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), PublishError> {
        // Behind whatever an earlier life of this name has sent: without an offset it is another record.
        self.push_at(self.offset.max(self.furthest).saturating_add(1), key, encode).await
    }

    /// The same for a record at an offset of the publisher's own input, from 1 on: such as the number of its line. Records of
    /// one offset and partition travel together, so that a later life does not send some of them again; if they do not fit into
    /// one message, all of them are refused. What an earlier life has sent is passed over.
    pub async fn push_at(
        &mut self,
        offset: u64,
        key: &<A::Key as Key>::Ref,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), PublishError> {
        if offset < self.offset {
            return Err(PublishError::OutOfOrder { offset, after: self.offset });
        }
        if offset <= self.flushed {
            return Err(PublishError::Flushed { offset, flushed: self.flushed });
        }
        self.offset = offset;
        let partition = A::Key::partition(key, u32::try_from(self.lanes.len()).expect("as many as the topology says"));
        self.lanes[partition as usize].push(offset, self.batch, self.most, encode).await
    }

    /// Returns when all that was pushed is stored. The next record needs a further offset.
    pub async fn flush(&mut self) -> Result<(), PublishError> {
        self.flushed = self.offset;
        let mut stored = Vec::with_capacity(self.lanes.len());
        for lane in &mut self.lanes {
            if !lane.filling.payload.is_empty() {
                let room = room(&lane.work, &mut lane.sending, &mut lane.ended).await?;
                room.send(lane.filling.take());
            }
            let (told, wait) = oneshot::channel();
            room(&lane.work, &mut lane.sending, &mut lane.ended).await?.send(Work::Stored(told));
            stored.push(wait);
        }
        for (lane, wait) in self.lanes.iter_mut().zip(stored) {
            if wait.await.is_err() {
                return Err(why_it_ended(&mut lane.sending, &mut lane.ended).await);
            }
        }
        Ok(())
    }

    /// Sends all that was pushed, and returns when all of it is stored.
    pub async fn finish(mut self) -> Result<(), PublishError> {
        self.flush().await
    }
}

impl<A> Drop for Publisher<A> {
    fn drop(&mut self) {
        let bytes: usize = self.lanes.iter().map(|lane| lane.filling.payload.len()).sum();
        if bytes > 0 {
            tracing::warn!(
                bytes,
                "a publisher was dropped before it was flushed: the last of its records are not sent"
            );
        }
    }
}

impl Lane {
    async fn push(
        &mut self,
        offset: u64,
        batch: usize,
        most: usize,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), PublishError> {
        let Self { filling, sent, work, sending, ended } = self;
        if offset <= *sent {
            return Ok(());
        }
        if let Some((refused, bytes)) = filling.refused
            && refused == offset
        {
            return Err(PublishError::OffsetTooLarge { offset, bytes, most });
        }
        if offset > filling.offset {
            // What is there is whole: it travels as soon as there is room, and the record fills the next.
            (filling.whole, filling.whole_offset) = (filling.payload.len(), filling.offset);
            if filling.whole > 0
                && let Ok(permit) = work.try_reserve()
            {
                permit.send(filling.take());
            }
        }
        let before = filling.payload.len();
        encode(&mut filling.payload);
        let bytes = filling.payload.len() - before;
        if bytes > most {
            filling.payload.truncate(before);
            return Err(PublishError::TooLarge { bytes, most });
        }
        let of_offset = filling.payload.len() - filling.whole;
        if of_offset > most {
            filling.payload.truncate(filling.whole);
            filling.offset = filling.whole_offset;
            filling.refused = Some((offset, of_offset));
            return Err(PublishError::OffsetTooLarge { offset, bytes: of_offset, most });
        }
        if filling.whole > 0 && filling.payload.len() > batch {
            // The records of this offset stay behind, for the next batch. This one is put aside while there is no room, because
            // the caller may drop this call.
            let record = filling.payload.split_off(before);
            let room = room(work, sending, ended).await?;
            let mut rest = filling.payload.split_off(filling.whole);
            rest.extend(record);
            filling.offset = filling.whole_offset;
            room.send(filling.take());
            filling.payload = rest;
        }
        filling.offset = offset;
        Ok(())
    }
}

/// Room for one more piece of work.
async fn room<'a>(
    work: &'a mpsc::Sender<Work>,
    sending: &mut JoinHandle<Result<(), DeliveryError>>,
    ended: &mut Option<DeliveryError>,
) -> Result<mpsc::Permit<'a, Work>, PublishError> {
    match work.reserve().await {
        Ok(room) => Ok(room),
        Err(_) => Err(why_it_ended(sending, ended).await),
    }
}

/// Whoever asks again is told the same.
async fn why_it_ended(
    sending: &mut JoinHandle<Result<(), DeliveryError>>,
    ended: &mut Option<DeliveryError>,
) -> PublishError {
    if ended.is_none() {
        *ended = joined(sending.await).err();
    }
    ended.clone().expect("it does not end well while more may come").into()
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
    told: Option<Tells>,
) -> Delivery {
    Delivery {
        connection: connection.clone(),
        log: names.log(partition),
        subject: names.producer_subject(partition, producer),
        patience: PATIENCE,
        complaints,
        words: names.words(),
        told,
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
