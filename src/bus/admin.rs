//! Making, checking and showing the JetStream objects of one system.

use crate::bus::connect::Connection;
use crate::bus::plan;
use crate::bus::read;
use crate::bus::shape::{self, Deviation};
use crate::bus::topology::{
    COMPLETED_EXPIRY_KEY, Config, FORMAT, FORMAT_KEY, IDLE_EXPIRY_KEY, LEAST_HEADROOM, MAX_CHUNK_BYTES_KEY,
    OLDER_FORMAT, PARTITIONS_KEY, PAYLOAD_HEADROOM, Topology, TopologyError,
};
use crate::row::{Expiry, UnixNanos};
use crate::values::{Size, Span};
use async_nats::jetstream::context::{CreateStreamErrorKind, UpdateStreamErrorKind};
use async_nats::jetstream::stream::{self, Info};
use async_nats::jetstream::{self, ErrorCode};
use futures_util::future::try_join_all;
use std::fmt;
use time::OffsetDateTime;

/// What the operator allows `topology apply` besides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed {
    /// To lose copies, finals, or room.
    pub force: bool,
    /// To put back metadata that somebody's tool has dropped.
    pub adopt: bool,
}

enum Step {
    Create(stream::Config),
    Change(plan::Change),
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

    /// Makes what is missing, and changes the limits that somebody has named. Never changes what the fold reads.
    pub async fn apply(&self, allowed: Allowed) -> Result<Vec<Change>, TopologyError> {
        let system = self.system().await?;
        let max_payload = self.connection.client.server_info().max_payload;
        self.check_payload(system.max_chunk_bytes.bytes())?;
        // Everything is looked at before anything is changed: a refusal leaves all as it was.
        let (mut steps, mut losses) = (Vec::new(), Vec::new());
        let now = read::unix_nanos(OffsetDateTime::now_utc());
        for mut wanted in system.streams() {
            let named = system.named(&wanted.name);
            let Some(found) = self.find(&wanted.name).await? else {
                let size = plan::largest_message(wanted.max_bytes).filter(|size| named.is_log && *size < max_payload);
                wanted.max_message_size = size.map_or(-1, |size| i32::try_from(size).unwrap_or(i32::MAX));
                steps.push(Step::Create(wanted));
                continue;
            };
            self.check_unchangeable(&found.config, &wanted, &system, allowed.adopt)?;
            let change = plan::change(&found.config, &found.state, &wanted, &named, max_payload, now);
            losses.extend(change.losses.iter().map(|loss| format!("{} would lose {loss}", wanted.name)));
            steps.push(Step::Change(change));
        }
        // A log beyond the last would mean that the system was made with more partitions.
        let beyond = system.names().log(system.partitions);
        if let Some(found) = self.find(&beyond).await?
            && found.config.metadata.contains_key(FORMAT_KEY)
        {
            let says = found.config.metadata.get(PARTITIONS_KEY).cloned().unwrap_or_default();
            return Err(self.disagrees("topology.partitions", beyond, system.partitions.to_string(), says));
        }
        if !losses.is_empty() && !allowed.force {
            return Err(TopologyError::Lossy { changes: losses.join("; ") });
        }
        let mut changes = Vec::new();
        for step in steps {
            changes.push(match step {
                Step::Create(wanted) => self.create(wanted).await?,
                Step::Change(change) => self.update(change).await?,
            });
        }
        Ok(changes)
    }

    /// This configuration, and for what nobody has stated what the streams say that are there.
    async fn system(&self) -> Result<Config, TopologyError> {
        let mut system = self.config.clone();
        let names = system.names();
        let mut logs = Vec::new();
        for partition in 0..system.partitions {
            let Some(found) = self.find(&names.log(partition)).await? else { continue };
            let says = found.config.metadata.contains_key(PARTITIONS_KEY);
            logs.push(found.config);
            // One that says all there is to know is enough.
            if says {
                break;
            }
        }
        let unstated = |key: &str| !self.config.is_stated(key);
        let Some(log) = logs.last() else { return Ok(system) };
        if log.metadata.contains_key(PARTITIONS_KEY) {
            if unstated("partitions") {
                system.partitions = self.fact(log, PARTITIONS_KEY)?;
            }
            if unstated("max_chunk_bytes") {
                system.max_chunk_bytes = self.fact(log, MAX_CHUNK_BYTES_KEY)?;
            }
            if unstated("idle_expiry") {
                system.idle_expiry = self.fact(log, IDLE_EXPIRY_KEY)?;
            }
            if unstated("completed_expiry") {
                system.completed_expiry = self.fact(log, COMPLETED_EXPIRY_KEY)?;
            }
        } else if unstated("partitions") {
            // None of them says it any more: there are as many as there are.
            system.partitions = u32::try_from(logs.len()).expect("a number of partitions");
        }
        if unstated("replicas") {
            system.replicas = log.num_replicas;
        }
        if let (true, Ok(most)) = (unstated("log_max_bytes"), u64::try_from(log.max_bytes)) {
            system.log_max_bytes = Size(most);
        }
        Ok(system)
    }

    /// What the logs say, where nothing that was set here says otherwise.
    pub async fn check(&self) -> Result<Topology, TopologyError> {
        let names = self.config.names();
        let first = match self.find(&names.log(0)).await? {
            None if self
                .find(&names.sums())
                .await?
                .is_some_and(|sums| sums.config.metadata.contains_key(FORMAT_KEY)) =>
            {
                return Err(self.log_gone(0));
            }
            None => return Err(self.missing(names.log(0))),
            Some(first) => first.config,
        };
        check_format(&first)?;
        let partitions: u32 = self.fact(&first, PARTITIONS_KEY)?;
        let logs = try_join_all((0..partitions).map(|partition| {
            let name = names.log(partition);
            async move { self.find(&name).await?.ok_or_else(|| self.log_gone(partition)) }
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
        let mut wanted = said.streams();
        let mut beside = wanted.split_off(logs.len());
        // Presence is no condition of anything.
        beside.retain(|wanted| wanted.name != format!("KV_{}", names.members_bucket()));
        for (found, wanted) in logs.iter().zip(&wanted) {
            check_format(&found.config)?;
            self.check_unchangeable(&found.config, wanted, &said, false)?;
        }
        let mut once_only = true;
        for wanted in &beside {
            let found = self.find(&wanted.name).await?.ok_or_else(|| self.missing(wanted.name.clone()))?;
            check_format(&found.config)?;
            if wanted.name == names.sums() {
                // Whoever reads may do so all the same; whoever writes is told, and decides.
                once_only = shape::once_a_subject(&found.config);
                if !once_only {
                    continue;
                }
            }
            self.check_unchangeable(&found.config, wanted, &said, false)?;
        }
        let largest = logs.iter().flat_map(|log| {
            let limited = usize::try_from(log.config.max_message_size).ok().filter(|size| *size > 0);
            [plan::largest_message(log.config.max_bytes), limited]
        });
        let max_message_bytes = largest.flatten().min();
        let max_chunk_bytes = said.max_chunk_bytes.bytes();
        self.check_payload(max_chunk_bytes)?;
        Ok(Topology {
            names,
            partitions,
            replicas: first.num_replicas,
            max_chunk_bytes,
            max_message_bytes,
            expiry: Expiry { idle: nanos(said.idle_expiry), completed: nanos(said.completed_expiry) },
            once_only,
        })
    }

    /// Every stream of the system, as it is.
    pub async fn show(&self) -> Result<(Topology, Vec<Info>), TopologyError> {
        let topology = self.check().await?;
        let config = Config { partitions: topology.partitions, ..self.config.clone() };
        let streams = try_join_all(
            config
                .streams()
                .into_iter()
                .map(|wanted| async move { self.find(&wanted.name).await?.ok_or_else(|| self.missing(wanted.name)) }),
        )
        .await?;
        Ok((topology, streams))
    }

    async fn find(&self, name: &str) -> Result<Option<Info>, TopologyError> {
        self.connection
            .ask_at_start(|| read::stream(&self.connection.jetstream, name), |_| true)
            .await
            .map_err(|cause| TopologyError::NoAnswer { servers: self.servers.clone(), cause })
    }

    fn missing(&self, name: String) -> TopologyError {
        TopologyError::Missing { name, servers: self.servers.clone() }
    }

    fn log_gone(&self, partition: u32) -> TopologyError {
        TopologyError::LogGone { name: self.config.names().log(partition), servers: self.servers.clone(), partition }
    }

    fn fact<T: std::str::FromStr>(&self, log: &stream::Config, key: &'static str) -> Result<T, TopologyError> {
        let found = log.metadata.get(key).ok_or_else(|| not_ours(log, vec![key.to_owned()]))?;
        found.parse().map_err(|_| TopologyError::Unreadable { key, name: log.name.clone(), found: found.clone() })
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

    /// Only our own keys are compared: servers add theirs. With `adopt`, those that are missing are no reason to refuse.
    fn check_unchangeable(
        &self,
        found: &stream::Config,
        wanted: &stream::Config,
        system: &Config,
        adopt: bool,
    ) -> Result<(), TopologyError> {
        let name = || found.name.clone();
        let missing = plan::missing(found, wanted);
        if !missing.is_empty() && !adopt {
            return Err(not_ours(found, missing));
        }
        // An older one is raised, and a missing one is put back.
        if let Err(error @ TopologyError::Newer { .. }) = check_format(found) {
            return Err(error);
        }
        for key in [PARTITIONS_KEY, MAX_CHUNK_BYTES_KEY, IDLE_EXPIRY_KEY, COMPLETED_EXPIRY_KEY] {
            if let (Some(found), Some(wanted)) = (found.metadata.get(key), wanted.metadata.get(key))
                && found != wanted
            {
                return Err(self.disagrees(said_key(key), name(), wanted.clone(), found.clone()));
            }
        }
        let needed = match system.named(&found.name).is_log {
            true => system.max_chunk_bytes.bytes() + LEAST_HEADROOM,
            false => self.connection.client.server_info().max_payload,
        };
        match shape::deviation(found, wanted, needed) {
            Some(Deviation { found: what, wanted }) => Err(TopologyError::Misshapen { name: name(), what, wanted }),
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

    async fn update(&self, change: plan::Change) -> Result<Change, TopologyError> {
        let plan::Change { config, what, .. } = change;
        if what.is_empty() {
            return Ok(Change::Unchanged(config.name));
        }
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
        None => Err(not_ours(found, vec![FORMAT_KEY.to_owned()])),
    }
}

fn not_ours(found: &stream::Config, missing: Vec<String>) -> TopologyError {
    TopologyError::NotOurs { name: found.name.clone(), missing: missing.join(", ") }
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
