//! The topology: the JetStream objects of one system, made, checked and shown.
//!
//! What the fold reads stands in the metadata of the partition logs, where every process finds the same.

use crate::application::{Application, Facts, Input};
use crate::nats::names::Names;
use crate::nats::read::NoAnswer;
use crate::values::{Size, Span, parsed};
use crate::words::Words;
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// What a system is to consist of.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
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
    /// The most bytes of one partition log, and of the stream of rejects.
    pub log_max_bytes: Size,
    /// The most bytes of the stream of outputs.
    pub outputs_max_bytes: Size,
    /// How long outputs are kept.
    pub outputs_retention: Span,
    /// How long rejects are kept.
    pub rejects_retention: Span,
    /// The keys, and the names of facts, that somebody has set, as opposed to defaults: only what is set can disagree with the
    /// logs.
    #[serde(skip)]
    pub stated: BTreeSet<String>,
}

impl Default for Config {
    fn default() -> Self {
        let day = Span(Duration::from_secs(24 * 3600));
        Self {
            prefix: String::new(),
            partitions: 8,
            replicas: 1,
            log_max_bytes: Size(1 << 30),
            outputs_max_bytes: Size(4 << 30),
            outputs_retention: day,
            rejects_retention: day,
            stated: BTreeSet::new(),
        }
    }
}

/// Partition logs of one system, at the most.
pub const MOST_PARTITIONS: u32 = 4096;

/// The number of partitions that a log says, if there can be so many.
pub fn partitions_said(text: &str) -> Option<u32> {
    text.parse().ok().filter(|partitions| (1..=MOST_PARTITIONS).contains(partitions))
}

/// A value that no system can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} is not valid: it must be {expected}")]
pub struct OutOfRange {
    pub key: &'static str,
    pub expected: &'static str,
}

/// What one message needs beyond the largest record: its encoding, subject and headers.
pub const PAYLOAD_HEADROOM: usize = 128 << 10;

/// What a log's largest message must exceed the largest record by.
pub(super) const LEAST_HEADROOM: usize = 64 << 10;

/// What our own batches stay below the server's `max_payload`, so that a reject with its headers still fits.
pub const REJECT_HEADROOM: usize = 64 << 10;

/// Keys of metadata, and what the operator sets them with.
pub(super) const FORMAT: &str = "format";
pub const PARTITIONS: &str = "partitions";

/// The bucket of presence holds one small entry a worker, each for this long.
const MEMBERS_AGE: Duration = Duration::from_secs(30);
const MEMBERS_BYTES: i64 = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    #[error("there is no stream {name} at {servers}: run `{}` first", words.apply)]
    Missing { name: String, servers: String, words: &'static Words },
    #[error(
        "the log {name} is gone from {servers}, though others of its system are there: bring it back from a backup, or make it \
         anew with `{}` and let each {} go on with {} replaced:{partition}", words.apply, words.worker, words.accept
    )]
    LogGone { name: String, servers: String, partition: u32, words: &'static Words },
    #[error(
        "the stream {name} lacks metadata of {application} ({missing}): where it is this system's, and a tool has dropped \
         that, `{}` puts it back; where it is somebody else's, name another topology.prefix", words.adopt
    )]
    NotOurs { name: String, missing: String, application: &'static str, words: &'static Words },
    #[error("{changes}: name {} to do it all the same", words.force)]
    Lossy { changes: String, words: &'static Words },
    #[error(
        "{key} is {wanted} here, but {found} in the log {name}: set it to {found}, or use another topology.prefix; it \
         can't be changed, because every {} so far depends on it", words.result
    )]
    Disagrees { key: String, name: String, wanted: String, found: String, words: &'static Words },
    #[error(
        "the stream {name} has format {found}, and this version works with {format}: stop every process of the older \
         version, and run `{}`, which raises it", words.apply
    )]
    Older { name: String, found: u32, format: u32, words: &'static Words },
    #[error("the stream {name} has format {found}, which this version does not know: use the version that made it")]
    Newer { name: String, found: String },
    #[error(
        "the stream {name} has {what}: it must have {wanted}, or nothing is guaranteed. Set it back, as with `nats stream edit`, \
         or name another topology.prefix"
    )]
    Misshapen { name: String, what: String, wanted: String },
    #[error("the log {name} says {key} {found}, which this version does not know: use the version that made it")]
    Unreadable { key: String, name: String, found: String },
    #[error(
        "max_payload of the NATS server at {servers} is {found}: it must be {needed} at least, to carry {} of \
         {}; raise the one or lower the other", words.records, words.largest_record
    )]
    SmallPayload { servers: String, found: Size, needed: Size, words: &'static Words },
    #[error(
        "JetStream at {servers} has no room for the stream {name}, which reserves {bytes} ({cause}): give JetStream \
         more storage, or lower topology.log_max_bytes and {}", words.outputs_max_bytes
    )]
    NoRoom { name: String, servers: String, bytes: Size, cause: String, words: &'static Words },
    #[error("JetStream at {servers} refuses the stream {name}: {cause}")]
    Refused { name: String, servers: String, cause: String },
    #[error("JetStream at {servers} gives no answer ({cause}): see that the server runs with JetStream enabled")]
    NoAnswer { servers: String, cause: NoAnswer },
}

/// The facts on which every process of a system agrees.
#[derive(Clone, Debug)]
pub struct Topology<A> {
    pub names: Names,
    pub partitions: u32,
    /// Copies that JetStream keeps of the first log.
    pub replicas: usize,
    /// The most bytes of one message that every log takes; `None`: as many as the server.
    pub max_message_bytes: Option<usize>,
    /// Whether the stream of outputs refuses a second message of a subject.
    pub once_only: bool,
    /// The application, with the facts of the logs.
    pub application: A,
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
    /// Whether there can be such a system.
    pub fn check(&self) -> Result<(), OutOfRange> {
        let must = |holds: bool, key, expected| if holds { Ok(()) } else { Err(OutOfRange { key, expected }) };
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        must(plain(&self.prefix), "topology.prefix", "made of A-Z a-z 0-9 _ -")?;
        must((1..=MOST_PARTITIONS).contains(&self.partitions), "topology.partitions", "from 1 to 4096")?;
        must(matches!(self.replicas, 1 | 3 | 5), "topology.replicas", "1, 3 or 5")
    }

    pub(super) fn is_stated(&self, key: &str) -> bool {
        self.stated.contains(key)
    }

    /// Which limits of a stream are named.
    pub(super) fn named(&self, names: &Names, stream: &str) -> Named {
        let replicas = self.is_stated("replicas");
        let bounded = |bytes: &str, age: Option<&str>| Named {
            replicas,
            max_bytes: self.is_stated(bytes),
            max_age: age.is_some_and(|age| self.is_stated(age)),
            is_log: false,
        };
        if stream == names.outputs() {
            bounded("outputs_max_bytes", Some("outputs_retention"))
        } else if stream == names.rejects() {
            bounded("log_max_bytes", Some("rejects_retention"))
        } else if (0..self.partitions).any(|partition| stream == names.log(partition)) {
            Named { is_log: true, ..bounded("log_max_bytes", None) }
        } else {
            Named { replicas, ..Named::default() }
        }
    }

    /// Everything that a system needs, in the order in which it is made.
    pub(super) fn streams<A: Application>(&self, names: &Names, facts: &Facts) -> Vec<stream::Config> {
        let described = |what: &str| Some(format!("{}: {what}", A::NAME));
        let ours = HashMap::from([(names.key(FORMAT), A::FORMAT.to_string())]);
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
                description: described(&format!("{} batches of partition {partition}", A::WORDS.record)),
                subjects: log_subjects::<A>(names, partition),
                max_bytes: bytes(self.log_max_bytes),
                metadata: self.log_metadata::<A>(names, facts),
                ..base.clone()
            })
            .collect();
        streams.push(stream::Config {
            name: names.outputs(),
            description: described(A::WORDS.outputs_described),
            subjects: vec![names.outputs_subjects()],
            max_bytes: bytes(self.outputs_max_bytes),
            max_age: self.outputs_retention.0,
            ..once_a_subject.clone()
        });
        streams.push(stream::Config {
            name: names.rejects(),
            description: described("batches that held something rejected"),
            subjects: vec![names.rejects_subjects()],
            max_bytes: bytes(self.log_max_bytes),
            max_age: self.rejects_retention.0,
            ..once_a_subject
        });
        // The shapes that every client library gives to an object store and to a key-value bucket.
        let state = names.state_bucket();
        streams.push(stream::Config {
            name: format!("OBJ_{state}"),
            description: described("snapshots"),
            subjects: vec![format!("$O.{state}.C.>"), format!("$O.{state}.M.>")],
            max_bytes: -1,
            allow_rollup: true,
            allow_direct: true,
            ..base.clone()
        });
        let members = names.members_bucket();
        streams.push(stream::Config {
            name: format!("KV_{members}"),
            description: described("workers that are there"),
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

    fn log_metadata<A: Application>(&self, names: &Names, facts: &Facts) -> HashMap<String, String> {
        let own = [(names.key(FORMAT), A::FORMAT.to_string()), (names.key(PARTITIONS), self.partitions.to_string())];
        own.into_iter().chain(facts.iter().map(|(key, value)| (names.key(key), value.clone()))).collect()
    }
}

/// The subjects of a log: producers that stamp their batches have one each beneath it.
fn log_subjects<A: Application>(names: &Names, partition: u32) -> Vec<String> {
    let subject = names.log_subject(partition);
    match A::INPUT {
        Input::Own => vec![subject],
        Input::Stamped => vec![format!("{subject}.*"), subject],
    }
}

fn bytes(size: Size) -> i64 {
    i64::try_from(size.0).unwrap_or(i64::MAX)
}
