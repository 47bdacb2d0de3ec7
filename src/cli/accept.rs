//! `accept`: what a log has lost is accepted, by the summers that run.

use crate::cli::config::Config;
use crate::cli::ending::{self, CliError, Exit};
use crate::cli::print;
use crate::roles::accept::{self, AcceptError};
use clap::Args;
use jetfold::Acceptance;
use jetfold::values::Span;

#[derive(Debug, Args)]
pub struct AcceptArgs {
    /// diverged, truncated, hole or replaced, and the partition, as the summer's log names them
    #[arg(value_name = "LOSS:PARTITION")]
    acceptance: Acceptance,
    /// Say it again and again for so long, until a summer takes it: one that ends because of the loss may be on its way back
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    wait: Span,
}

impl AcceptArgs {
    pub async fn run(self, config: &Config) -> Result<Exit, CliError> {
        print(accept::run(self.acceptance, self.wait.0, &config.nats, &config.topology).await?)?;
        Ok(Exit::Done)
    }
}

pub fn exit(error: &AcceptError) -> Exit {
    match error {
        AcceptError::Connect(error) => ending::of_connect(error),
        AcceptError::CannotTell(_) | AcceptError::Nobody(_) | AcceptError::NotInQuestion { .. } => Exit::Failed,
    }
}
