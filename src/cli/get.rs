//! `get`: the final of one stream.

use crate::cli::config::Config;
use crate::cli::ending::{self, CliError, Exit};
use crate::cli::print;
use crate::roles::get::{self, GetError};
use crate::sum::stream_id::StreamId;
use clap::Args;

#[derive(Debug, Args)]
pub struct GetArgs {
    /// 32 hex characters
    id: StreamId,
    /// Wait for its final until it comes, or until Ctrl-C
    #[arg(long)]
    wait: bool,
}

impl GetArgs {
    pub async fn run(self, config: &Config) -> Result<Exit, CliError> {
        let line = get::run(self.id, self.wait, &config.nats, &config.topology).await?;
        print(format_args!("{line}\n"))?;
        Ok(Exit::Done)
    }
}

pub fn exit(error: &GetError) -> Exit {
    match error {
        GetError::Connect(error) => ending::of_connect(error),
        GetError::NoSums { .. } => Exit::Usage,
        GetError::NoAnswer(_)
        | GetError::None(_)
        | GetError::NotAsked { .. }
        | GetError::Broken { .. }
        | GetError::NoFinal { .. } => Exit::Failed,
    }
}
