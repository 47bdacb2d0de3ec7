//! `System`: an application, and where it runs. What one program does with it: make its JetStream objects, work, ask.

use crate::application::Application;
use crate::environment::{self, ConfigError};
use crate::identity::accept::Acceptance;
use crate::key::Key;
use crate::nats::admin::{Admin, Allowed, Change};
use crate::nats::connect::{self, ConnectError};
use crate::nats::topology::{self, Topology, TopologyError};
use crate::publisher::{NamedError, PublishError, Publisher};
use crate::worker::accepting::{self, Accepting, CannotTell};
use crate::worker::ask::{self, AskError};
use crate::worker::{self, Worker, WorkerError};
use bytes::Bytes;
use futures_util::future::FutureExt;
use std::fmt;

/// Everything that a process of a system is told. What is not set has the defaults of the programs of this repository.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub nats: connect::Config,
    pub topology: topology::Config,
    pub worker: worker::Config,
}

impl Config {
    /// What the environment says: `JETFOLD_<SECTION>__<KEY>`, as in `JETFOLD_NATS__SERVERS`, `JETFOLD_TOPOLOGY__PARTITIONS` and
    /// `JETFOLD_WORKER__DATA_DIR`. Servers are those of `NATS_URL` if nobody has named others.
    pub fn from_env() -> Result<Self, ConfigError> {
        environment::read(std::env::vars_os())
    }
}

/// Why something could not be done. Each says what, where, and what to do, also as what `main` returns: `{:?}` is the same
/// sentence.
#[derive(thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    Accept(#[from] CannotTell),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Named(#[from] NamedError),
    /// Of whatever the program around reads and writes.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An application on a NATS server.
#[derive(Clone, Debug)]
pub struct System<A> {
    application: A,
    config: Config,
}

impl<A: Application> System<A> {
    /// Nothing is connected to yet. If no prefix is set, the application's name is put before all names and subjects.
    pub fn new(application: A, mut config: Config) -> Self {
        if config.topology.prefix.is_empty() {
            config.topology.prefix = A::NAME.to_owned();
        }
        Self { application, config }
    }

    async fn connect(&self, role: &str) -> Result<connect::Connection, ConnectError> {
        connect::connect(&self.config.nats, &format!("{} {role}", A::NAME)).await
    }

    /// Connects for a role, and reads what the logs say.
    async fn checked(&self, role: &str) -> Result<(connect::Connection, Topology<A>), Error> {
        let connection = self.connect(role).await?;
        let topology = connection.unless_denied(self.admin(&connection).check()).await??;
        Ok((connection, topology))
    }

    fn admin<'a>(&self, connection: &'a connect::Connection) -> Admin<'a, A> {
        let (topology, servers) = (self.config.topology.clone(), self.config.nats.shown_addresses());
        Admin::new(connection, topology, self.application.clone(), servers)
    }

    /// Makes the JetStream objects that are missing: once, before anything else. Never changes what is there.
    pub async fn apply(&self) -> Result<Vec<Change>, Error> {
        self.apply_with(Allowed::default()).await
    }

    /// The same, with what the operator allows besides.
    pub async fn apply_with(&self, allowed: Allowed) -> Result<Vec<Change>, Error> {
        let connection = self.connect("apply").await?;
        Ok(connection.unless_denied(self.admin(&connection).apply(allowed)).await??)
    }

    /// A worker of this system. Any number may run, each with a folder and a name of its own.
    pub fn worker(&self) -> Worker<A> {
        let Config { nats, topology, worker } = self.config.clone();
        Worker::new(self.application.clone(), worker, nats, topology)
    }

    /// A publisher of records that nobody sends again.
    pub async fn publisher(&self) -> Result<Publisher<A>, Error> {
        let (connection, topology) = self.checked("publisher").await?;
        Ok(Publisher::anonymous(&connection, &topology))
    }

    /// A publisher with a name that outlives the process: it goes on where its last life was. See [`Publisher::push_at`].
    pub async fn publisher_named(&self, name: &str) -> Result<Publisher<A>, Error> {
        let (connection, topology) = self.checked("publisher").await?;
        let (asking, names, producer) = (connection.clone(), topology.names.clone(), name.to_owned());
        let told = move |partition| {
            let (asking, subject, producer) = (asking.clone(), names.producers_subject(partition), producer.clone());
            async move { ask::ask_for_producer(&asking, subject, partition, &producer).await }.boxed()
        };
        Ok(Publisher::named(&connection, &topology, name, told).await?)
    }

    /// Accepts what a log has lost, while workers run: see [`Accepting`].
    pub async fn accept(&self, acceptance: Acceptance) -> Result<Vec<Accepting>, Error> {
        let (connection, topology) = self.checked("accept").await?;
        Ok(accepting::tell(&connection, &topology.names, acceptance).await?)
    }

    /// Asks the workers of a key's partition what they have committed: see [`Worker::answering`].
    pub async fn ask(&self, key: &<A::Key as Key>::Ref, question: impl Into<Bytes>) -> Result<Bytes, Error> {
        let (connection, topology) = self.checked("ask").await?;
        let partition = A::Key::partition(key, topology.partitions);
        Ok(ask::ask(&connection, topology.names.ask_subject(partition), partition, question.into()).await?)
    }
}
