//! The topology: the JetStream objects of one system, made, checked and shown.
//!
//! What the fold reads stands in the metadata of the partition logs, where every process finds the same.

use crate::bus::names::Names;
use crate::bus::read::NoAnswer;
use crate::row::Expiry;
use crate::summer::Rules;
use crate::values::{Size, Span, parsed};
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
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

/// What a log's largest message must exceed the largest chunk by.
pub(super) const LEAST_HEADROOM: usize = 64 << 10;

/// What our own batches stay below the server's `max_payload`, so that a reject with its headers still fits.
pub const REJECT_HEADROOM: usize = 64 << 10;

/// The version of the wire format and of the fold.
pub(super) const FORMAT: &str = "2";

/// One that this version takes over: its wire format is the same, and its log time was another.
pub(super) const OLDER_FORMAT: &str = "1";
pub(super) const FORMAT_KEY: &str = "stream-sum.format";
pub(crate) const PARTITIONS_KEY: &str = "stream-sum.partitions";
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
    #[error(
        "the log {name} is gone from {servers}, though others of its system are there: bring it back from a backup, or make it \
         anew with `stream-sum topology apply` and let each summer go on with --accept replaced:{partition}"
    )]
    LogGone { name: String, servers: String, partition: u32 },
    #[error(
        "the stream {name} lacks metadata of stream-sum ({missing}): where it is this system's, and a tool has dropped \
         that, `stream-sum topology apply --adopt` puts it back; where it is somebody else's, name another topology.prefix"
    )]
    NotOurs { name: String, missing: String },
    #[error("{changes}: name --force to do it all the same")]
    Lossy { changes: String },
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
    #[error(
        "the stream {name} has {what}: it must have {wanted}, or nothing is guaranteed. Set it back, as with `nats stream edit`, \
         or name another topology.prefix"
    )]
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
    /// Copies that JetStream keeps of the first log.
    pub replicas: usize,
    pub max_chunk_bytes: usize,
    /// The most bytes of one message that every log takes; `None`: as many as the server.
    pub max_message_bytes: Option<usize>,
    pub expiry: Expiry,
    /// Whether `sums` refuses a second message of a subject.
    pub once_only: bool,
}

impl Topology {
    pub fn rules(&self) -> Rules {
        Rules { max_chunk_bytes: self.max_chunk_bytes, expiry: self.expiry }
    }
}

/// Which limits of one stream somebody has named, and what kind it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Named {
    pub replicas: bool,
    pub max_bytes: bool,
    pub max_age: bool,
    pub is_log: bool,
}

impl Config {
    /// Those for which it matters whether somebody has set them.
    pub const KEYS: [&'static str; 9] = [
        "partitions",
        "replicas",
        "log_max_bytes",
        "sums_max_bytes",
        "sums_retention",
        "rejects_retention",
        "max_chunk_bytes",
        "idle_expiry",
        "completed_expiry",
    ];

    pub(super) fn names(&self) -> Names {
        Names::new(&self.prefix)
    }

    pub(super) fn is_stated(&self, key: &str) -> bool {
        self.stated.contains(key)
    }

    /// Which limits of a stream are named.
    pub fn named(&self, stream: &str) -> Named {
        let names = self.names();
        let replicas = self.is_stated("replicas");
        let bounded = |bytes: &str, age: Option<&str>| Named {
            replicas,
            max_bytes: self.is_stated(bytes),
            max_age: age.is_some_and(|age| self.is_stated(age)),
            is_log: false,
        };
        if stream == names.sums() {
            bounded("sums_max_bytes", Some("sums_retention"))
        } else if stream == names.rejects() {
            bounded("log_max_bytes", Some("rejects_retention"))
        } else if (0..self.partitions).any(|partition| stream == names.log(partition)) {
            Named { is_log: true, ..bounded("log_max_bytes", None) }
        } else {
            Named { replicas, ..Named::default() }
        }
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
