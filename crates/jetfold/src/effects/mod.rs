//! Outputs and rejects: published once a subject, and confirmed.
//!
//! Confirmed is what the leader has acknowledged, or what was read back from it equal. An effect is sent once without waiting, and its
//! acknowledgement is [gathered](acks) with those of others. If that fails, the effect goes the long way: it is published again
//! until the leader shows that a message stands at its subject, and that message is compared. What is to be done with an effect is
//! decided in [`commit`](crate::commit).

pub mod acks;

use crate::application::{Application, Output};
use crate::checkpoint::Mark;
use crate::commit::doubt::{Leader, Place};
use crate::commit::effect::{Confirmed, Conflict, Found, Kind, Looked, ReadBack, Subject};
use crate::effects::acks::Acks;
use crate::identity::MarkReading;
use crate::nats::connect::Connection;
use crate::nats::names::Names;
use crate::nats::publish::{Once, Published, publish_once};
use crate::nats::read::{self, NoAnswer, StoredMessage, Which};
use crate::refused::RejectedBatch;
use crate::time::UnixNanos;
use async_nats::{HeaderMap, SubscribeError};
use bytes::Bytes;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY as SHA1, digest};
use std::marker::PhantomData;

/// The most bytes of the `Reject-Chunks` header.
const REJECT_CHUNKS_BYTES: usize = 4 << 10;

/// Room that the server needs in a message beyond payload and header values: header names and line ends.
const HEADER_FRAME_BYTES: usize = 1 << 10;

pub const REJECT_REASON: &str = "Reject-Reason";
pub const REJECT_COUNT: &str = "Reject-Count";
pub const REJECT_CHUNKS: &str = "Reject-Chunks";
/// Set to `omitted` if the payload is not the batch but its length and SHA-1.
pub const REJECT_PAYLOAD: &str = "Reject-Payload";

/// Publishes the effects of one partition's fold.
pub struct Effects<A> {
    connection: Connection,
    names: Names,
    outputs: String,
    rejects: String,
    partition: u32,
    /// When the log was created that the store began with.
    log_born: UnixNanos,
    of: PhantomData<fn() -> A>,
}

impl<A: Application> Effects<A> {
    pub fn new(connection: Connection, names: Names, partition: u32, log_born: UnixNanos) -> Self {
        let (outputs, rejects) = (names.outputs(), names.rejects());
        Self { connection, names, outputs, rejects, partition, log_born, of: PhantomData }
    }

    /// Gathers the acknowledgements of outputs that are [sent](Effects::send).
    pub async fn acks<T>(&self) -> Result<Acks<T>, SubscribeError> {
        Acks::new(self.connection.clone(), self.outputs.clone()).await
    }

    /// Publishes an output once, if that can be done without waiting; says whether it was. One that is not acknowledged is
    /// to be [published](Effects::publish_output) for good.
    pub fn send<T>(&self, acks: &mut Acks<T>, output: &A::Output, what: T) -> bool {
        acks.publish(self.names.output_subject(output), payload(output), what)
    }

    /// Publishes an output until it is confirmed, and says besides whether a try of it ended unknown.
    pub async fn publish_output(&self, output: A::Output) -> (Result<Confirmed<A::Output>, Box<Conflict>>, bool) {
        let subject = self.names.output_subject(&output);
        let Published { once, unknown } =
            publish_once(&self.connection, &self.outputs, &subject, None, payload(&output)).await;
        let confirmed =
            |sequence, already_there, key| Confirmed { place: Place { sequence, key }, already_there, differs: false };
        let confirmed = match once {
            Once::Stored(sequence) => Ok(confirmed(sequence, false, output)),
            Once::Found(message) if output.agrees(&message.payload) => Ok(confirmed(message.sequence, true, output)),
            Once::Found(message) => Err(Box::new(Conflict {
                name: A::WORDS.conflict,
                ours: output.claim(),
                subject,
                sequence: message.sequence,
                found: A::Output::found(&message.payload),
            })),
        };
        (confirmed, unknown)
    }

    /// Publishes a reject until it is confirmed, and says besides whether a try of it ended unknown.
    ///
    /// Another may stand at its subject: another version has made it, or the position was given twice. Then this one
    /// gets a subject of its own, which its content decides.
    pub async fn publish_reject(&self, rejected: &RejectedBatch) -> (Confirmed<String>, bool) {
        let position = rejected.position;
        let subject = self.names.reject_subject(self.partition, self.log_born, position);
        let max_payload = self.connection.client.server_info().max_payload;
        let message = reject_message(rejected, max_payload);
        let (found, unknown) = self.store_reject(subject, &message).await;
        let found = match found {
            Ok(confirmed) => return (confirmed, unknown),
            Err(subject) => subject,
        };
        let subject = self.names.differing_reject_subject(&found, &message.digest());
        tracing::error!(
            partition = self.partition,
            position,
            found,
            subject,
            "another reject of this position is stored already: this one gets a subject of its own"
        );
        let (stored, unknown_again) = self.store_reject(subject, &message).await;
        // Its content has decided the subject, so what stands there is the same.
        let confirmed = stored.unwrap_or_else(|subject| Confirmed {
            place: Place { sequence: 0, key: subject },
            already_there: true,
            differs: true,
        });
        (Confirmed { differs: true, ..confirmed }, unknown || unknown_again)
    }

    /// Stores a reject at a subject; the subject, if another stands there.
    async fn store_reject(
        &self,
        subject: String,
        message: &RejectMessage,
    ) -> (Result<Confirmed<String>, String>, bool) {
        let RejectMessage { headers, payload } = message.clone();
        let Published { once, unknown } =
            publish_once(&self.connection, &self.rejects, &subject, Some(headers), payload).await;
        let confirmed = |sequence, already_there| Confirmed {
            place: Place { sequence, key: subject.clone() },
            already_there,
            differs: false,
        };
        let stored = match once {
            Once::Stored(sequence) => Ok(confirmed(sequence, false)),
            Once::Found(found) if message.is(&found) => Ok(confirmed(found.sequence, true)),
            Once::Found(_) => Err(subject),
        };
        (stored, unknown)
    }

    fn stream(&self, kind: Kind) -> &str {
        match kind {
            Kind::Outputs => &self.outputs,
            Kind::Rejects => &self.rejects,
        }
    }

    /// The subject that an effect is published under.
    pub fn subject(&self, subject: &Subject<A::Output>) -> String {
        match subject {
            Subject::Output(output) => self.names.output_subject(output),
            Subject::Reject(subject) => subject.clone(),
        }
    }

    /// What a judgement needs to know about the recorded message; `None` if there is no such stream.
    pub async fn mark_reading(&self, kind: Kind, mark: &Mark) -> Result<Option<MarkReading>, NoAnswer> {
        let (jetstream, stream) = (&self.connection.jetstream, self.stream(kind));
        let Some(info) = read::stream(jetstream, stream).await? else { return Ok(None) };
        let found = read::message(jetstream, stream, Which::At(mark.sequence)).await?;
        Ok(Some(MarkReading { state: read::log_state(&info), at_mark: found.as_ref().map(StoredMessage::mark) }))
    }

    /// Who leads the stream; `None` if there is no such stream.
    pub async fn leader(&self, kind: Kind) -> Result<Option<Leader>, NoAnswer> {
        let info = read::stream(&self.connection.jetstream, self.stream(kind)).await?;
        Ok(info.as_ref().map(read::leader))
    }

    /// Whether the leader still has the message of a subject where it was confirmed, and who that is; `None` if there is
    /// no such stream.
    pub async fn look(&self, kind: Kind, sequence: u64, subject: &str) -> Result<Looked, NoAnswer> {
        let (jetstream, stream) = (&self.connection.jetstream, self.stream(kind));
        let Some(info) = read::stream(jetstream, stream).await? else { return Ok(None) };
        let found = read::message(jetstream, stream, Which::At(sequence)).await?;
        let found = match found {
            // Another's in its place: the end of the stream was lost, and has grown again.
            Some(message) if message.subject == subject => {
                let created = read::unix_nanos(info.created);
                Found::There(Mark { created, sequence, time: message.time })
            }
            None if info.state.first_sequence > sequence => Found::Expired,
            _ => Found::Forgotten,
        };
        Ok(Some((found, read::leader(&info))))
    }

    /// What the leader has at the subject of an output.
    pub async fn read_output(&self, output: &A::Output) -> Result<ReadBack, NoAnswer> {
        let subject = self.names.output_subject(output);
        let found = read::message(&self.connection.jetstream, &self.outputs, Which::LastOf(&subject)).await?;
        Ok(match found {
            Some(message) if output.agrees(&message.payload) => ReadBack::Same(message.sequence),
            Some(_) => ReadBack::Another,
            None => ReadBack::Nothing,
        })
    }

    /// What the leader has at the subject of a reject, which was compared when it was confirmed.
    pub async fn read_reject(&self, subject: &str) -> Result<ReadBack, NoAnswer> {
        let found = read::message(&self.connection.jetstream, &self.rejects, Which::LastOf(subject)).await?;
        Ok(found.map_or(ReadBack::Nothing, |message| ReadBack::Same(message.sequence)))
    }
}

fn payload(output: &impl Output) -> Bytes {
    let mut payload = Vec::with_capacity(64);
    output.encode(&mut payload);
    payload.into()
}

/// A reject as it is published.
#[derive(Clone, Debug)]
struct RejectMessage {
    headers: HeaderMap,
    payload: Bytes,
}

impl RejectMessage {
    const COMPARED: [&str; 3] = [REJECT_REASON, REJECT_COUNT, REJECT_CHUNKS];

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.as_str())
    }

    fn is(&self, found: &StoredMessage) -> bool {
        found.payload == self.payload && Self::COMPARED.iter().all(|name| found.header(name) == self.header(name))
    }

    /// Tells its content from that of others.
    fn digest(&self) -> String {
        let mut digest = Context::new(&SHA1);
        for name in Self::COMPARED {
            digest.update(self.header(name).unwrap_or_default().as_bytes());
            digest.update(b"\n");
        }
        digest.update(&self.payload);
        hex::encode(&digest.finish().as_ref()[..8])
    }
}

fn reject_message(rejected: &RejectedBatch, max_payload: usize) -> RejectMessage {
    let rejections = &rejected.rejections;
    let mut headers = HeaderMap::new();
    headers.insert(REJECT_REASON, rejections.reasons());
    headers.insert(REJECT_COUNT, rejections.count().to_string());
    headers.insert(REJECT_CHUNKS, rejections.describe(REJECT_CHUNKS_BYTES));
    let payload = &rejected.payload;
    if payload.len() + REJECT_CHUNKS_BYTES + HEADER_FRAME_BYTES <= max_payload {
        return RejectMessage { headers, payload: payload.clone() };
    }
    headers.insert(REJECT_PAYLOAD, "omitted");
    let sha1 = hex::encode(digest(&SHA1, payload));
    RejectMessage { headers, payload: format!("length={} sha1={sha1}", payload.len()).into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refused::{self, Rejections};

    #[test]
    fn a_reject_that_would_not_fit_is_its_length_and_digest() {
        let mut rejections = Rejections::default();
        rejections.add(0, refused::UNDECODABLE);
        let max_payload = 1 << 20;
        let rejected =
            |bytes| RejectedBatch { position: 1, payload: vec![0; bytes].into(), rejections: rejections.clone() };
        let fits = reject_message(&rejected(max_payload - (64 << 10)), max_payload);
        assert_eq!((fits.header(REJECT_PAYLOAD), fits.payload.len()), (None, max_payload - (64 << 10)));
        let omitted = reject_message(&rejected(max_payload), max_payload);
        assert_eq!(omitted.header(REJECT_PAYLOAD), Some("omitted"));
        assert_eq!(omitted.payload, "length=1048576 sha1=3b71f43ff30f4b15b5cd85dd9e95ebc7e84eb5a3");
        assert_ne!(fits.digest(), omitted.digest());
    }
}
