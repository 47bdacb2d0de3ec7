//! `rejects`: what could not be folded, listed, shown, explained, sent once more, and dropped.

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
        /// Those that were dropped, with the reason, instead of those that are to be worked off
        #[arg(long)]
        dropped: bool,
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
    /// Take one reject out of the list for good; the batch and the reason are kept for as long as rejects are
    Drop {
        /// The number at the beginning of its line
        reject: u64,
        /// Why: whoever asks later is told
        #[arg(long, value_name = "WHY", value_parser = reason)]
        reason: String,
    },
}

/// The most bytes of a reason: it is one line of a list.
const LONGEST_REASON: usize = 1000;

fn reason(text: &str) -> Result<String, &'static str> {
    match text.trim() {
        "" => Err("say why it is dropped"),
        text if text.len() > LONGEST_REASON => Err("at most 1000 bytes"),
        text => Ok(text.to_owned()),
    }
}

impl RejectsCommand {
    pub async fn run(self, config: &Config) -> Result<Exit, CliError> {
        let rejects = Rejects::connect(&config.nats, &config.topology).await?;
        let text = match self {
            Self::List { partition, reason, limit, dropped } => {
                rejects.unless_denied(rejects.list(partition, reason.as_deref(), limit, dropped)).await?
            }
            Self::Show { reject } => rejects.unless_denied(rejects.show(reject)).await?,
            Self::Explain { reject } => rejects.unless_denied(rejects.explain(reject)).await?,
            Self::Retry { reject } => rejects.unless_denied(rejects.retry(reject)).await?,
            Self::Drop { reject, reason } => rejects.unless_denied(rejects.drop(reject, &reason)).await?,
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
