//! `Record`: what the system remembers of a run with a name, and which of its lives is the last.
//!
//! An object without content in the object store of snapshots, `runs/<name>`, holds it in its metadata. That bucket has no
//! age limit, so a record outlives the finals of its run: who comes after they have expired is told so, and does not begin
//! the run again. Snapshots are named otherwise, so summers pass over it; `nats object rm` takes it away. `sums` would be the wrong
//! place, since the record would expire with the finals, and the bucket of presence forgets within seconds.
//!
//! Each life writes the record anew before it sends anything, and the server takes it only behind the one that this life
//! has read (`Nats-Expected-Last-Subject-Sequence`). So lives are in an order, and a life whose record is no longer the last of
//! its subject knows that another one has gone on.

use crate::run::name::{RunName, Shape};
use crate::run::run_finals::RunFinals;
use crate::sum::stream_id::RunPrefix;
use async_nats::HeaderMap;
use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_ROLLUP};
use async_nats::jetstream::object_store::ObjectInfo;
use async_nats::jetstream::stream::Info;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use jetfold::nats::publish::{Refusal, publish};
use jetfold::nats::read::{self, NoAnswer, StreamNow, Which};
use jetfold::{MessageMark, UnixNanos, rfc3339};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use time::OffsetDateTime;

/// What every client of object stores writes of an object without content.
const DIGEST_OF_NOTHING: &str = "SHA-256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU=";

/// The record takes the place of the one before.
const ROLLUP_SUBJECT: &str = "sub";

/// Why a run with a name can't be begun or gone on with.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("the record of the run {name} gives no answer ({cause}): see that NATS is up")]
    NoAnswer { name: RunName, cause: NoAnswer },
    #[error(
        "the run {name} was begun with {was}, and this is {is}: start it as it was begun, or name another with --run"
    )]
    OtherShape { name: RunName, was: Shape, is: Shape },
    #[error(
        "the run {name} was begun at {began}, and sums keeps finals for {}: what it has verified can't be accounted for any \
         more, so begin another with --run",
        humantime::format_duration(*kept)
    )]
    TooOld { name: RunName, began: String, kept: Duration },
    #[error(
        "sums has lost finals that were stored after the run {name} was begun at {began}: what it has verified can't be \
         accounted for any more, so begin another with --run"
    )]
    Forgotten { name: RunName, began: String },
    #[error(
        "the record of the run {name} is of another version of this program: go on with that one, or name another with --run"
    )]
    Unreadable { name: RunName },
    #[error(
        "sums holds finals {prefix}.* already, and the run {name}, which would make them, was never begun: name another with --run"
    )]
    PrefixTaken { name: RunName, prefix: RunPrefix },
}

impl RecordError {
    /// Whether asking again may help.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::NoAnswer { .. })
    }
}

/// A life's claim to be the last of its run.
#[derive(Clone, Debug)]
pub struct Claim {
    pub name: RunName,
    pub record: Record,
    /// Where it stands in the bucket.
    sequence: u64,
}

/// What is remembered of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub shape: Shape,
    /// When it was begun, by the clock of the leader of `sums`.
    began: UnixNanos,
    sums_created: UnixNanos,
    /// The last message of `sums` then: no final of the run lies before it.
    last: (u64, UnixNanos),
    /// The number of the life that has written this.
    pub life: u64,
}

impl Record {
    /// Of a run that begins.
    fn begin(shape: Shape, sums: &StreamNow) -> Self {
        let StreamNow { info, at } = sums;
        let last = (info.state.last_sequence, read::unix_nanos(info.state.last_timestamp));
        Self { shape, began: *at, sums_created: read::unix_nanos(info.created), last, life: 1 }
    }

    /// The last message of `sums` before the first that may be a final of the run.
    pub fn before(&self) -> MessageMark {
        MessageMark { position: self.last.0, time: self.last.1 }
    }

    /// Whether `sums` has every final that was ever stored of the run.
    fn accounts(&self, name: &RunName, sums: &StreamNow) -> Result<(), RecordError> {
        let StreamNow { info, at } = sums;
        let began = || rfc3339(self.began);
        let kept = info.config.max_age;
        let age = Duration::from_nanos(u64::try_from(at.saturating_sub(self.began)).unwrap_or(0));
        if !kept.is_zero() && age >= kept {
            return Err(RecordError::TooOld { name: name.clone(), began: began(), kept });
        }
        if self.has_lost(info) {
            return Err(RecordError::Forgotten { name: name.clone(), began: began() });
        }
        Ok(())
    }

    /// Whether messages are gone that were stored after the run was begun, any of which may have been its final.
    fn has_lost(&self, sums: &Info) -> bool {
        read::unix_nanos(sums.created) != self.sums_created || sums.state.first_sequence > self.last.0 + 1
    }
}

/// The record of one run, in its bucket.
#[derive(Clone)]
pub struct Records {
    finals: RunFinals,
    name: RunName,
    bucket: String,
    subject: String,
}

impl Records {
    pub fn new(finals: RunFinals, name: RunName) -> Self {
        let bucket = finals.names.state_bucket();
        let subject = format!("$O.{bucket}.M.{}", URL_SAFE.encode(object(&name)));
        Self { finals, name, bucket, subject }
    }

    fn stream(&self) -> String {
        format!("OBJ_{}", self.bucket)
    }

    fn no_answer(&self, cause: NoAnswer) -> RecordError {
        RecordError::NoAnswer { name: self.name.clone(), cause }
    }

    /// Begins the run, or goes on with it: nothing was sent before. Asks once; who gets no answer may ask again.
    pub async fn claim(&self, shape: Shape) -> Result<Claim, RecordError> {
        let (found, sequence) = self.read().await?;
        let record = match found {
            Some(record) if record.shape != shape => {
                return Err(RecordError::OtherShape { name: self.name.clone(), was: record.shape, is: shape });
            }
            Some(record) => {
                record.accounts(&self.name, &self.sums().await?)?;
                Record { life: record.life + 1, ..record }
            }
            None => {
                // Before it is asked for finals: those that are there belong to somebody else.
                let sums = self.sums().await?;
                if self.finals.exist().await.map_err(|cause| self.no_answer(cause))? {
                    let prefix = self.finals.prefix;
                    return Err(RecordError::PrefixTaken { name: self.name.clone(), prefix });
                }
                Record::begin(shape, &sums)
            }
        };
        let sequence = self.write(&record, sequence).await?;
        Ok(Claim { name: self.name.clone(), record, sequence })
    }

    /// Whether `sums` still has every final that was ever stored of the run.
    pub async fn still_accounts(&self, claim: &Claim) -> Result<(), RecordError> {
        claim.record.accounts(&self.name, &self.sums().await?)
    }

    /// Whether another life has claimed the run since. A bucket that has lost its end says nothing.
    pub async fn is_superseded(&self, claim: &Claim) -> Result<bool, NoAnswer> {
        let jetstream = &self.finals.connection.jetstream;
        let last = read::message(jetstream, &self.stream(), Which::LastOf(&self.subject)).await?;
        Ok(last.is_some_and(|last| last.sequence > claim.sequence))
    }

    async fn sums(&self) -> Result<StreamNow, RecordError> {
        let jetstream = &self.finals.connection.jetstream;
        let sums = read::stream_now(jetstream, &self.finals.sums).await.map_err(|cause| self.no_answer(cause))?;
        sums.ok_or_else(|| self.no_answer(NoAnswer::new(format!("there is no stream {}", self.finals.sums))))
    }

    /// The record, and the sequence of what its subject holds: 0 for nothing.
    async fn read(&self) -> Result<(Option<Record>, u64), RecordError> {
        let jetstream = &self.finals.connection.jetstream;
        let found = read::message(jetstream, &self.stream(), Which::LastOf(&self.subject)).await;
        let Some(message) = found.map_err(|cause| self.no_answer(cause))? else { return Ok((None, 0)) };
        let unreadable = || RecordError::Unreadable { name: self.name.clone() };
        let info = serde_json::from_slice::<ObjectInfo>(&message.payload).map_err(|_| unreadable())?;
        if info.deleted {
            return Ok((None, message.sequence));
        }
        let record = info.metadata.get(&self.key()).and_then(|record| serde_json::from_str(record).ok());
        Ok((Some(record.ok_or_else(unreadable)?), message.sequence))
    }

    /// Writes the record behind what has this sequence.
    async fn write(&self, record: &Record, behind: u64) -> Result<u64, RecordError> {
        let record = serde_json::to_string(record).expect("a record has a JSON form");
        let info = ObjectInfo {
            name: object(&self.name),
            description: Some("a run of the chunker".to_owned()),
            metadata: [(self.key(), record)].into(),
            headers: None,
            options: None,
            bucket: self.bucket.clone(),
            nuid: hex::encode(rand::random::<[u8; 11]>()),
            size: 0,
            chunks: 0,
            modified: Some(OffsetDateTime::now_utc()),
            digest: Some(DIGEST_OF_NOTHING.to_owned()),
            deleted: false,
        };
        let payload = serde_json::to_vec(&info).expect("an object's description has a JSON form");
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, behind.to_string());
        headers.insert(NATS_ROLLUP, ROLLUP_SUBJECT);
        let stored =
            publish(&self.finals.connection, &self.stream(), &self.subject, Some(headers), payload.into()).await;
        let cause = match stored {
            Ok(sequence) => return Ok(sequence),
            Err(Refusal::WrongLast) => "another chunker has just claimed it".to_owned(),
            Err(Refusal::Unknown(cause) | Refusal::Full(cause)) => cause,
            Err(refusal) => format!("{refusal:?}"),
        };
        Err(self.no_answer(NoAnswer::new(cause)))
    }

    fn key(&self) -> String {
        self.finals.names.key("run")
    }
}

fn object(name: &RunName) -> String {
    format!("runs/{name}")
}
