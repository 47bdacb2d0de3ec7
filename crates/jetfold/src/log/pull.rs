//! Pulling: requests that are kept outstanding on one consumer, and counted as the server counts them.
//!
//! The client library has a stream for this. There a task of its own sends the requests, and one is counted when that task
//! says that it was sent. What has been delivered in between is counted for nothing, so that the stream believes that more is
//! outstanding than is, and in the end waits for messages that nobody has asked for, until the heartbeat stays out. Here a
//! request is counted in the step that sends it.
//!
//! While nothing comes, the consumer is asked whether it has more. It is the consumer that is asked, not its stream: it
//! delivers, so its answer takes the way that the messages take.

use crate::nats::connect::Connection;
use crate::nats::heard::Heard;
use async_nats::jetstream;
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::{Client, Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use serde::Serialize;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// After so long, what is left of a request is asked for again.
const EXPIRES: Duration = Duration::from_secs(30);

/// How often the server says that it is there, while it has nothing to deliver.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// Without a word for so long, whoever should say one has forgotten the requests.
const MOST_SILENT: Duration = Duration::from_secs(6);

/// After this long without a message, the consumer is asked whether it has more.
const IDLE_CHECK: Duration = Duration::from_secs(1);

/// What the server tells, in a status, of the request that has ended.
const PENDING_MESSAGES: &str = "Nats-Pending-Messages";
const PENDING_BYTES: &str = "Nats-Pending-Bytes";

/// Why there are no more messages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    #[error("the consumer was deleted")]
    ConsumerDeleted,
    #[error("the server's heartbeat stayed out")]
    MissedHeartbeat,
    #[error("nothing has come, though there is more")]
    Behind,
    #[error("{0}")]
    Failed(String),
}

/// What one request asks for, or what several have outstanding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    pub messages: usize,
    /// Payloads, subjects and headers; 0 in a request: without a bound.
    pub bytes: usize,
}

impl Demand {
    /// The same, within what a consumer lets one request ask for; 0 or less: without a bound.
    pub fn within(self, max_batch: i64) -> Self {
        let most = usize::try_from(max_batch).ok().filter(|most| *most > 0);
        Self { messages: most.map_or(self.messages, |most| self.messages.min(most)), ..self }
    }

    /// Whether so little is outstanding that the next request, for `each`, is due.
    fn is_low(&self, each: &Demand) -> bool {
        self.messages <= each.messages / 2 || each.bytes > 0 && self.bytes <= each.bytes / 2
    }

    fn add(&mut self, other: Demand) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }

    fn remove(&mut self, other: Demand) {
        self.messages = self.messages.saturating_sub(other.messages);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// The body of a request; durations in nanoseconds.
#[derive(Serialize)]
struct Request {
    batch: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_bytes: Option<usize>,
    expires: u128,
    idle_heartbeat: u128,
}

/// The messages of one consumer.
pub struct Pull {
    client: Client,
    context: jetstream::Context,
    stream: String,
    consumer: String,
    /// Where the consumer takes requests, and where it delivers to.
    subject: String,
    inbox: String,
    arriving: Subscriber,
    each: Demand,
    request: Bytes,
    outstanding: Demand,
    silent_at: Instant,
    /// Messages that have come.
    delivered: u64,
    next_check: Instant,
    /// A question to the consumer, sent after the last message came: has it more than that?
    check: Option<BoxFuture<'static, Option<bool>>>,
    was_ahead: WasAhead,
    heard: Heard,
}

/// Whether the consumer had more when it was asked last, and nothing has come since.
#[derive(Debug, Default)]
struct WasAhead(bool);

impl WasAhead {
    /// Whether something is lost: two answers in a row say that there is more. What was stored a moment ago gets the time to
    /// arrive, and no answer says nothing.
    fn answered(&mut self, ahead: Option<bool>) -> bool {
        let before = self.0;
        self.0 = ahead.unwrap_or(before);
        before && ahead == Some(true)
    }
}

impl Pull {
    /// Each request asks for `each`; one and a half times that is outstanding at the most.
    pub async fn new(connection: &Connection, stream: &str, consumer: &str, each: Demand) -> Result<Self, PullError> {
        let (client, context) = (connection.client.clone(), connection.jetstream.clone());
        let inbox = client.new_inbox();
        let arriving = client.subscribe(inbox.clone()).await.map_err(failed)?;
        let request = Request {
            batch: each.messages,
            max_bytes: (each.bytes > 0).then_some(each.bytes),
            expires: EXPIRES.as_nanos(),
            idle_heartbeat: HEARTBEAT.as_nanos(),
        };
        Ok(Self {
            client,
            context,
            stream: stream.to_owned(),
            consumer: consumer.to_owned(),
            subject: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            inbox,
            arriving,
            each,
            request: serde_json::to_vec(&request).map_err(failed)?.into(),
            outstanding: Demand::default(),
            silent_at: Instant::now() + MOST_SILENT,
            delivered: 0,
            next_check: Instant::now() + IDLE_CHECK,
            check: None,
            was_ahead: WasAhead::default(),
            heard: Heard::default(),
        })
    }

    /// Notes there whatever comes.
    pub fn noting(mut self, heard: Heard) -> Self {
        self.heard = heard;
        self
    }

    /// The next message. Cancel-safe.
    pub async fn next(&mut self) -> Result<jetstream::Message, PullError> {
        loop {
            if self.outstanding.is_low(&self.each) {
                // If this is cancelled, nothing was sent; what comes after it happens at once.
                let (subject, inbox, request) = (self.subject.clone(), self.inbox.clone(), self.request.clone());
                self.client.publish_with_reply(subject, inbox, request).await.map_err(failed)?;
                self.outstanding.add(self.each);
            }
            let message = tokio::select! {
                // Messages before answers: a connection is first in, first out, so whatever was under way when a
                // question was answered has arrived before the answer, and must be seen before it.
                biased;
                message = self.arriving.next() => message.ok_or_else(|| failed("the connection is closed"))?,
                ahead = async { self.check.as_mut().expect("guarded").await }, if self.check.is_some() => {
                    self.check = None;
                    let now = Instant::now();
                    self.next_check = now + IDLE_CHECK;
                    if ahead.is_some() {
                        self.heard.note(now);
                    }
                    if self.was_ahead.answered(ahead) {
                        return Err(PullError::Behind);
                    }
                    continue;
                }
                () = sleep_until(self.next_check), if self.check.is_none() => {
                    let (context, delivered) = (self.context.clone(), self.delivered);
                    let (stream, consumer) = (self.stream.clone(), self.consumer.clone());
                    self.check = Some(async move { is_ahead(&context, &stream, &consumer, delivered).await }.boxed());
                    continue;
                }
                () = sleep_until(self.silent_at) => return Err(PullError::MissedHeartbeat),
            };
            let now = Instant::now();
            self.heard.note(now);
            self.silent_at = now + MOST_SILENT;
            match message.status {
                None | Some(StatusCode::OK) => {
                    (self.check, self.was_ahead, self.next_check) = (None, WasAhead::default(), now + IDLE_CHECK);
                    self.delivered += 1;
                    self.outstanding.remove(Demand { messages: 1, bytes: message.length });
                    return Ok(jetstream::Message { message, context: self.context.clone() });
                }
                Some(StatusCode::IDLE_HEARTBEAT) => {}
                Some(status) => self.outstanding.remove(left(status, &message)?),
            }
        }
    }
}

/// Whether the consumer has delivered, or has yet to deliver, more than has come. `None` if there is no answer.
async fn is_ahead(context: &jetstream::Context, stream: &str, consumer: &str, delivered: u64) -> Option<bool> {
    let stream = context.get_stream_no_info(stream).await.ok()?;
    match stream.consumer_info(consumer).await {
        Ok(info) => Some(info.num_pending > 0 || info.delivered.consumer_sequence > delivered),
        // Gone, and its last word did not reach us.
        Err(error) => (error.kind() == ConsumerInfoErrorKind::NotFound).then_some(true),
    }
}

fn failed(error: impl std::fmt::Display) -> PullError {
    PullError::Failed(error.to_string())
}

/// What a request had left when it ended; an error if it is not only the request that has.
fn left(status: StatusCode, message: &Message) -> Result<Demand, PullError> {
    let description = message.description.as_deref().unwrap_or_default();
    if description == "Consumer Deleted" {
        return Err(PullError::ConsumerDeleted);
    }
    let told = |name: &str| message.headers.as_ref()?.get(name)?.as_str().parse().ok();
    match (status, told(PENDING_MESSAGES), told(PENDING_BYTES)) {
        (StatusCode::TIMEOUT | StatusCode::REQUEST_TERMINATED, Some(messages), Some(bytes)) => {
            Ok(Demand { messages, bytes })
        }
        _ => Err(PullError::Failed(format!("{status} {description}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::HeaderMap;

    fn ended(status: u16, description: &str, told: &[(&'static str, &str)]) -> Result<Demand, PullError> {
        let status = StatusCode::from_u16(status).unwrap();
        let mut headers = HeaderMap::new();
        told.iter().for_each(|(name, value)| headers.insert(*name, *value));
        let message = Message {
            subject: "inbox".into(),
            reply: None,
            payload: Bytes::new(),
            headers: Some(headers),
            status: Some(status),
            description: Some(description.to_owned()),
            length: 0,
        };
        left(status, &message)
    }

    #[test]
    fn a_request_that_ends_says_what_it_had_left() {
        let told = [(PENDING_MESSAGES, "7"), (PENDING_BYTES, "900")];
        let rest = Ok(Demand { messages: 7, bytes: 900 });
        assert_eq!(ended(408, "Request Timeout", &told), rest);
        assert_eq!(ended(409, "Message Size Exceeds MaxBytes", &told), rest);
        assert_eq!(ended(409, "Batch Completed", &told), rest);
        assert_eq!(ended(409, "Consumer Deleted", &[]), Err(PullError::ConsumerDeleted));
        assert_eq!(ended(503, "", &[]), Err(failed("503 ")));
        assert_eq!(ended(409, "Exceeded MaxWaiting", &[]), Err(failed("409 Exceeded MaxWaiting")));
    }

    #[test]
    fn only_two_answers_in_a_row_say_that_something_is_lost() {
        for (answers, lost) in [
            (&[Some(true)] as &[_], false),
            (&[Some(true), Some(true)], true),
            (&[Some(true), Some(false), Some(true)], false),
            (&[Some(true), None, Some(true)], true),
            (&[None, None, Some(false)], false),
        ] {
            let mut was_ahead = WasAhead::default();
            let said = answers.iter().map(|ahead| was_ahead.answered(*ahead)).collect::<Vec<_>>();
            assert_eq!(said.last(), Some(&lost), "{answers:?}");
            assert!(said.iter().rev().skip(1).all(|lost| !lost), "{answers:?}");
        }
    }

    #[test]
    fn a_request_asks_for_no_more_than_the_consumer_lets_it() {
        let each = Demand { messages: 10, bytes: 1000 };
        for (max_batch, messages) in [(0, 10), (-1, 10), (7, 7), (20, 10)] {
            assert_eq!(each.within(max_batch), Demand { messages, ..each }, "{max_batch}");
        }
    }

    #[test]
    fn the_next_request_is_due_when_half_of_one_is_left() {
        let each = Demand { messages: 10, bytes: 1000 };
        let mut outstanding = Demand::default();
        assert!(outstanding.is_low(&each));
        outstanding.add(each);
        outstanding.remove(Demand { messages: 1, bytes: 499 });
        assert!(!outstanding.is_low(&each));
        outstanding.remove(Demand { messages: 1, bytes: 1 });
        assert!(outstanding.is_low(&each), "half of the bytes");
        outstanding.add(each);
        outstanding.remove(Demand { messages: 13, bytes: 13 });
        assert!(outstanding.is_low(&each), "half of the messages");
        assert!(!Demand { messages: 6, bytes: 0 }.is_low(&Demand { messages: 10, bytes: 0 }), "bytes are not bounded");
    }
}
