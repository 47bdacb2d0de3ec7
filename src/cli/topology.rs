//! `topology`: the JetStream objects, created or shown.

use crate::cli::config::{Config, Override};
use crate::cli::ending::{CliError, Exit};
use crate::cli::{given, print};
use crate::sum::Summer;
use clap::Subcommand;
use jetfold::nats::admin::{Admin, Allowed};
use jetfold::nats::connect;
use jetfold::nats::topology::TopologyError;
use jetfold::values::Size;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum TopologyCommand {
    /// Create what is missing; change what is named of copies and limits
    Apply {
        /// Partition logs [topology.partitions]
        #[arg(long, value_name = "N")]
        partitions: Option<String>,
        /// Copies of everything [topology.replicas]
        #[arg(long, value_name = "R")]
        replicas: Option<String>,
        /// Lower copies, retention or bounds although something is lost by it
        #[arg(long)]
        force: bool,
        /// Put back metadata that a tool has dropped from streams of this system
        #[arg(long)]
        adopt: bool,
    },
    /// Show every stream with its limits and what it holds
    Show,
}

impl TopologyCommand {
    pub fn settings(&self) -> Vec<Override> {
        match self {
            Self::Apply { partitions, replicas, .. } => {
                given([("topology.partitions", partitions), ("topology.replicas", replicas)])
            }
            Self::Show => Vec::new(),
        }
    }

    pub async fn run(self, config: &Config) -> Result<Exit, CliError> {
        let connection = connect::connect(&config.nats, "stream-sum topology").await?;
        let admin = config.topology.admin(&connection, config.nats.shown_addresses());
        match self {
            Self::Apply { force, adopt, .. } => {
                let changes = connection.unless_denied(admin.apply(Allowed { force, adopt })).await??;
                changes.iter().try_for_each(|change| print(format_args!("{change}\n")))?;
            }
            Self::Show => print(connection.unless_denied(show(&admin)).await??)?,
        }
        Ok(Exit::Done)
    }
}

async fn show(admin: &Admin<'_, Summer>) -> Result<String, TopologyError> {
    let (topology, streams) = admin.show().await?;
    let rules = topology.application.rules();
    let seconds = |nanos: i64| humantime::format_duration(Duration::from_nanos(nanos.unsigned_abs()));
    let mut text = format!(
        "partitions {}, max_chunk_bytes {}, idle_expiry {}, completed_expiry {}\n{:<32} {:>8} {:>12} {:>10} {:>10} {:>12} {:>12}\n",
        topology.partitions,
        Size(rules.max_chunk_bytes as u64),
        seconds(rules.expiry.idle),
        seconds(rules.expiry.completed),
        "stream",
        "replicas",
        "messages",
        "bytes",
        "max_bytes",
        "first",
        "last",
    );
    for info in streams {
        let (config, state) = (&info.config, &info.state);
        let limit = u64::try_from(config.max_bytes).map_or("none".to_owned(), |bytes| Size(bytes).to_string());
        text.push_str(&format!(
            "{:<32} {:>8} {:>12} {:>10} {:>10} {:>12} {:>12}\n",
            config.name,
            config.num_replicas,
            state.messages,
            bytesize::ByteSize(state.bytes).to_string().replace(' ', ""),
            limit,
            state.first_sequence,
            state.last_sequence
        ));
    }
    Ok(text)
}
