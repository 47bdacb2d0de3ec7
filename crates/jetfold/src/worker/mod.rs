//! The worker: folds the partitions that it is given until it is told to stop.

pub mod accepting;
pub mod ask;
mod board;
mod group;
pub mod health;
mod held;
mod name;
mod set;

use ask::Answer;
pub use name::WorkerName;
pub use set::{OnViolation, PartitionSet};

use crate::application::{Application, Input};
use crate::archive::bucket::Snapshots;
use crate::group::roster::BEAT;
use crate::identity::accept::Acceptance;
use crate::log::connections::Connections;
use crate::log::life::Life;
use crate::nats::admin::Admin;
use crate::nats::connect::{self, ConnectError};
use crate::nats::presence::Presence;
use crate::nats::standing;
use crate::nats::topology::{self, OutOfRange, TopologyError};
use crate::partition::counters::Counters;
use crate::partition::stores::Stores;
use crate::partition::{self, PartitionError, Shared};
use crate::store::{self, StoreError, View};
use crate::values::{Size, Span, parsed};
use crate::words::Words;
use board::Board;
use futures_util::future::{BoxFuture, FutureExt};
use group::Group;
use health::Health;
use held::Holder;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of the worker; empty: made from the host's.
    pub worker: WorkerName,
    /// The partitions to fold: its share of them, or those that are named.
    pub partitions: PartitionSet,
    /// Followers that it is willing to be for partitions of others, all the time: 0 or 1.
    #[serde(deserialize_with = "parsed")]
    pub standby: u32,
    /// Other workers that are silent for so long are gone, and their partitions are taken over.
    pub dead_after: Span,
    /// Folder of the stores, one file a partition.
    #[serde(deserialize_with = "parsed")]
    pub data_dir: PathBuf,
    /// The longest time from the first batch of a transaction to its end; eight times that while the log is ahead.
    pub checkpoint_interval: Span,
    /// The most bytes of batches in one transaction.
    pub checkpoint_bytes: Size,
    /// The most connections to NATS; 0: as many as serve its partitions best.
    #[serde(deserialize_with = "parsed")]
    pub connections: usize,
    /// Memory for rows and pages, over all partitions.
    pub cache_bytes: Size,
    /// What proven loss or a conflicting output does.
    pub on_violation: OnViolation,
    /// How old a snapshot must be before its log is purged up to it.
    pub purge_delay: Span,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            worker: WorkerName::default(),
            partitions: PartitionSet::Auto,
            standby: 0,
            dead_after: Span(Duration::from_millis(2500)),
            data_dir: "data".into(),
            checkpoint_interval: Span(Duration::from_millis(250)),
            checkpoint_bytes: Size(64 << 20),
            connections: 0,
            cache_bytes: Size(256 << 20),
            on_violation: OnViolation::Reject,
            purge_delay: Span(Duration::from_secs(300)),
        }
    }
}

impl Config {
    /// Whether a worker can be so. Whoever waits for less than two words takes the living for dead.
    pub fn check(&self) -> Result<(), OutOfRange> {
        let must = |holds: bool, key, expected| if holds { Ok(()) } else { Err(OutOfRange { key, expected }) };
        must(self.standby <= 1, "standby", "0 or 1")?;
        must(self.dead_after.0 >= BEAT * 2, "dead_after", "2s at least")
    }
}

#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error(
        "the stream {name} takes more than one message a subject, so {} could be there twice: remove it and run `{}`",
        words.output_plural, words.apply
    )]
    NotOnceOnly { name: String, words: &'static Words },
    #[error("partition {partition} is none of the {partitions} of this topology (0 to {}): name others in {}", partitions - 1, words.partitions)]
    NoSuchPartition { partition: u32, partitions: u32, words: &'static Words },
    #[error(
        "partition {partition} is none of this worker's, so there is nothing to accept for it: name one that is with {}", words.accept
    )]
    NothingToAccept { partition: u32, words: &'static Words },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Partition(#[from] PartitionError),
}

/// One worker, as it is to run.
pub struct Worker<A: Application> {
    application: A,
    config: Config,
    nats: connect::Config,
    topology: topology::Config,
    accept: Vec<Acceptance>,
    answer: Option<Arc<Answer<A>>>,
    counters: Arc<Counters<A>>,
    health: Health,
}

impl<A: Application> Worker<A> {
    pub fn new(application: A, config: Config, nats: connect::Config, topology: topology::Config) -> Self {
        let (accept, answer, counters) = (Vec::new(), None, Arc::default());
        Self { application, config, nats, topology, accept, answer, counters, health: Health::default() }
    }

    /// Losses that the operator knows of, and accepts: none as a rule.
    pub fn accepting(mut self, accept: impl IntoIterator<Item = Acceptance>) -> Self {
        self.accept.extend(accept);
        self
    }

    /// Has questions answered from what is committed. `answer` runs beside folding, on a thread that
    /// may wait, and never for two questions of one partition at once.
    pub fn answering(
        mut self,
        answer: impl Fn(&View<A>, &[u8]) -> Result<Vec<u8>, StoreError> + Send + Sync + 'static,
    ) -> Self {
        self.answer = Some(Arc::new(answer));
        self
    }

    /// What it has done so far: also while it runs.
    pub fn counters(&self) -> Arc<Counters<A>> {
        self.counters.clone()
    }

    /// How it is: before it runs, and while it does.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Folds partitions until `stop`, or until one of them can't go on: then all stop, and the first reason is returned. One
    /// whose log is refused closes alone, for as long as another folds.
    pub async fn run(self, stop: CancellationToken) -> Result<(), WorkerError> {
        for Acceptance { loss, partition } in &self.accept {
            tracing::info!(%loss, partition, "told to accept a loss: it is accepted, and recorded, once it is found and has stood");
        }
        let Started { group, beside, name } = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            started = self.start() => started?,
        };
        let beside = AbortOnDropHandle::new(tokio::spawn(beside));
        let result = group.run(stop).await;
        drop((beside, name));
        result
    }

    /// Everything up to the first pull.
    async fn start(&self) -> Result<Started<A>, WorkerError> {
        let Self { application, config, nats, topology, accept, answer, counters, health } = self;
        let words = &A::WORDS;
        config.check()?;
        let connection = connect::connect(nats, &format!("{} {}", A::NAME, words.worker)).await?;
        let admin = Admin::new(&connection, topology.clone(), application.clone(), nats.shown_addresses());
        let topology = connection.unless_denied(admin.check()).await??;
        if !topology.once_only {
            return Err(WorkerError::NotOnceOnly { name: topology.names.outputs(), words });
        }
        let slots = choose(&config.partitions, topology.partitions, words)?;
        store::create_data_dir(&config.data_dir, words)?;
        let worker = name::worker_name(&config.worker, &config.data_dir, words)?;
        let name = name::Taken::new(&worker, &topology.names, &config.data_dir, words)?;
        if let Some(other) = accept.iter().find(|accept| !slots.contains(&accept.partition)) {
            return Err(WorkerError::NothingToAccept { partition: other.partition, words });
        }
        let most = Some(config.connections).filter(|most| *most > 0);
        let connections = Connections::open::<A>(connection.clone(), nats, slots.len(), most).await?;
        let stores = Stores::new(&topology, config.data_dir.clone(), config.cache_bytes.0, slots.len());
        let shared = Shared {
            worker: worker.clone(),
            application: Arc::new(topology.application.clone()),
            names: topology.names.clone(),
            partitions: topology.partitions,
            stores,
            config: partition::Config {
                checkpoint_interval: config.checkpoint_interval.0,
                checkpoint_bytes: config.checkpoint_bytes.bytes(),
                halt: config.on_violation == OnViolation::Halt,
                purge_delay: config.purge_delay.0,
            },
            connection: connections.publishing.clone(),
            snapshots: Snapshots::new(connections.snapshots.clone(), &topology.names),
            turns: Arc::new(Semaphore::new(MOST_SNAPSHOTS)),
            counters: counters.clone(),
            changed: Arc::default(),
            stopped_at: Arc::default(),
        };
        let snapshots = shared.snapshots.clone();
        let board = Board::new(worker.clone(), connection.clone());
        health.is_of(board.clone(), connection.clone(), topology.names.clone());
        let life = Arc::new(Life::default());
        let presence = Presence::new(connection.clone(), &topology.names, &worker);
        let answers = answer.is_some() || A::INPUT == Input::Stamped;
        let service = if answers { ask::service::<A>(&connection, &worker).await } else { None };
        let holder = Holder {
            shared,
            connections,
            slots,
            worker: worker.clone(),
            life,
            accepts: accept.clone(),
            answer: answer.clone(),
            service,
            board: board.clone(),
        };
        let risen = holder.rise().await;
        tracing::info!(worker, partitions = %config.partitions, of = topology.partitions, "{}", words.folding);
        let pinned = config.partitions != PartitionSet::Auto;
        let (standby, patience) = (config.standby, config.dead_after.0);
        let group = Group::new(holder, presence, topology.partitions, pinned, standby, patience, risen);
        let hearing = accepting::hear(connection.clone(), topology.names.clone(), board.clone());
        let hearing = async move {
            if let Err(error) = hearing.await {
                tracing::warn!(%error, "nobody can tell this worker what is accepted");
            }
        };
        let answering = async move {
            if let Err(error) = standing::answer(connection, topology.names, &worker, || board.told()).await {
                // Folding does not depend on it.
                tracing::warn!(%error, "nobody can ask how far this worker is");
            }
        };
        let beside = async move { _ = tokio::join!(answering, hearing, sweep(&snapshots)) };
        Ok(Started { group, beside: beside.boxed(), name })
    }
}

/// Snapshots that one worker writes at once: each takes a thread, and its share of the processor.
const MOST_SNAPSHOTS: usize = 2;

/// A put that has not come on for so long was interrupted. One that was not, against all odds, is found damaged when it
/// is read back, and does not count.
const INTERRUPTED: Duration = Duration::from_secs(600);

/// How often that is looked for.
const SWEEPS: Duration = Duration::from_secs(3600);

/// What a worker consists of, ready to run.
struct Started<A: Application> {
    group: Group<A>,
    /// Tells how far it is to whoever asks, and sweeps up behind snapshots.
    beside: BoxFuture<'static, ()>,
    /// Held until everything has ended.
    name: name::Taken,
}

/// Removes now and then what interrupted puts of snapshots have left.
async fn sweep(snapshots: &Snapshots) {
    loop {
        match snapshots.sweep(INTERRUPTED).await {
            Ok(0) => {}
            Ok(puts) => tracing::info!(puts, "removed what interrupted puts of snapshots had left"),
            // The next time will do.
            Err(cause) => tracing::debug!(%cause, "no answer about what interrupted puts have left"),
        }
        tokio::time::sleep(SWEEPS).await;
    }
}

/// The partitions that a worker may hold.
fn choose(set: &PartitionSet, partitions: u32, words: &'static Words) -> Result<Vec<u32>, WorkerError> {
    match set {
        PartitionSet::Auto | PartitionSet::All => Ok((0..partitions).collect()),
        PartitionSet::Some(set) => match set.iter().find(|n| **n >= partitions) {
            Some(partition) => Err(WorkerError::NoSuchPartition { partition: *partition, partitions, words }),
            None => Ok(set.iter().copied().collect()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_beyond_the_last_is_refused() {
        assert!(choose(&"0-7".parse().unwrap(), 8, &Words::DEFAULT).is_ok());
        assert!(matches!(
            choose(&"8".parse().unwrap(), 8, &Words::DEFAULT),
            Err(WorkerError::NoSuchPartition { partition: 8, .. })
        ));
    }
}
