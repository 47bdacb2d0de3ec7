//! How a command ends: its exit code, and the sentence that says why.

use crate::cli::config::ConfigError;
use crate::cli::server::ServeError;
use crate::cli::soak::SoakUsage;
use crate::cli::{accept, chunker, get, rejects, server, soak, sum, summer, up};
use crate::local::up::UpError;
use crate::roles::accept::AcceptError;
use crate::roles::chunker::ChunkerError;
use crate::roles::get::GetError;
use crate::roles::rejects::RejectsError;
use crate::roles::status::StatusError;
use crate::roles::sum_files::SumError;
use crate::soak::SoakError;
use crate::telemetry;
use crate::web::WebError;
use jetfold::WorkerError;
use jetfold::nats::connect::ConnectError;
use jetfold::nats::topology::TopologyError;
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
    Rejects(#[from] RejectsError),
    #[error(transparent)]
    Accept(#[from] AcceptError),
    #[error(transparent)]
    Status(#[from] StatusError),
    #[error(transparent)]
    Up(#[from] UpError),
    #[error(transparent)]
    Server(#[from] ServeError),
    #[error(transparent)]
    Soak(#[from] SoakError),
    #[error(transparent)]
    SoakUsage(#[from] SoakUsage),
    #[error(transparent)]
    Web(#[from] WebError),
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
    #[error("there is no command {0}: `stream-sum help` lists them")]
    NoCommand(String),
    #[error("signals can't be watched: {0}")]
    Signals(io::Error),
}

impl CliError {
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(_) | Self::SumOptions(_) | Self::NoCommand(_) => Exit::Usage,
            Self::Connect(error) => of_connect(error),
            Self::Topology(error) => of_topology(error),
            Self::Worker(error) => summer::exit(error),
            Self::Chunker(error) => chunker::exit(error),
            Self::Sum(error) => sum::exit(error),
            Self::Get(error) => get::exit(error),
            Self::Rejects(error) => rejects::exit(error),
            Self::Accept(error) => accept::exit(error),
            Self::Up(error) => up::exit(error),
            Self::Server(error) => server::exit(error),
            Self::Soak(error) => soak::exit(error),
            Self::SoakUsage(_) => Exit::Usage,
            Self::Web(error) if error.is_usage() => Exit::Usage,
            Self::Status(_)
            | Self::Web(_)
            | Self::Report { .. }
            | Self::Output(_)
            | Self::OutputClosed
            | Self::Signals(_) => Exit::Failed,
        }
    }
}

/// Of a connection, whichever command asks for it.
pub fn of_connect(error: &ConnectError) -> Exit {
    match error {
        ConnectError::NoServer { .. } | ConnectError::NoMore { .. } => Exit::Failed,
        _ => Exit::Usage,
    }
}

/// Of the topology, whichever command needs it.
pub fn of_topology(error: &TopologyError) -> Exit {
    match error {
        TopologyError::NoRoom { .. } | TopologyError::Refused { .. } | TopologyError::NoAnswer { .. } => Exit::Failed,
        _ => Exit::Usage,
    }
}

/// Says what went wrong, in one sentence. Where nobody listens, the exit code has to do.
pub fn complain(error: &CliError) {
    telemetry::say(&format!("stream-sum: {error}"));
}
