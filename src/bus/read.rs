//! Reads that only the leader of a stream answers.
//!
//! Direct gets may be answered by a replica that lags behind, so none are used. What matters to the callers is the
//! difference between an answer, `Ok`, and none: a leader that says "not there" has answered.

use crate::checkpoint::{LogState, MessageMark, Position};
use crate::row::UnixNanos;
use async_nats::jetstream::context::Context;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Info, RawMessageErrorKind};

/// Nobody answered, or the answer says nothing about what was asked: asking again may help.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoAnswer(String);

const NOT_FOUND: usize = 404;

/// A stream's configuration and state; `None` where there is no such stream.
pub async fn stream(jetstream: &Context, name: &str) -> Result<Option<Info>, NoAnswer> {
    let subject = format!("STREAM.INFO.{name}");
    match jetstream.request(subject, &()).await {
        Ok(Response::Ok(info)) => Ok(Some(info)),
        Ok(Response::Err { error }) if error.code() == NOT_FOUND => Ok(None),
        Ok(Response::Err { error }) => Err(NoAnswer(error.to_string())),
        Err(error) => Err(NoAnswer(error.to_string())),
    }
}

/// Which message of a stream to read.
pub enum Which<'a> {
    At(Position),
    /// The last of a subject.
    LastOf(&'a str),
    /// The first of a subject at or after a position.
    NextOf(Position, &'a str),
}

/// One message; `None` where the leader says that there is none.
pub async fn message(jetstream: &Context, stream: &str, which: Which<'_>) -> Result<Option<StreamMessage>, NoAnswer> {
    let handle = jetstream.get_stream_no_info(stream).await.map_err(|error| NoAnswer(error.to_string()))?;
    let request = handle.raw_message_builder();
    let request = match which {
        Which::At(position) => request.sequence(position),
        Which::LastOf(subject) => request.last_by_subject(subject),
        Which::NextOf(position, subject) => request.sequence(position).next_by_subject(subject),
    };
    match request.send().await {
        Ok(message) => Ok(Some(message)),
        Err(error) => match error.kind() {
            RawMessageErrorKind::NoMessageFound => Ok(None),
            _ => Err(NoAnswer(error.to_string())),
        },
    }
}

/// Nanoseconds since the Unix epoch.
pub fn unix_nanos(at: time::OffsetDateTime) -> UnixNanos {
    UnixNanos::try_from(at.unix_timestamp_nanos()).unwrap_or(UnixNanos::MIN)
}

pub fn log_state(info: &Info) -> LogState {
    LogState {
        created: unix_nanos(info.created),
        first: info.state.first_sequence,
        last: info.state.last_sequence,
        last_time: unix_nanos(info.state.last_timestamp),
    }
}

pub fn mark(message: &StreamMessage) -> MessageMark {
    MessageMark { position: message.sequence, time: unix_nanos(message.time) }
}
