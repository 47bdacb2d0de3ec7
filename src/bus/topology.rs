//! The topology: the JetStream objects of one system, made, checked and shown.
//!
//! What the fold reads stands in the metadata of the partition logs, where every process finds the same.

use crate::bus::connect::Connection;
use crate::bus::names::Names;
use crate::bus::read::{self, NoAnswer};
use crate::row::{Expiry, UnixNanos};
use crate::transaction::Rules;
use crate::values::{Size, Span, parsed};
use async_nats::jetstream::context::{CreateStreamErrorKind, UpdateStreamErrorKind};
use async_nats::jetstream::stream::{self, DiscardPolicy, Info, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, ErrorCode};
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(deserialize_with = "parsed")]
    pub prefix: String,
    #[serde(deserialize_with = "parsed")]
    pub partitions: u32,
    #[serde(deserialize_with = "parsed")]
    pub replicas: usize,
    pub log_max_bytes: Size,
    pub sums_max_bytes: Size,
    pub sums_retention: Span,
    pub rejects_retention: Span,
    pub max_chunk_bytes: Size,
    pub idle_expiry: Span,
    pub completed_expiry: Span,
    /// The keys that somebody has set, as opposed to defaults: only what is set can disagree with the logs.
    #[serde(skip)]
    pub stated: BTreeSet<String>,
}

/// What one message needs beyond the largest chunk: its encoding, subject and headers.
pub const PAYLOAD_HEADROOM: usize = 128 << 10;

/// What our own batches stay below the server's `max_payload`, so that a reject with its headers still fits.
pub const REJECT_HEADROOM: usize = 64 << 10;

/// The version of the wire format and of the fold.
const FORMAT: &str = "1";
const FORMAT_KEY: &str = "stream-sum.format";
const PARTITIONS_KEY: &str = "stream-sum.partitions";
const MAX_CHUNK_BYTES_KEY: &str = "stream-sum.max-chunk-bytes";
const IDLE_EXPIRY_KEY: &str = "stream-sum.idle-expiry";
const COMPLETED_EXPIRY_KEY: &str = "stream-sum.completed-expiry";

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

/// What `topology apply` did to one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Created(String),
    /// A stream's name, and what was changed from what to what.
    Updated(String, Vec<String>),
    Unchanged(String),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Created(name) => write!(f, "created {name}"),
            Change::Updated(name, what) => write!(f, "changed {name}: {}", what.join(", ")),
            Change::Unchanged(name) => write!(f, "unchanged {name}"),
        }
    }
}

/// The fields of a stream on which the guarantees rest, and which therefore are never changed in place.
#[derive(Debug, PartialEq, Eq)]
struct Shape<'a> {
    subjects: &'a [String],
    retention: RetentionPolicy,
    discard: DiscardPolicy,
    once_a_subject: bool,
}

impl<'a> Shape<'a> {
    fn of(config: &'a stream::Config) -> Self {
        Self {
            subjects: &config.subjects,
            retention: config.retention,
            discard: config.discard,
            once_a_subject: config.max_messages_per_subject == 1 && config.discard_new_per_subject,
        }
    }

    /// What differs first, and what it should be.
    fn difference(&self, wanted: &Shape<'_>) -> Option<(String, String)> {
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
    fn names(&self) -> Names {
        Names::new(&self.prefix)
    }

    /// Everything that a system needs, in the order in which it is made.
    fn streams(&self) -> Vec<stream::Config> {
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

/// The admin and the checker of one system's JetStream objects.
pub struct Admin<'a> {
    connection: &'a Connection,
    config: &'a Config,
    /// As they may be shown.
    servers: String,
}

impl<'a> Admin<'a> {
    pub fn new(connection: &'a Connection, config: &'a Config, servers: String) -> Self {
        Self { connection, config, servers }
    }

    /// Makes what is missing and updates replicas and limits. Never changes what the fold reads.
    pub async fn apply(&self) -> Result<Vec<Change>, TopologyError> {
        self.check_payload(self.config.max_chunk_bytes.bytes())?;
        // Everything is looked at before anything is changed: a refusal leaves all as it was.
        let mut plan = Vec::new();
        for wanted in self.config.streams() {
            let found = self.find(&wanted.name).await?;
            if let Some(found) = &found {
                self.check_unchangeable(&found.config, &wanted)?;
            }
            plan.push((found, wanted));
        }
        // A log beyond the last would mean that the system was made with more partitions.
        let beyond = self.config.names().log(self.config.partitions);
        if let Some(found) = self.find(&beyond).await?
            && found.config.metadata.contains_key(FORMAT_KEY)
        {
            let says = found.config.metadata.get(PARTITIONS_KEY).cloned().unwrap_or_default();
            return Err(self.disagrees("topology.partitions", beyond, self.config.partitions.to_string(), says));
        }
        let mut changes = Vec::new();
        for (found, wanted) in plan {
            changes.push(match found {
                None => self.create(wanted).await?,
                Some(found) => self.update(found.config, wanted).await?,
            });
        }
        Ok(changes)
    }

    /// What the logs say, where nothing that was set here says otherwise.
    pub async fn check(&self) -> Result<Topology, TopologyError> {
        let names = self.config.names();
        let first = self.our_stream(&names.log(0)).await?;
        let partitions: u32 = self.fact(&first, PARTITIONS_KEY)?;
        let others = try_join_all((1..partitions).map(|partition| {
            let name = names.log(partition);
            async move { self.our_stream(&name).await }
        }))
        .await?;
        let said = Config {
            partitions,
            max_chunk_bytes: self.fact(&first, MAX_CHUNK_BYTES_KEY)?,
            idle_expiry: self.fact(&first, IDLE_EXPIRY_KEY)?,
            completed_expiry: self.fact(&first, COMPLETED_EXPIRY_KEY)?,
            ..self.config.clone()
        };
        let stated = |key: &str| self.config.stated.contains(key);
        let mine = self.config;
        for (key, differs, wanted, found) in [
            ("partitions", mine.partitions != said.partitions, mine.partitions.to_string(), partitions.to_string()),
            (
                "max_chunk_bytes",
                mine.max_chunk_bytes != said.max_chunk_bytes,
                mine.max_chunk_bytes.to_string(),
                said.max_chunk_bytes.to_string(),
            ),
            (
                "idle_expiry",
                mine.idle_expiry != said.idle_expiry,
                mine.idle_expiry.to_string(),
                said.idle_expiry.to_string(),
            ),
            (
                "completed_expiry",
                mine.completed_expiry != said.completed_expiry,
                mine.completed_expiry.to_string(),
                said.completed_expiry.to_string(),
            ),
        ] {
            if differs && stated(key) {
                let key = said_key(key);
                return Err(self.disagrees(key, names.log(0), wanted, found));
            }
        }
        let wanted = said.streams();
        for (found, wanted) in std::iter::once(&first).chain(&others).zip(&wanted) {
            self.check_unchangeable(&found.config, wanted)?;
        }
        let sums = self.our_stream(&names.sums()).await?;
        self.our_stream(&names.rejects()).await?;
        let max_chunk_bytes = said.max_chunk_bytes.bytes();
        self.check_payload(max_chunk_bytes)?;
        Ok(Topology {
            names,
            partitions,
            max_chunk_bytes,
            expiry: Expiry { idle: nanos(said.idle_expiry), completed: nanos(said.completed_expiry) },
            once_only: Shape::of(&sums.config).once_a_subject,
        })
    }

    /// Every stream of the system, as it is.
    pub async fn show(&self) -> Result<(Topology, Vec<Info>), TopologyError> {
        let topology = self.check().await?;
        let config = Config { partitions: topology.partitions, ..self.config.clone() };
        let streams =
            try_join_all(config.streams().into_iter().map(|wanted| async move { self.our_stream(&wanted.name).await }))
                .await?;
        Ok((topology, streams))
    }

    async fn find(&self, name: &str) -> Result<Option<Info>, TopologyError> {
        read::stream(&self.connection.jetstream, name)
            .await
            .map_err(|cause| TopologyError::NoAnswer { servers: self.servers.clone(), cause })
    }

    async fn our_stream(&self, name: &str) -> Result<Info, TopologyError> {
        match self.find(name).await? {
            None => Err(TopologyError::Missing { name: name.to_owned(), servers: self.servers.clone() }),
            Some(info) if !info.config.metadata.contains_key(FORMAT_KEY) => {
                Err(TopologyError::NotOurs { name: name.to_owned() })
            }
            Some(info) => Ok(info),
        }
    }

    fn fact<T: std::str::FromStr>(&self, info: &Info, key: &'static str) -> Result<T, TopologyError> {
        let found = info.config.metadata.get(key).map_or("", String::as_str);
        found.parse().map_err(|_| TopologyError::Unreadable {
            key,
            name: info.config.name.clone(),
            found: if found.is_empty() { "nothing".to_owned() } else { found.to_owned() },
        })
    }

    fn check_payload(&self, max_chunk_bytes: usize) -> Result<(), TopologyError> {
        let found = self.connection.client.server_info().max_payload;
        let needed = max_chunk_bytes + PAYLOAD_HEADROOM;
        if found >= needed {
            return Ok(());
        }
        Err(TopologyError::SmallPayload {
            servers: self.servers.clone(),
            found: Size(found as u64),
            needed: Size(needed as u64),
        })
    }

    /// Only our own keys are compared: servers add theirs.
    fn check_unchangeable(&self, found: &stream::Config, wanted: &stream::Config) -> Result<(), TopologyError> {
        let name = || found.name.clone();
        if !found.metadata.contains_key(FORMAT_KEY) {
            return Err(TopologyError::NotOurs { name: name() });
        }
        for key in [FORMAT_KEY, PARTITIONS_KEY, MAX_CHUNK_BYTES_KEY, IDLE_EXPIRY_KEY, COMPLETED_EXPIRY_KEY] {
            let (found, wanted) = (found.metadata.get(key), wanted.metadata.get(key));
            if found != wanted {
                let text = |value: Option<&String>| value.cloned().unwrap_or_else(|| "missing".to_owned());
                return Err(self.disagrees(said_key(key), name(), text(wanted), text(found)));
            }
        }
        match Shape::of(found).difference(&Shape::of(wanted)) {
            Some((what, wanted)) => Err(TopologyError::Misshapen { name: name(), what, wanted }),
            None => Ok(()),
        }
    }

    fn disagrees(&self, key: &'static str, name: String, wanted: String, found: String) -> TopologyError {
        TopologyError::Disagrees { key, name, wanted, found }
    }

    async fn create(&self, wanted: stream::Config) -> Result<Change, TopologyError> {
        let name = wanted.name.clone();
        match self.connection.jetstream.create_stream(wanted.clone()).await {
            Ok(_) => Ok(Change::Created(name)),
            Err(error) => Err(match error.kind() {
                CreateStreamErrorKind::JetStream(error) => self.refused(&wanted, &error),
                _ => self.refused_as(&wanted, error.to_string()),
            }),
        }
    }

    async fn update(&self, found: stream::Config, wanted: stream::Config) -> Result<Change, TopologyError> {
        let mut what = Vec::new();
        let mut note = |name: &str, from: String, to: String| {
            if from != to {
                what.push(format!("{name} {from} -> {to}"));
            }
        };
        note("replicas", found.num_replicas.to_string(), wanted.num_replicas.to_string());
        note("max_bytes", limit(found.max_bytes), limit(wanted.max_bytes));
        note("max_age", Span(found.max_age).to_string(), Span(wanted.max_age).to_string());
        if what.is_empty() {
            return Ok(Change::Unchanged(found.name));
        }
        let config = stream::Config {
            num_replicas: wanted.num_replicas,
            max_bytes: wanted.max_bytes,
            max_age: wanted.max_age,
            ..found
        };
        match self.connection.jetstream.update_stream(config.clone()).await {
            Ok(_) => Ok(Change::Updated(config.name, what)),
            Err(error) => Err(match error.kind() {
                UpdateStreamErrorKind::JetStream(error) => self.refused(&config, &error),
                _ => self.refused_as(&config, error.to_string()),
            }),
        }
    }

    fn refused(&self, wanted: &stream::Config, error: &jetstream::Error) -> TopologyError {
        let no_room = [
            ErrorCode::STORAGE_RESOURCES_EXCEEDED,
            ErrorCode::MEMORY_RESOURCES_EXCEEDED,
            ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
            ErrorCode::INSUFFICIENT_RESOURCES,
        ];
        if no_room.contains(&error.error_code()) {
            return TopologyError::NoRoom {
                name: wanted.name.clone(),
                servers: self.servers.clone(),
                bytes: Size(wanted.max_bytes.max(0) as u64),
                cause: error.to_string(),
            };
        }
        self.refused_as(wanted, error.to_string())
    }

    fn refused_as(&self, wanted: &stream::Config, cause: String) -> TopologyError {
        TopologyError::Refused { name: wanted.name.clone(), servers: self.servers.clone(), cause }
    }
}

fn limit(bytes: i64) -> String {
    u64::try_from(bytes).map_or_else(|_| "unlimited".to_owned(), |bytes| Size(bytes).to_string())
}

/// The configuration key that stands behind a key of the metadata.
fn said_key(key: &str) -> &'static str {
    match key {
        PARTITIONS_KEY | "partitions" => "topology.partitions",
        MAX_CHUNK_BYTES_KEY | "max_chunk_bytes" => "topology.max_chunk_bytes",
        IDLE_EXPIRY_KEY | "idle_expiry" => "topology.idle_expiry",
        COMPLETED_EXPIRY_KEY | "completed_expiry" => "topology.completed_expiry",
        _ => FORMAT_KEY,
    }
}

fn nanos(span: Span) -> UnixNanos {
    UnixNanos::try_from(span.0.as_nanos()).unwrap_or(UnixNanos::MAX)
}
