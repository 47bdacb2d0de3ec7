//! Publishing: what a refusal means, and messages that are stored once.

use crate::nats::connect::Connection;
use crate::nats::read::{self, StoredMessage, Which};
use crate::nats::retry::Pauses;
use crate::throttle::ThrottleByCause;
use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use bytes::Bytes;
use std::error::Error;

/// One server is what all publishes of a process wait for.
static COMPLAINTS: ThrottleByCause = ThrottleByCause::new();

/// Why a publish was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The subject may hold a message already. Only a hint: a leader counts what it has proposed, stored or not.
    SubjectTaken,
    /// The stream takes no more bytes.
    Full(String),
    /// Larger than the server takes.
    TooLarge,
    /// The subject's last message is another than the one that was expected.
    WrongLast,
    /// No answer, or one that may pass: the message may be stored or not.
    Unknown(String),
}

/// Whether a refusal says that the subject holds a message. nats-server has one code, 10077, for every limit of a stream,
/// so its words decide.
pub fn says_taken(description: &str) -> bool {
    description.contains("maximum messages per subject exceeded")
}

pub fn refusal(error: &PublishError) -> Refusal {
    const FULL: [&str; 5] = [
        "maximum bytes exceeded",
        "maximum messages exceeded",
        "resource limits exceeded",
        "insufficient storage",
        "insufficient resources",
    ];
    if error.kind() == PublishErrorKind::MaxPayloadExceeded {
        return Refusal::TooLarge;
    }
    let said = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>()).map(ToString::to_string);
    match said {
        Some(said) if says_taken(&said) => Refusal::SubjectTaken,
        Some(said) if said.contains("wrong last sequence") => Refusal::WrongLast,
        Some(said) if FULL.iter().any(|full| said.contains(full)) => Refusal::Full(said),
        Some(said) => Refusal::Unknown(said),
        None => Refusal::Unknown(error.to_string()),
    }
}

/// One publish: its sequence, once the leader has stored it.
pub async fn publish(
    connection: &Connection,
    stream: &str,
    subject: &str,
    headers: Option<HeaderMap>,
    payload: Bytes,
) -> Result<u64, Refusal> {
    let mut connects = connection.connects();
    connects.mark_unchanged();
    let sent = async {
        let jetstream = &connection.jetstream;
        let subject = subject.to_owned();
        match headers {
            None => jetstream.publish(subject, payload).await?.await,
            Some(headers) => jetstream.publish_with_headers(subject, headers, payload).await?.await,
        }
    };
    let acked = tokio::select! {
        acked = sent => acked,
        // What was in flight when the connection broke is lost without a word.
        _ = connects.changed() => return Err(Refusal::Unknown("the connection was lost".to_owned())),
    };
    match acked {
        Ok(ack) if ack.stream == stream => Ok(ack.sequence),
        Ok(ack) => Err(Refusal::Unknown(format!("{subject} is stored by the stream {}, not by {stream}", ack.stream))),
        Err(error) => Err(refusal(&error)),
    }
}

/// How a message came to be the one of its subject, and whether a try before had ended unknown: as long as nobody answers,
/// whoever keeps the stream may have lost its end.
#[derive(Debug)]
pub struct Published {
    pub once: Once,
    pub unknown: bool,
}

/// How a message came to be the one of its subject.
#[derive(Debug)]
pub enum Once {
    /// This publish stored it, at this sequence.
    Stored(u64),
    /// It was there before, and was read back from the leader.
    Found(StoredMessage),
}

/// Publishes to a stream that takes one message a subject, until the leader shows that there is one.
///
/// Goes on for as long as it takes: dropping the future is how to give up.
pub async fn publish_once(
    connection: &Connection,
    stream: &str,
    subject: &str,
    headers: Option<HeaderMap>,
    payload: Bytes,
) -> Published {
    let mut unknown = false;
    let mut pauses = Pauses::republishing();
    loop {
        match publish(connection, stream, subject, headers.clone(), payload.clone()).await {
            Ok(sequence) => return Published { once: Once::Stored(sequence), unknown },
            Err(Refusal::SubjectTaken) => {
                match read::message(&connection.jetstream, stream, Which::LastOf(subject)).await {
                    Ok(Some(found)) => return Published { once: Once::Found(found), unknown },
                    // Proposed, but not stored, or not yet: the next publish tells.
                    Ok(None) => {}
                    Err(cause) => {
                        if let Some(times) = COMPLAINTS.count(&cause.to_string()) {
                            tracing::warn!(stream, %cause, times, "could not read a message back: trying again");
                        }
                    }
                }
            }
            Err(Refusal::Full(cause)) => {
                if let Some(times) = COMPLAINTS.count(&cause) {
                    tracing::warn!(
                        stream,
                        cause,
                        times,
                        "the stream {stream} is full: waiting until its messages expire or its max_bytes is raised"
                    );
                }
            }
            Err(refusal) => {
                unknown = true;
                if let Some(times) = COMPLAINTS.count(&format!("{refusal:?}")) {
                    tracing::warn!(stream, ?refusal, times, "could not publish: trying again");
                }
            }
        }
        pauses.wait().await;
    }
}
