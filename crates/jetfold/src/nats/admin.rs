//! Making, checking and showing the JetStream objects of one system.

use crate::application::{Application, Facts};
use crate::nats::connect::Connection;
use crate::nats::names::Names;
use crate::nats::plan;
use crate::nats::read;
use crate::nats::shape::{self, Deviation};
use crate::nats::topology::{
    Config, FORMAT, LEAST_HEADROOM, PARTITIONS, PAYLOAD_HEADROOM, Topology, TopologyError, partitions_said,
};
use crate::values::Size;
use async_nats::jetstream::context::{CreateStreamErrorKind, UpdateStreamErrorKind};
use async_nats::jetstream::stream::{self, Info};
use async_nats::jetstream::{self, ErrorCode};
use futures_util::future::try_join_all;
use std::fmt;
use time::OffsetDateTime;

/// What the operator allows `topology apply` besides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed {
    /// To lose copies, outputs, or room.
    pub force: bool,
    /// To put back metadata that somebody's tool has dropped.
    pub adopt: bool,
}

enum Step {
    Create(stream::Config),
    Change(plan::Change),
}

/// What applying a topology did to one stream.
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
pub struct Admin<'a, A> {
    connection: &'a Connection,
    config: Config,
    application: A,
    names: Names,
    /// As they may be shown.
    servers: String,
}

/// A configuration, and the facts of the application, as far as this process knows them.
#[derive(Clone)]
struct System {
    config: Config,
    facts: Facts,
}

impl<'a, A: Application> Admin<'a, A> {
    pub fn new(connection: &'a Connection, config: Config, application: A, servers: String) -> Self {
        let names = Names::of::<A>(&config.prefix);
        Self { connection, config, application, names, servers }
    }

    fn streams(&self, system: &System) -> Vec<stream::Config> {
        system.config.streams::<A>(&self.names, &system.facts)
    }

    /// The facts as this process has them.
    fn facts(&self) -> Facts {
        self.application.facts().into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// The application with the facts of a log.
    fn agreed(&self, facts: &Facts, log: &stream::Config) -> Result<A, TopologyError> {
        self.application.clone().agreed(facts).map_err(|key| {
            let found = facts.get(key).cloned().unwrap_or_default();
            TopologyError::Unreadable { key: self.names.key(key), name: log.name.clone(), found }
        })
    }

    /// Makes what is missing, and changes the limits that somebody has named. Never changes what the fold reads.
    pub async fn apply(&self, allowed: Allowed) -> Result<Vec<Change>, TopologyError> {
        self.config.check()?;
        let (system, application) = self.system().await?;
        self.check_payload(&application)?;
        let max_payload = self.connection.client.server_info().max_payload;
        // Everything is looked at before anything is changed: a refusal leaves all as it was.
        let (mut steps, mut losses) = (Vec::new(), Vec::new());
        let now = read::unix_nanos(OffsetDateTime::now_utc());
        for mut wanted in self.streams(&system) {
            let named = system.config.named(&self.names, &wanted.name);
            let Some(found) = self.find(&wanted.name).await? else {
                let size = plan::largest_message(wanted.max_bytes).filter(|size| named.is_log && *size < max_payload);
                wanted.max_message_size = size.map_or(-1, |size| i32::try_from(size).unwrap_or(i32::MAX));
                steps.push(Step::Create(wanted));
                continue;
            };
            self.check_unchangeable(&found.config, &wanted, &system, &application, allowed.adopt)?;
            let change = plan::change(&self.names, &found.config, &found.state, &wanted, &named, max_payload, now);
            losses.extend(change.losses.iter().map(|loss| format!("{} would lose {loss}", wanted.name)));
            steps.push(Step::Change(change));
        }
        // A log beyond the last would mean that the system was made with more partitions.
        let partitions = system.config.partitions;
        let beyond = self.names.log(partitions);
        if let Some(found) = self.find(&beyond).await?
            && found.config.metadata.contains_key(&self.names.key(FORMAT))
        {
            let says = found.config.metadata.get(&self.names.key(PARTITIONS)).cloned().unwrap_or_default();
            return Err(self.disagrees(PARTITIONS, beyond, partitions.to_string(), says));
        }
        if !losses.is_empty() && !allowed.force {
            return Err(TopologyError::Lossy { changes: losses.join("; "), words: &A::WORDS });
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
    async fn system(&self) -> Result<(System, A), TopologyError> {
        let mut system = System { config: self.config.clone(), facts: self.facts() };
        let partitions_key = self.names.key(PARTITIONS);
        let mut logs = Vec::new();
        for partition in 0..self.config.partitions {
            let Some(found) = self.find(&self.names.log(partition)).await? else { continue };
            let says = found.config.metadata.contains_key(&partitions_key);
            logs.push(found.config);
            // One that says all there is to know is enough.
            if says {
                break;
            }
        }
        let unstated = |key: &str| !self.config.is_stated(key);
        let Some(log) = logs.last() else { return Ok((system, self.application.clone())) };
        let mut application = self.application.clone();
        if log.metadata.contains_key(&partitions_key) {
            if unstated(PARTITIONS) {
                system.config.partitions = self.partitions(log)?;
            }
            let facts: Vec<_> = system.facts.keys().filter(|key| unstated(key)).cloned().collect();
            for key in facts {
                let said = self.fact(log, &key)?.clone();
                system.facts.insert(key, said);
            }
            application = self.agreed(&system.facts, log)?;
        } else if unstated(PARTITIONS) {
            // None of them says it any more: there are as many as there are.
            system.config.partitions = u32::try_from(logs.len()).expect("a number of partitions");
        }
        if unstated("replicas") {
            system.config.replicas = log.num_replicas;
        }
        if let (true, Ok(most)) = (unstated("log_max_bytes"), u64::try_from(log.max_bytes)) {
            system.config.log_max_bytes = Size(most);
        }
        Ok((system, application))
    }

    /// What the logs say, if nothing that was set here says otherwise.
    pub async fn check(&self) -> Result<Topology<A>, TopologyError> {
        self.config.check()?;
        let names = &self.names;
        let first = match self.find(&names.log(0)).await? {
            None if self
                .find(&names.outputs())
                .await?
                .is_some_and(|outputs| outputs.config.metadata.contains_key(&names.key(FORMAT))) =>
            {
                return Err(self.log_gone(0));
            }
            None => return Err(self.missing(names.log(0))),
            Some(first) => first.config,
        };
        self.check_format(&first)?;
        let partitions = self.partitions(&first)?;
        let logs = try_join_all((0..partitions).map(|partition| {
            let name = names.log(partition);
            async move { self.find(&name).await?.ok_or_else(|| self.log_gone(partition)) }
        }))
        .await?;
        let mine = self.facts();
        let mut facts = Facts::new();
        for key in mine.keys() {
            facts.insert(key.clone(), self.fact(&first, key)?.clone());
        }
        let application = self.agreed(&facts, &first)?;
        let found = [(PARTITIONS, partitions.to_string())];
        let found =
            found.iter().map(|(key, found)| (*key, found)).chain(facts.iter().map(|(key, found)| (&**key, found)));
        for (key, found) in found {
            let wanted = mine.get(key).cloned().unwrap_or_else(|| self.config.partitions.to_string());
            if wanted != *found && self.config.is_stated(key) {
                return Err(self.disagrees(key, names.log(0), wanted, found.clone()));
            }
        }
        let said = System { config: Config { partitions, ..self.config.clone() }, facts };
        let mut wanted = self.streams(&said);
        let mut beside = wanted.split_off(logs.len());
        // Presence is no condition of anything.
        beside.retain(|wanted| wanted.name != format!("KV_{}", names.members_bucket()));
        for (found, wanted) in logs.iter().zip(&wanted) {
            self.check_format(&found.config)?;
            self.check_unchangeable(&found.config, wanted, &said, &application, false)?;
        }
        let mut once_only = true;
        for wanted in &beside {
            let found = self.find(&wanted.name).await?.ok_or_else(|| self.missing(wanted.name.clone()))?;
            self.check_format(&found.config)?;
            if wanted.name == names.outputs() {
                // Whoever reads may do so all the same; whoever writes is told, and decides.
                once_only = shape::once_a_subject(&found.config);
                if !once_only {
                    continue;
                }
            }
            self.check_unchangeable(&found.config, wanted, &said, &application, false)?;
        }
        let largest = logs.iter().flat_map(|log| {
            let limited = usize::try_from(log.config.max_message_size).ok().filter(|size| *size > 0);
            [plan::largest_message(log.config.max_bytes), limited]
        });
        let max_message_bytes = largest.flatten().min();
        self.check_payload(&application)?;
        let (names, replicas) = (names.clone(), first.num_replicas);
        Ok(Topology { names, partitions, replicas, max_message_bytes, once_only, application })
    }

    /// Every stream of the system, as it is.
    pub async fn show(&self) -> Result<(Topology<A>, Vec<Info>), TopologyError> {
        let topology = self.check().await?;
        let config = Config { partitions: topology.partitions, ..self.config.clone() };
        let streams = try_join_all(
            self.streams(&System { config, facts: self.facts() })
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
        TopologyError::Missing { name, servers: self.servers.clone(), words: &A::WORDS }
    }

    fn log_gone(&self, partition: u32) -> TopologyError {
        let (name, servers) = (self.names.log(partition), self.servers.clone());
        TopologyError::LogGone { name, servers, partition, words: &A::WORDS }
    }

    /// What a log says of a fact.
    fn fact<'l>(&self, log: &'l stream::Config, key: &str) -> Result<&'l String, TopologyError> {
        let key = self.names.key(key);
        log.metadata.get(&key).ok_or_else(|| self.not_ours(log, vec![key]))
    }

    fn partitions(&self, log: &stream::Config) -> Result<u32, TopologyError> {
        let found = self.fact(log, PARTITIONS)?;
        partitions_said(found).ok_or_else(|| TopologyError::Unreadable {
            key: self.names.key(PARTITIONS),
            name: log.name.clone(),
            found: found.clone(),
        })
    }

    fn not_ours(&self, found: &stream::Config, missing: Vec<String>) -> TopologyError {
        let (name, missing) = (found.name.clone(), missing.join(", "));
        TopologyError::NotOurs { name, missing, application: A::NAME, words: &A::WORDS }
    }

    fn check_format(&self, found: &stream::Config) -> Result<(), TopologyError> {
        let (name, format) = (found.name.clone(), A::FORMAT);
        let Some(said) = found.metadata.get(&self.names.key(FORMAT)) else {
            return Err(self.not_ours(found, vec![self.names.key(FORMAT)]));
        };
        match said.parse::<u32>() {
            Ok(found) if found == format => Ok(()),
            Ok(found) if A::OLDER_FORMATS.contains(&found) => {
                Err(TopologyError::Older { name, found, format, words: &A::WORDS })
            }
            _ => Err(TopologyError::Newer { name, found: said.clone() }),
        }
    }

    fn check_payload(&self, application: &A) -> Result<(), TopologyError> {
        let found = self.connection.client.server_info().max_payload;
        let needed = application.largest_record() + PAYLOAD_HEADROOM;
        if found >= needed {
            return Ok(());
        }
        Err(TopologyError::SmallPayload {
            servers: self.servers.clone(),
            found: Size(found as u64),
            needed: Size(needed as u64),
            words: &A::WORDS,
        })
    }

    /// Only our own keys are compared: servers add theirs. With `adopt`, those that are missing are no reason to refuse.
    fn check_unchangeable(
        &self,
        found: &stream::Config,
        wanted: &stream::Config,
        system: &System,
        application: &A,
        adopt: bool,
    ) -> Result<(), TopologyError> {
        let name = || found.name.clone();
        let missing = plan::missing(found, wanted);
        if !missing.is_empty() && !adopt {
            return Err(self.not_ours(found, missing));
        }
        // An older one is raised, and a missing one is put back.
        if let Err(error @ TopologyError::Newer { .. }) = self.check_format(found) {
            return Err(error);
        }
        for key in [PARTITIONS].into_iter().chain(system.facts.keys().map(String::as_str)) {
            let full = self.names.key(key);
            if let (Some(found), Some(wanted)) = (found.metadata.get(&full), wanted.metadata.get(&full))
                && found != wanted
            {
                return Err(self.disagrees(key, name(), wanted.clone(), found.clone()));
            }
        }
        let needed = match system.config.named(&self.names, &found.name).is_log {
            true => application.largest_record() + LEAST_HEADROOM,
            false => self.connection.client.server_info().max_payload,
        };
        match shape::deviation(found, wanted, needed) {
            Some(Deviation { found: what, wanted }) => Err(TopologyError::Misshapen { name: name(), what, wanted }),
            None => Ok(()),
        }
    }

    fn disagrees(&self, key: &str, name: String, wanted: String, found: String) -> TopologyError {
        // What the operator sets it with.
        let key = format!("topology.{}", key.replace('-', "_"));
        TopologyError::Disagrees { key, name, wanted, found, words: &A::WORDS }
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
                words: &A::WORDS,
            };
        }
        self.refused_as(wanted, error.to_string())
    }

    fn refused_as(&self, wanted: &stream::Config, cause: String) -> TopologyError {
        TopologyError::Refused { name: wanted.name.clone(), servers: self.servers.clone(), cause }
    }
}
