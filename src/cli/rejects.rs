//! `rejects`: what could not be folded, listed, shown, explained, and sent once more.

use crate::cli::config::Config;
use crate::cli::ending::{self, CliError, Exit};
use crate::cli::print;
use crate::roles::rejects::{Rejects, RejectsError};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum RejectsCommand {
    /// A line for each batch of which something was rejected, the oldest first
    List {
        /// Of one partition's log
        #[arg(long, value_name = "P")]
        partition: Option<u32>,
        /// Of one reason: undecodable, misrouted, unknown, expired, gap, broken, after-end, oversized
        #[arg(long, value_name = "R")]
        reason: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: usize,
    },
    /// The chunks of one reject, each with its reason
    Show {
        /// The number at the beginning of its line
        reject: u64,
    },
    /// How the streams of one reject stand, and what would have been right
    Explain {
        /// The number at the beginning of its line
        reject: u64,
    },
    /// Send what of one reject can be folded by now to the log that it belongs to
    Retry {
        /// The number at the beginning of its line
        reject: u64,
    },
}

impl RejectsCommand {
    pub async fn run(self, config: &Config) -> Result<Exit, CliError> {
        let rejects = Rejects::connect(&config.nats, &config.topology).await?;
        let text = match self {
            Self::List { partition, reason, limit } => {
                rejects.unless_denied(rejects.list(partition, reason.as_deref(), limit)).await?
            }
            Self::Show { reject } => rejects.unless_denied(rejects.show(reject)).await?,
            Self::Explain { reject } => rejects.unless_denied(rejects.explain(reject)).await?,
            Self::Retry { reject } => rejects.unless_denied(rejects.retry(reject)).await?,
        };
        print(text)?;
        Ok(Exit::Done)
    }
}

pub fn exit(error: &RejectsError) -> Exit {
    match error {
        RejectsError::Connect(error) => ending::of_connect(error),
        _ => Exit::Failed,
    }
}
