//! Making, checking and showing the JetStream objects of one system.

use crate::bus::connect::Connection;
use crate::bus::read;
use crate::bus::topology::{
    COMPLETED_EXPIRY_KEY, Config, FORMAT, FORMAT_KEY, IDLE_EXPIRY_KEY, MAX_CHUNK_BYTES_KEY, OLDER_FORMAT,
    PARTITIONS_KEY, PAYLOAD_HEADROOM, Shape, Topology, TopologyError,
};
use crate::row::{Expiry, UnixNanos};
use crate::values::{Size, Span};
use async_nats::jetstream::context::{CreateStreamErrorKind, UpdateStreamErrorKind};
use async_nats::jetstream::stream::{self, Info};
use async_nats::jetstream::{self, ErrorCode};
use futures_util::future::try_join_all;
use std::fmt;

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
        check_format(&first.config)?;
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
            check_format(&found.config)?;
            self.check_unchangeable(&found.config, wanted)?;
        }
        let sums = self.our_stream(&names.sums()).await?;
        self.our_stream(&names.rejects()).await?;
        self.our_stream(&format!("OBJ_{}", names.state_bucket())).await?;
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
        self.connection
            .ask_at_start(|| read::stream(&self.connection.jetstream, name), |_| true)
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
        match check_format(found) {
            Ok(()) | Err(TopologyError::Older { .. }) => {}
            Err(error) => return Err(error),
        }
        for key in [PARTITIONS_KEY, MAX_CHUNK_BYTES_KEY, IDLE_EXPIRY_KEY, COMPLETED_EXPIRY_KEY] {
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
        let format = |config: &stream::Config| config.metadata.get(FORMAT_KEY).cloned().unwrap_or_default();
        note("format", format(&found), format(&wanted));
        note("replicas", found.num_replicas.to_string(), wanted.num_replicas.to_string());
        note("max_bytes", limit(found.max_bytes), limit(wanted.max_bytes));
        note("max_age", Span(found.max_age).to_string(), Span(wanted.max_age).to_string());
        if what.is_empty() {
            return Ok(Change::Unchanged(found.name));
        }
        // Servers add keys of their own.
        let mut metadata = found.metadata.clone();
        metadata.insert(FORMAT_KEY.to_owned(), FORMAT.to_owned());
        let config = stream::Config {
            metadata,
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

fn check_format(found: &stream::Config) -> Result<(), TopologyError> {
    let name = found.name.clone();
    match found.metadata.get(FORMAT_KEY).map(String::as_str) {
        Some(FORMAT) => Ok(()),
        Some(OLDER_FORMAT) => Err(TopologyError::Older { name }),
        Some(other) => Err(TopologyError::Newer { name, found: other.to_owned() }),
        None => Err(TopologyError::NotOurs { name }),
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
