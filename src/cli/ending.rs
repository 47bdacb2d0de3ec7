//! How a command ends: its exit code, and the sentence that says why.

use crate::cli::config::ConfigError;
use crate::local::nats_server::ServerError;
use crate::local::server::LocalServerError;
use crate::local::up::UpError;
use crate::roles::chunker::ChunkerError;
use crate::roles::get::GetError;
use crate::roles::status::StatusError;
use crate::roles::sum_files::SumError;
use crate::run::RunError;
use crate::telemetry;
use jetfold::nats::connect::ConnectError;
use jetfold::nats::topology::TopologyError;
use jetfold::store::StoreError;
use jetfold::worker::WorkerError;
use std::io;
use std::path::PathBuf;

/// How a command ended, as the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    /// It could not be done: network, disk, a log that is not what it was.
    Failed = 1,
    /// Usage, configuration, or a topology that disagrees.
    Usage = 2,
    /// A guarantee was broken.
    Violation = 3,
}

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error(transparent)]
    Chunker(#[from] ChunkerError),
    #[error(transparent)]
    Sum(#[from] SumError),
    #[error(transparent)]
    Get(#[from] GetError),
    #[error(transparent)]
    Status(#[from] StatusError),
    #[error(transparent)]
    Up(#[from] UpError),
    #[error(transparent)]
    NoServerProgram(#[from] ServerError),
    #[error(transparent)]
    LocalServer(#[from] LocalServerError),
    #[error(
        "a server started here is not found at {servers}: name a --port, or no servers in --server, nats.servers and NATS_URL"
    )]
    NotHere { servers: String },
    #[error("nats-server can't be started from {}: {cause}", program.display())]
    NotStarted { program: PathBuf, cause: io::Error },
    #[error("the report {} can't be written: {cause}", path.display())]
    Report { path: PathBuf, cause: io::Error },
    #[error("standard output can't be written: {0}")]
    Output(io::Error),
    #[error(
        "standard output is closed, or open for reading only, and the results go there: give it a file, a pipe or /dev/null"
    )]
    OutputClosed,
    #[error("{0}\nTry 'stream-sum sum --help' for more information.")]
    SumOptions(&'static str),
    #[error("signals can't be watched: {0}")]
    Signals(io::Error),
}

impl CliError {
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(_) | Self::NotHere { .. } | Self::SumOptions(_) => Exit::Usage,
            Self::Connect(error)
            | Self::Worker(WorkerError::Connect(error))
            | Self::Chunker(ChunkerError::Connect(error))
            | Self::Sum(SumError::Connect(error))
            | Self::Up(UpError::Connect(error) | UpError::Chunker(ChunkerError::Connect(error)))
            | Self::Get(GetError::Connect(error)) => match error {
                ConnectError::NoServer { .. } | ConnectError::NoMore { .. } => Exit::Failed,
                _ => Exit::Usage,
            },
            Self::Topology(error)
            | Self::Worker(WorkerError::Topology(error))
            | Self::Chunker(ChunkerError::Topology(error))
            | Self::Up(UpError::Topology(error) | UpError::Chunker(ChunkerError::Topology(error)))
            | Self::Sum(SumError::Topology(error)) => match error {
                TopologyError::NoRoom { .. } | TopologyError::Refused { .. } | TopologyError::NoAnswer { .. } => {
                    Exit::Failed
                }
                _ => Exit::Usage,
            },
            Self::Worker(
                WorkerError::NotOnceOnly { .. }
                | WorkerError::NoSuchPartition { .. }
                | WorkerError::NothingToAccept { .. },
            ) => Exit::Usage,
            Self::Worker(WorkerError::Store(StoreError::Foreign { .. })) => Exit::Usage,
            Self::Worker(WorkerError::Partition(error)) if error.is_violation() => Exit::Violation,
            Self::Get(GetError::NoSums { .. }) => Exit::Usage,
            Self::Chunker(
                ChunkerError::ChunkTooLarge { .. } | ChunkerError::Run(RunError::RunTaken(_) | RunError::Denied(_)),
            )
            | Self::Sum(SumError::Run(RunError::Denied(_))) => Exit::Usage,
            Self::Up(UpError::TooManySummers { .. }) => Exit::Usage,
            Self::Up(UpError::Chunker(
                ChunkerError::ChunkTooLarge { .. } | ChunkerError::Run(RunError::RunTaken(_) | RunError::Denied(_)),
            )) => Exit::Usage,
            Self::Up(error) => match error.code_of_child() {
                Some(3) => Exit::Violation,
                Some(2) => Exit::Usage,
                _ => Exit::Failed,
            },
            _ => Exit::Failed,
        }
    }
}

/// Says what went wrong, in one sentence. Where nobody listens, the exit code has to do.
pub fn complain(error: &CliError) {
    telemetry::say(&format!("stream-sum: {error}"));
}
