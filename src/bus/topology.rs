//! The topology: the JetStream objects of one system, made, checked and shown.
//!
//! What the fold reads stands in the metadata of the partition logs, where every process finds the same.

use crate::bus::names::Names;
use crate::bus::read::NoAnswer;
use crate::row::Expiry;
use crate::transaction::Rules;
use crate::values::{Size, Span, parsed};
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Put before every name and subject; empty: nothing.
    #[serde(deserialize_with = "parsed")]
    pub prefix: String,
    /// Partition logs, 1 to 4096.
    #[serde(deserialize_with = "parsed")]
    pub partitions: u32,
    /// Copies of everything: 1, 3 or 5.
    #[serde(deserialize_with = "parsed")]
    pub replicas: usize,
    /// The most bytes of one partition log, and of `rejects`.
    pub log_max_bytes: Size,
    /// The most bytes of `sums`.
    pub sums_max_bytes: Size,
    /// How long finals are kept.
    pub sums_retention: Span,
    /// How long rejects are kept.
    pub rejects_retention: Span,
    /// The most data of one chunk.
    pub max_chunk_bytes: Size,
    /// How long a live stream is remembered without a new chunk, in log time.
    pub idle_expiry: Span,
    /// How long a completed stream is remembered, in log time.
    pub completed_expiry: Span,
    /// The keys that somebody has set, as opposed to defaults, of those where it matters: only what is set can disagree
    /// with the logs.
    #[serde(skip)]
    pub stated: BTreeSet<String>,
}

/// What one message needs beyond the largest chunk: its encoding, subject and headers.
pub const PAYLOAD_HEADROOM: usize = 128 << 10;

/// What our own batches stay below the server's `max_payload`, so that a reject with its headers still fits.
pub const REJECT_HEADROOM: usize = 64 << 10;

/// The version of the wire format and of the fold.
pub(super) const FORMAT: &str = "2";

/// One that this version takes over: its wire format is the same, and its log time was another.
pub(super) const OLDER_FORMAT: &str = "1";
pub(super) const FORMAT_KEY: &str = "stream-sum.format";
pub(super) const PARTITIONS_KEY: &str = "stream-sum.partitions";
pub(super) const MAX_CHUNK_BYTES_KEY: &str = "stream-sum.max-chunk-bytes";
pub(super) const IDLE_EXPIRY_KEY: &str = "stream-sum.idle-expiry";
pub(super) const COMPLETED_EXPIRY_KEY: &str = "stream-sum.completed-expiry";

/// The bucket of presence holds one small entry a worker, each for this long.
const MEMBERS_AGE: Duration = Duration::from_secs(30);
const MEMBERS_BYTES: i64 = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    #[error("there is no stream {name} at {servers}: run `stream-sum topology apply` first")]
    Missing { name: String, servers: String },
    #[error("the stream {name} was not made by stream-sum: name another topology.prefix, or remove that stream")]
    NotOurs { name: String },
    #[error(
        "{key} is {wanted} here, but {found} in the log {name}: set it to {found}, or use another topology.prefix; it \
         can't be changed, because every sum so far depends on it"
    )]
    Disagrees { key: &'static str, name: String, wanted: String, found: String },
    #[error(
        "the stream {name} has format {OLDER_FORMAT}, and this version works with {FORMAT}: stop every process of the older \
         version, and run `stream-sum topology apply`, which raises it"
    )]
    Older { name: String },
    #[error("the stream {name} has format {found}, which this version does not know: use the version that made it")]
    Newer { name: String, found: String },
    #[error("the stream {name} has {what}: it must have {wanted}. Remove it and run `stream-sum topology apply`")]
    Misshapen { name: String, what: String, wanted: String },
    #[error("the log {name} says {key} {found}, which this version does not know: use the version that made it")]
    Unreadable { key: &'static str, name: String, found: String },
    #[error(
        "max_payload of the NATS server at {servers} is {found}: it must be {needed} at least, to carry chunks of \
         topology.max_chunk_bytes; raise the one or lower the other"
    )]
    SmallPayload { servers: String, found: Size, needed: Size },
    #[error(
        "JetStream at {servers} has no room for the stream {name}, which reserves {bytes} ({cause}): give JetStream \
         more storage, or lower topology.log_max_bytes and topology.sums_max_bytes"
    )]
    NoRoom { name: String, servers: String, bytes: Size, cause: String },
    #[error("JetStream at {servers} refuses the stream {name}: {cause}")]
    Refused { name: String, servers: String, cause: String },
    #[error("JetStream at {servers} gives no answer ({cause}): see that the server runs with JetStream enabled")]
    NoAnswer { servers: String, cause: NoAnswer },
}

/// The facts on which every process of a system agrees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    pub names: Names,
    pub partitions: u32,
    pub max_chunk_bytes: usize,
    pub expiry: Expiry,
    /// Whether `sums` refuses a second message of a subject.
    pub once_only: bool,
}

impl Topology {
    pub fn rules(&self, partition: u32) -> Rules {
        Rules { partition, partitions: self.partitions, max_chunk_bytes: self.max_chunk_bytes, expiry: self.expiry }
    }
}

/// The fields of a stream on which the guarantees rest, and which therefore are never changed in place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shape<'a> {
    subjects: &'a [String],
    retention: RetentionPolicy,
    discard: DiscardPolicy,
    pub(super) once_a_subject: bool,
}

impl<'a> Shape<'a> {
    pub(super) fn of(config: &'a stream::Config) -> Self {
        Self {
            subjects: &config.subjects,
            retention: config.retention,
            discard: config.discard,
            once_a_subject: config.max_messages_per_subject == 1 && config.discard_new_per_subject,
        }
    }

    /// What differs first, and what it should be.
    pub(super) fn difference(&self, wanted: &Shape<'_>) -> Option<(String, String)> {
        let pair = |name: &str, found: &dyn fmt::Debug, wanted: &dyn fmt::Debug| {
            (format!("{name} {found:?}"), format!("{wanted:?}"))
        };
        if self.subjects != wanted.subjects {
            return Some(pair("subjects", &self.subjects, &wanted.subjects));
        }
        if self.retention != wanted.retention {
            return Some(pair("retention", &self.retention, &wanted.retention));
        }
        if self.discard != wanted.discard {
            return Some(pair("discard", &self.discard, &wanted.discard));
        }
        (self.once_a_subject != wanted.once_a_subject).then(|| {
            let words = |once| if once { "one message a subject" } else { "many messages a subject" };
            (words(self.once_a_subject).to_owned(), words(wanted.once_a_subject).to_owned())
        })
    }
}

impl Config {
    pub(super) fn names(&self) -> Names {
        Names::new(&self.prefix)
    }

    /// Everything that a system needs, in the order in which it is made.
    pub(super) fn streams(&self) -> Vec<stream::Config> {
        let names = self.names();
        let ours = HashMap::from([(FORMAT_KEY.to_owned(), FORMAT.to_owned())]);
        let base = stream::Config {
            storage: StorageType::File,
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::New,
            num_replicas: self.replicas,
            metadata: ours,
            ..stream::Config::default()
        };
        let once_a_subject =
            stream::Config { max_messages_per_subject: 1, discard_new_per_subject: true, ..base.clone() };
        let mut streams: Vec<_> = (0..self.partitions)
            .map(|partition| stream::Config {
                name: names.log(partition),
                description: Some(format!("stream-sum: chunk batches of partition {partition}")),
                subjects: vec![names.log_subject(partition)],
                max_bytes: bytes(self.log_max_bytes),
                metadata: self.log_metadata(),
                ..base.clone()
            })
            .collect();
        streams.push(stream::Config {
            name: names.sums(),
            description: Some("stream-sum: the final of every stream, once a subject".to_owned()),
            subjects: vec![names.sums_subjects()],
            max_bytes: bytes(self.sums_max_bytes),
            max_age: self.sums_retention.0,
            ..once_a_subject.clone()
        });
        streams.push(stream::Config {
            name: names.rejects(),
            description: Some("stream-sum: batches that held something rejected".to_owned()),
            subjects: vec![names.rejects_subjects()],
            max_bytes: bytes(self.log_max_bytes),
            max_age: self.rejects_retention.0,
            ..once_a_subject
        });
        // The shapes that every client library gives to an object store and to a key-value bucket.
        let state = names.state_bucket();
        streams.push(stream::Config {
            name: format!("OBJ_{state}"),
            description: Some("stream-sum: snapshots".to_owned()),
            subjects: vec![format!("$O.{state}.C.>"), format!("$O.{state}.M.>")],
            max_bytes: -1,
            allow_rollup: true,
            allow_direct: true,
            ..base.clone()
        });
        let members = names.members_bucket();
        streams.push(stream::Config {
            name: format!("KV_{members}"),
            description: Some("stream-sum: workers that are there".to_owned()),
            subjects: vec![format!("$KV.{members}.>")],
            max_bytes: MEMBERS_BYTES,
            max_messages_per_subject: 1,
            max_age: MEMBERS_AGE,
            allow_rollup: true,
            allow_direct: true,
            deny_delete: true,
            ..base
        });
        streams
    }

    fn log_metadata(&self) -> HashMap<String, String> {
        HashMap::from([
            (FORMAT_KEY.to_owned(), FORMAT.to_owned()),
            (PARTITIONS_KEY.to_owned(), self.partitions.to_string()),
            (MAX_CHUNK_BYTES_KEY.to_owned(), self.max_chunk_bytes.to_string()),
            (IDLE_EXPIRY_KEY.to_owned(), self.idle_expiry.to_string()),
            (COMPLETED_EXPIRY_KEY.to_owned(), self.completed_expiry.to_string()),
        ])
    }
}

fn bytes(size: Size) -> i64 {
    i64::try_from(size.0).unwrap_or(i64::MAX)
}
