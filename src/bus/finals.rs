//! Finals and rejects: published once a subject, and confirmed.
//!
//! Confirmed is what the leader has acknowledged, or what was read back from it equal.

use crate::bus::acks::Acks;
use crate::bus::connect::Connection;
use crate::bus::names::Names;
use crate::bus::publish::{Once, Throttle, publish_once};
use crate::bus::read::{self, NoAnswer, StoredMessage, Which};
use crate::checkpoint::{SumsMark, SumsReading};
use crate::codec;
use crate::reject::RejectedBatch;
use crate::row::UnixNanos;
use crate::stream_id::StreamId;
use crate::sum::{Sum, Value};
use async_nats::{HeaderMap, SubscribeError};
use bytes::Bytes;
use sha1::{Digest, Sha1};

/// The most bytes of the `Reject-Chunks` header.
const REJECT_CHUNKS_BYTES: usize = 4 << 10;

/// Room that the server needs in a message beyond payload and header values: header names and line ends.
const HEADER_FRAME_BYTES: usize = 1 << 10;

pub const REJECT_REASON: &str = "Reject-Reason";
pub const REJECT_COUNT: &str = "Reject-Count";
pub const REJECT_CHUNKS: &str = "Reject-Chunks";
/// Set to `omitted` where the payload is not the batch but its length and SHA-1.
pub const REJECT_PAYLOAD: &str = "Reject-Payload";

/// An effect that is out for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// Where a final is; `None` for a reject.
    pub place: Option<Place>,
    /// It was there before: an earlier fold, or another worker, has published it.
    pub already_there: bool,
    /// A reject that was there differs from this one.
    pub differs: bool,
}

impl Confirmed {
    /// A final that this publish has stored.
    pub fn stored(sequence: u64, id: StreamId) -> Self {
        Self { place: Some(Place { sequence, id }), already_there: false, differs: false }
    }
}

/// A final that contradicts one already published: one content, two sums.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "ConflictingFinal: stream {} was summed to {} through chunk {}, but {subject} at sequence {sequence} says {found}",
    ours.id, ours.value, ours.seq_no
)]
pub struct ConflictingFinal {
    pub ours: Sum,
    pub subject: String,
    pub sequence: u64,
    pub found: String,
}

/// Publishes the effects of one partition's fold.
pub struct Effects {
    connection: Connection,
    names: Names,
    sums: String,
    rejects: String,
    partition: u32,
    log_created: UnixNanos,
    complaints: Throttle,
}

impl Effects {
    pub fn new(connection: Connection, names: Names, partition: u32, log_created: UnixNanos) -> Self {
        let (sums, rejects) = (names.sums(), names.rejects());
        Self { connection, names, sums, rejects, partition, log_created, complaints: Throttle::default() }
    }

    /// Gathers the acknowledgements of finals that are [sent](Effects::send_final).
    pub async fn acks<T>(&self) -> Result<Acks<T>, SubscribeError> {
        Acks::new(self.connection.clone(), self.sums.clone()).await
    }

    /// Publishes a final once, if that can be done without waiting; says whether it was. One that is not acknowledged is
    /// to be [published](Effects::publish_final) for good.
    pub fn send_final<T>(&self, acks: &mut Acks<T>, sum: &Sum, what: T) -> bool {
        acks.publish(self.names.final_subject(sum.id), codec::encode_final(sum).into(), what)
    }

    /// Publishes a final until it is confirmed.
    pub async fn publish_final(&self, sum: Sum) -> Result<Confirmed, ConflictingFinal> {
        let subject = self.names.final_subject(sum.id);
        let payload = Bytes::from(codec::encode_final(&sum));
        let once = publish_once(&self.connection, &self.sums, &subject, None, payload, &self.complaints).await;
        match once {
            Once::Stored(sequence) => Ok(Confirmed::stored(sequence, sum.id)),
            Once::Found(message) => match codec::decode_final(&message.payload) {
                Ok(found) if found == sum => {
                    let place = Place { sequence: message.sequence, id: sum.id };
                    Ok(Confirmed { place: Some(place), already_there: true, differs: false })
                }
                found => Err(ConflictingFinal { ours: sum, subject, sequence: message.sequence, found: say(found) }),
            },
        }
    }

    /// Publishes a reject until it is confirmed. One that is there already is taken for it, and may differ: another
    /// version, or a log whose batches had another fate, has made it.
    pub async fn publish_reject(&self, rejected: &RejectedBatch) -> Confirmed {
        let subject = self.names.reject_subject(self.partition, self.log_created, rejected.position);
        let max_payload = self.connection.client.server_info().max_payload;
        let (headers, payload) = reject_message(rejected, max_payload);
        let once = publish_once(
            &self.connection,
            &self.rejects,
            &subject,
            Some(headers.clone()),
            payload.clone(),
            &self.complaints,
        )
        .await;
        match once {
            Once::Stored(_) => Confirmed { place: None, already_there: false, differs: false },
            Once::Found(found) => {
                let differs = found.payload != payload
                    || [REJECT_REASON, REJECT_COUNT, REJECT_CHUNKS]
                        .iter()
                        .any(|name| found.header(name) != headers.get(*name).map(|value| value.as_str()));
                Confirmed { place: None, already_there: true, differs }
            }
        }
    }

    /// What a judgement needs to know about the recorded final; `None` where there is no `sums`.
    pub async fn sums_reading(&self, mark: &SumsMark) -> Result<Option<SumsReading>, NoAnswer> {
        let jetstream = &self.connection.jetstream;
        let Some(info) = read::stream(jetstream, &self.sums).await? else { return Ok(None) };
        let found = read::message(jetstream, &self.sums, Which::At(mark.sequence)).await?;
        Ok(Some(SumsReading { state: read::log_state(&info), at_mark: found.as_ref().map(StoredMessage::mark) }))
    }

    /// Whether the leader still has the final of stream `id` where it was confirmed.
    pub async fn furthest(&self, Place { sequence, id }: Place) -> Result<Furthest, NoAnswer> {
        let jetstream = &self.connection.jetstream;
        let Some(info) = read::stream(jetstream, &self.sums).await? else { return Ok(Furthest::Forgotten) };
        let found = read::message(jetstream, &self.sums, Which::At(sequence)).await?;
        Ok(match found {
            // Another stream's final in its place: the tail of `sums` was lost, and has grown again.
            Some(message) if message.subject.as_str() == self.names.final_subject(id) => {
                let created = read::unix_nanos(info.created);
                Furthest::There(SumsMark { created, sequence, time: message.time })
            }
            None if info.state.first_sequence > sequence => Furthest::Expired,
            _ => Furthest::Forgotten,
        })
    }
}

/// Where in `sums` the final of a stream was confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub sequence: u64,
    pub id: StreamId,
}

/// What became of the furthest final of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Furthest {
    There(SumsMark),
    /// `sums` begins after it: retention, not loss.
    Expired,
    Forgotten,
}

fn say(found: Result<Sum, codec::Undecodable>) -> String {
    match found {
        Ok(sum) => format!("{} through chunk {}", sum.value, sum.seq_no),
        Err(error) => format!("something that is no final ({error})"),
    }
}

fn reject_message(rejected: &RejectedBatch, max_payload: usize) -> (HeaderMap, Bytes) {
    let rejections = &rejected.rejections;
    let mut headers = HeaderMap::new();
    headers.insert(REJECT_REASON, rejections.reasons());
    headers.insert(REJECT_COUNT, rejections.count().to_string());
    headers.insert(REJECT_CHUNKS, rejections.describe(REJECT_CHUNKS_BYTES));
    let payload = &rejected.payload;
    if payload.len() + REJECT_CHUNKS_BYTES + HEADER_FRAME_BYTES <= max_payload {
        return (headers, payload.clone());
    }
    headers.insert(REJECT_PAYLOAD, "omitted");
    let sha1 = Value(Sha1::digest(payload).into());
    (headers, format!("length={} sha1={sha1}", payload.len()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reject::{Reason, Rejections};

    #[test]
    fn a_reject_that_would_not_fit_is_its_length_and_digest() {
        let mut rejections = Rejections::default();
        rejections.add(0, Reason::Undecodable);
        let max_payload = 1 << 20;
        let rejected =
            |bytes| RejectedBatch { position: 1, payload: vec![0; bytes].into(), rejections: rejections.clone() };
        let (headers, payload) = reject_message(&rejected(max_payload - (64 << 10)), max_payload);
        assert_eq!((headers.get(REJECT_PAYLOAD), payload.len()), (None, max_payload - (64 << 10)));
        let (headers, payload) = reject_message(&rejected(max_payload), max_payload);
        assert_eq!(headers.get(REJECT_PAYLOAD).unwrap().as_str(), "omitted");
        assert_eq!(payload, "length=1048576 sha1=3b71f43ff30f4b15b5cd85dd9e95ebc7e84eb5a3");
    }
}
