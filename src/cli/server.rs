//! `server`: a nats-server for this machine alone.

use crate::cli::config::{Config, Override};
use crate::cli::ending::{CliError, Exit};
use crate::cli::given;
use crate::local::nats_server::{self, ServerError};
use crate::local::server::{LocalServer, LocalServerError};
use crate::sum::names::{FinalNames, names};
use clap::Args;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Port to listen on; that of nats.servers where it is not given
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Folder of its store
    #[arg(long, value_name = "DIR", default_value = "data/nats")]
    data_dir: PathBuf,
    /// Partitions of the account mapping for clients that can't hash [topology.partitions]
    #[arg(long, value_name = "N")]
    partitions: Option<String>,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    NoProgram(#[from] ServerError),
    #[error(transparent)]
    Local(#[from] LocalServerError),
    #[error(
        "a server started here is not found at {servers}: name a --port, or no servers in --server, nats.servers and NATS_URL"
    )]
    NotHere { servers: String },
    #[error("nats-server can't be started from {}: {cause}", program.display())]
    NotStarted { program: PathBuf, cause: io::Error },
}

impl ServerArgs {
    pub fn settings(&self) -> Vec<Override> {
        given([("topology.partitions", &self.partitions)])
    }

    pub fn run(self, config: &Config) -> Result<Exit, CliError> {
        match self.serve(config)? {}
    }

    /// Becomes a nats-server. Returns only where that can't be done.
    fn serve(self, config: &Config) -> Result<Infallible, ServeError> {
        let elsewhere = || ServeError::NotHere { servers: config.nats.shown_addresses() };
        let address = match (config.nats.address_here(), self.port) {
            (here, Some(port)) => SocketAddr::new(here.map_or(Ipv4Addr::LOCALHOST.into(), |here| here.ip()), port),
            (here, None) => here.ok_or_else(elsewhere)?,
        };
        let program = nats_server::find(&nats_server::tools())?;
        let mapping = names(&config.topology.prefix).mapping(config.topology.partitions);
        let server = LocalServer::new(program.clone(), &self.data_dir, Some(address), Some(&mapping), "")?;
        Err(ServeError::NotStarted { program, cause: server.exec() })
    }
}

pub fn exit(error: &ServeError) -> Exit {
    match error {
        ServeError::NotHere { .. } => Exit::Usage,
        ServeError::NoProgram(_) | ServeError::Local(_) | ServeError::NotStarted { .. } => Exit::Failed,
    }
}
