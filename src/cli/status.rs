//! `status`: how far each partition is, once or again and again.

use crate::cli::config::Config;
use crate::cli::ending::{CliError, Exit, complain};
use crate::roles::status;
use crate::sum::names::names;
use clap::Args;
use jetfold::nats::connect;
use jetfold::nats::topology::TopologyError;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often a watched status is asked for again.
const WATCH: Duration = Duration::from_secs(1);

/// What changes hands as it is asked for is asked for again: so soon, and for so long.
const SOON: Duration = Duration::from_millis(50);
const SETTLING: Duration = Duration::from_secs(2);

/// To the top of a terminal, and all below it cleared.
const CLEAR: &str = "\x1b[H\x1b[2J";

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print it again every second, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

impl StatusArgs {
    pub async fn run(self, config: &Config, stop: CancellationToken) -> Result<Exit, CliError> {
        let Self { json, watch } = self;
        let connection = connect::connect(&config.nats, "stream-sum status").await?;
        let names = names(&config.topology.prefix);
        let admin = config.topology.admin(&connection, config.nats.shown_addresses());
        let (partitions, missing) = match connection.unless_denied(admin.check()).await? {
            Ok(topology) => (topology.partitions, false),
            // What is there is shown, and what is missing is named beside it.
            Err(
                error
                @ (TopologyError::LogGone { .. } | TopologyError::Missing { .. } | TopologyError::NoAnswer { .. }),
            ) => {
                let found = connection.unless_denied(status::partitions(&connection, &config.topology)).await?;
                let Some(partitions) = found else { return Err(error.into()) };
                // The table says so of a log.
                if !matches!(error, TopologyError::LogGone { .. }) {
                    complain(&error.into());
                }
                (partitions, true)
            }
            Err(error) => return Err(error.into()),
        };
        let mut settles_by = Instant::now() + SETTLING;
        let mut out = io::stdout();
        let rewritten = watch && !json && out.is_terminal();
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return Ok(Exit::Done),
                asked = connection.unless_denied(status::ask(&connection, &names, partitions)) => asked?,
            };
            if let Ok(status) = &asked
                && status.is_changing_hands()
                && Instant::now() < settles_by
            {
                tokio::time::sleep(SOON).await;
                continue;
            }
            settles_by = Instant::now() + SETTLING;
            let is_well = !missing && asked.as_ref().is_ok_and(|status| status.is_well());
            let text = match asked {
                Ok(status) if json => serde_json::to_string(&status).expect("a status has a JSON form") + "\n",
                Ok(status) => status.to_string(),
                // Who watches wants to see it come back.
                Err(error) if watch => {
                    complain(&error.into());
                    String::new()
                }
                Err(error) => return Err(error.into()),
            };
            // An error stays to be read until there is something else to see.
            let clear = if rewritten && !text.is_empty() { CLEAR } else { "" };
            out.write_all(format!("{clear}{text}").as_bytes()).and_then(|()| out.flush()).map_err(CliError::Output)?;
            if !watch {
                return Ok(if is_well { Exit::Done } else { Exit::Failed });
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(Exit::Done),
                () = tokio::time::sleep(WATCH) => {}
            }
        }
    }
}
