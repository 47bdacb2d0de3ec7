//! Reads that only the leader of a stream answers.
//!
//! Direct gets may be answered by a replica that lags behind, so none are used. What matters to the callers is the
//! difference between an answer, `Ok`, and none: a leader that says "not there" has answered.

use crate::checkpoint::Position;
use crate::commit::doubt::Leader;
use crate::identity::{LogState, MessageMark};
use crate::time::UnixNanos;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::Context;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::Info;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::Duration;
use time::format_description::well_known::Rfc3339;

/// Nobody answered, or the answer says nothing about what was asked: asking again may help.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoAnswer(String);

impl NoAnswer {
    pub fn new(cause: String) -> Self {
        Self(cause)
    }
}

const NOT_FOUND: usize = 404;

/// A stream's configuration and state; `None` if there is no such stream.
pub async fn stream(jetstream: &Context, name: &str) -> Result<Option<Info>, NoAnswer> {
    let subject = format!("STREAM.INFO.{name}");
    match jetstream.request(subject, &()).await {
        Ok(Response::Ok(info)) => Ok(Some(info)),
        Ok(Response::Err { error }) if error.code() == NOT_FOUND => Ok(None),
        Ok(Response::Err { error }) => Err(NoAnswer(error.to_string())),
        Err(error) => Err(NoAnswer(error.to_string())),
    }
}

/// A stream as its leader knows it at one moment.
pub struct StreamNow {
    pub info: Info,
    /// When, by the leader's clock, which stamps the messages too; by this machine's clock if the server does not say.
    pub at: UnixNanos,
}

#[derive(Deserialize)]
struct StampedInfo {
    #[serde(rename = "ts")]
    at: Option<String>,
    #[serde(flatten)]
    info: Info,
}

/// The same, and when that was; `None` if there is no such stream.
pub async fn stream_now(jetstream: &Context, name: &str) -> Result<Option<StreamNow>, NoAnswer> {
    match jetstream.request(format!("STREAM.INFO.{name}"), &()).await {
        Ok(Response::Ok(StampedInfo { at, info })) => Ok(Some(StreamNow { info, at: told_at(at) })),
        Ok(Response::Err { error }) if error.code() == NOT_FOUND => Ok(None),
        Ok(Response::Err { error }) => Err(NoAnswer(error.to_string())),
        Err(error) => Err(NoAnswer(error.to_string())),
    }
}

/// When a server has answered, if it says so; else what the clock says here.
fn told_at(at: Option<String>) -> UnixNanos {
    let at = at.and_then(|at| time::OffsetDateTime::parse(&at, &Rfc3339).ok());
    unix_nanos(at.unwrap_or_else(time::OffsetDateTime::now_utc))
}

/// How long a consumer may be inactive before it is cleared away: `wanted`, or less if the stream lets none have so much.
pub async fn inactive_threshold(jetstream: &Context, name: &str, wanted: Duration) -> Result<Duration, NoAnswer> {
    let info = stream(jetstream, name).await?;
    let limits = info.and_then(|info| info.config.consumer_limits);
    let most = limits.map(|limits| limits.inactive_threshold).filter(|most| !most.is_zero());
    Ok(most.map_or(wanted, |most| most.min(wanted)))
}

/// The names of a stream's consumers.
pub async fn consumers(jetstream: &Context, stream: &str) -> Result<Vec<String>, NoAnswer> {
    let refuse = |error: &dyn std::fmt::Display| NoAnswer(error.to_string());
    let stream = jetstream.get_stream_no_info(stream).await.map_err(|error| refuse(&error))?;
    stream.consumer_names().try_collect().await.map_err(|error| refuse(&error))
}

/// Purges a stream up to a sequence, exclusive: that message stays.
pub async fn purge_before(jetstream: &Context, stream: &str, sequence: Position) -> Result<(), NoAnswer> {
    let refuse = |error: &dyn std::fmt::Display| NoAnswer(error.to_string());
    let stream = jetstream.get_stream_no_info(stream).await.map_err(|error| refuse(&error))?;
    stream.purge().sequence(sequence).await.map(|_| ()).map_err(|error| refuse(&error))
}

/// Which message of a stream to read.
pub enum Which<'a> {
    At(Position),
    /// The last of a subject.
    LastOf(&'a str),
    /// The first of a subject at or after a position.
    NextOf(Position, &'a str),
}

/// A message as its stream holds it.
#[derive(Clone, Debug)]
pub struct StoredMessage {
    pub subject: String,
    pub sequence: Position,
    pub time: UnixNanos,
    pub payload: Bytes,
    /// As they were sent; empty if there are none. A foreign client may have sent anything at all.
    headers: Vec<u8>,
}

impl StoredMessage {
    /// With headers as they were sent, and nothing else.
    pub(crate) fn with_headers(headers: Vec<u8>) -> Self {
        Self { subject: String::new(), sequence: 1, time: 1, payload: Bytes::new(), headers }
    }

    pub fn mark(&self) -> MessageMark {
        MessageMark { position: self.sequence, time: self.time }
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.headers.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
        let mut pairs = lines.filter_map(|line| line.split_once(':'));
        pairs.find(|(found, _)| *found == name).map(|(_, value)| value.trim())
    }

    /// The value of a header as the client hands it out with a message that is pulled: lines that begin with a space go on with the
    /// one before. What decides about a batch must be read the same in both ways.
    pub fn unfolded_header(&self, name: &str) -> Option<String> {
        let lines = self.headers.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
        let mut lines = lines.map(|line| line.strip_suffix('\r').unwrap_or(line));
        let of_name =
            |line: &str| line.strip_prefix(name)?.strip_prefix(':').map(|value| value.trim_start().to_owned());
        let mut value = lines.find_map(of_name)?;
        lines.take_while(|line| line.starts_with(char::is_whitespace)).for_each(|line| value.push_str(line));
        value.truncate(value.trim_end().len());
        Some(value)
    }
}

/// The subject on which the leader of a stream is asked for a message.
pub fn message_question(stream: &str) -> String {
    format!("$JS.API.STREAM.MSG.GET.{stream}")
}

#[derive(Default, Serialize)]
struct Request<'a> {
    #[serde(rename = "seq", skip_serializing_if = "Option::is_none")]
    sequence: Option<Position>,
    #[serde(rename = "last_by_subj", skip_serializing_if = "Option::is_none")]
    last_of: Option<&'a str>,
    #[serde(rename = "next_by_subj", skip_serializing_if = "Option::is_none")]
    next_of: Option<&'a str>,
}

#[derive(Deserialize)]
struct Found {
    message: Raw,
}

#[derive(Deserialize)]
struct Raw {
    subject: String,
    #[serde(rename = "seq")]
    sequence: Position,
    #[serde(default)]
    data: String,
    #[serde(default, rename = "hdrs")]
    headers: String,
    time: String,
}

/// One message; `None` if the leader says that there is none.
///
/// The client's own reading of messages fails on headers that break its rules, which a server stores all the same: so
/// they are not parsed here.
pub async fn message(jetstream: &Context, stream: &str, which: Which<'_>) -> Result<Option<StoredMessage>, NoAnswer> {
    let request = match which {
        Which::At(position) => Request { sequence: Some(position), ..Request::default() },
        Which::LastOf(subject) => Request { last_of: Some(subject), ..Request::default() },
        Which::NextOf(position, subject) => Request { sequence: Some(position), next_of: Some(subject), last_of: None },
    };
    let raw = match jetstream.request(format!("STREAM.MSG.GET.{stream}"), &request).await {
        Ok(Response::Ok(Found { message })) => message,
        Ok(Response::Err { error }) if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => return Ok(None),
        Ok(Response::Err { error }) => return Err(NoAnswer(error.to_string())),
        Err(error) => return Err(NoAnswer(error.to_string())),
    };
    let undecoded = |error: base64::DecodeError| NoAnswer(error.to_string());
    let time = time::OffsetDateTime::parse(&raw.time, &Rfc3339).map_err(|error| NoAnswer(error.to_string()))?;
    Ok(Some(StoredMessage {
        subject: raw.subject,
        sequence: raw.sequence,
        time: unix_nanos(time),
        payload: STANDARD.decode(raw.data).map_err(undecoded)?.into(),
        headers: STANDARD.decode(raw.headers).map_err(undecoded)?,
    }))
}

/// Nanoseconds since the Unix epoch.
pub fn unix_nanos(at: time::OffsetDateTime) -> UnixNanos {
    UnixNanos::try_from(at.unix_timestamp_nanos()).unwrap_or(UnixNanos::MIN)
}

/// Who leads a stream. A server by itself names nobody, and a stream with one replica no time.
pub fn leader(info: &Info) -> Leader {
    let cluster = info.cluster.as_ref();
    Leader {
        name: cluster.and_then(|cluster| cluster.leader.clone()),
        since: cluster.and_then(|cluster| cluster.leader_since).map(unix_nanos),
        created: unix_nanos(info.created),
    }
}

pub fn log_state(info: &Info) -> LogState {
    LogState {
        created: unix_nanos(info.created),
        first: info.state.first_sequence,
        first_time: unix_nanos(info.state.first_timestamp),
        last: info.state.last_sequence,
        last_time: unix_nanos(info.state.last_timestamp),
    }
}

/// What the leader of a stream says of its subjects.
pub struct Subjects {
    /// When, by the leader's clock; by this machine's clock if the server does not say.
    pub at: UnixNanos,
    /// How many messages each subject has.
    pub counts: HashMap<String, usize>,
}

#[derive(Serialize)]
struct SubjectsRequest<'a> {
    subjects_filter: &'a str,
    offset: usize,
}

#[derive(Deserialize)]
struct SubjectsPage {
    #[serde(default)]
    total: usize,
    #[serde(rename = "ts")]
    at: Option<String>,
    state: SubjectsState,
}

#[derive(Deserialize)]
struct SubjectsState {
    subjects: Option<HashMap<String, usize>>,
}

/// The subjects of a stream that match `filter`; `None` if there is no such stream.
pub async fn subjects(jetstream: &Context, stream: &str, filter: &str) -> Result<Option<Subjects>, NoAnswer> {
    let mut counts = HashMap::new();
    let mut first_at = None;
    let mut offset = 0;
    loop {
        let request = SubjectsRequest { subjects_filter: filter, offset };
        let page: SubjectsPage = match jetstream.request(format!("STREAM.INFO.{stream}"), &request).await {
            Ok(Response::Ok(page)) => page,
            Ok(Response::Err { error }) if error.code() == NOT_FOUND => return Ok(None),
            Ok(Response::Err { error }) => return Err(NoAnswer(error.to_string())),
            Err(error) => return Err(NoAnswer(error.to_string())),
        };
        // The first page's: an age that is told too young does no harm.
        let at = *first_at.get_or_insert_with(|| told_at(page.at));
        let subjects = page.state.subjects.unwrap_or_default();
        offset += subjects.len();
        let is_last = subjects.is_empty() || offset >= page.total;
        counts.extend(subjects);
        if is_last {
            return Ok(Some(Subjects { at, counts }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_the_client_reads_it() {
        for (headers, expected) in [
            ("NATS/1.0\r\nStamp: a 1 1 1\r\n\r\n", Some("a 1 1 1")),
            ("NATS/1.0\r\nOther: b\r\nStamp:a 1\r\nStamp: second\r\n\r\n", Some("a 1")),
            ("NATS/1.0\r\nStamp: a 1\r\n 1\t\r\n\t1 \r\nOther: b\r\n\r\n", Some("a 1 1\t\t1")),
            ("NATS/1.0\r\nOther: b\r\n Stamp: a\r\nstamp: a\r\nStamps: a\r\n\r\n", None),
            ("", None),
        ] {
            let message = StoredMessage::with_headers(headers.as_bytes().to_vec());
            assert_eq!(message.unfolded_header("Stamp").as_deref(), expected);
        }
    }
}
