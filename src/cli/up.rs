//! `up`: the local stack, a nats-server with summers and a chunker.

use crate::cli::chunker::{self, ChunkerArgs};
use crate::cli::conclusion::{Written, conclude};
use crate::cli::config::{Config, Override, variable};
use crate::cli::ending::{self, CliError, Exit};
use crate::cli::{given, progress};
use crate::local::up::{self, Stack, UpError};
use crate::roles;
use crate::run::report::Report;
use crate::telemetry;
use crate::web::{self, Web};
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Args)]
pub struct UpArgs {
    /// Summer processes; 2 where it is not given
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u32).range(1..=256))]
    summers: Option<u32>,
    /// Partition logs, where they are not there yet [topology.partitions]
    #[arg(long, value_name = "N")]
    partitions: Option<String>,
    /// Port of the nats-server; any free one where it is not given
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Folder of everything that is stored, kept; a temporary one where it is not given
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    chunker: ChunkerArgs,
}

impl UpArgs {
    pub fn settings(&self) -> Vec<Override> {
        [given([("topology.partitions", &self.partitions)]), self.chunker.settings()].concat()
    }

    /// `arguments` and `flags` are what each summer is told besides: on its command line, and in its environment.
    pub async fn run(
        self,
        config: &Config,
        arguments: Vec<OsString>,
        flags: &[Override],
        stop: CancellationToken,
    ) -> Result<Exit, CliError> {
        let choices = self.chunker.choices();
        let (reports, watched) = watch::channel(Report::default());
        let written = Written::start(self.chunker.report, config, &reports, &stop).await?;
        let mut environment: Vec<_> = flags.iter().map(|(key, value)| (variable(key), value.clone())).collect();
        environment.push((variable("log.format"), "text".to_owned()));
        if config.log.level == telemetry::Filter::default() {
            // What runs as it should is told by the lines of this process.
            environment.push((variable("log.level"), "warn".to_owned()));
        }
        // One address can't be listened on by all; the page of the stack is this process's.
        environment.push((variable("http.listen"), String::new()));
        let listen = if config.http.listen.is_empty() { "127.0.0.1:0" } else { &config.http.listen };
        let (known, nats) = watch::channel(None);
        let web = Web::open(&web::Config { listen: listen.to_owned() }, &config.otlp).await?;
        let _answering = web.map(|web| {
            if let Some(address) = web.address {
                telemetry::say(&format!("{:<12} http://{address}/", "page"));
            }
            web.serve_run(nats, &config.topology, reports.subscribe())
        });
        let mut nats = config.nats.clone();
        if nats.of_every_client {
            // A local stack starts a server of its own unless somebody names one for it.
            nats.servers.clear();
        }
        let stack = Stack {
            summers: self.summers,
            port: self.port,
            data_dir: self.data_dir,
            arguments,
            environment,
            nats,
            known,
            topology: config.topology.clone(),
            chunker: config.chunker.clone(),
            choices,
        };
        let shown = tokio::spawn(progress::line(watched));
        let outcome = up::run(stack, reports, stop).await;
        shown.await.ok();
        let ended =
            outcome.map(|up::Outcome { chunking: roles::chunker::Outcome { report, failure }, failure: of_stack }| {
                // What ended the stack has ended the chunker.
                (report, of_stack.map(CliError::from).or(failure.map(CliError::from)))
            });
        conclude(ended.map_err(CliError::from), config.chunker.wanted(), written).await
    }
}

pub fn exit(error: &UpError) -> Exit {
    match error {
        UpError::Connect(error) => ending::of_connect(error),
        UpError::Topology(error) => ending::of_topology(error),
        UpError::Chunker(error) => chunker::exit(error),
        UpError::TooManySummers { .. } => Exit::Usage,
        // A summer that gives up has said by its exit code what the stack ends with.
        _ => match error.code_of_child() {
            Some(3) => Exit::Violation,
            Some(2) => Exit::Usage,
            _ => Exit::Failed,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roles::chunker::ChunkerError;
    use crate::run::RunError;
    use crate::sum::stream_id::RunPrefix;
    use jetfold::nats::topology::TopologyError;

    #[test]
    fn a_stack_ends_with_the_code_of_its_chunker() {
        let too_large = || ChunkerError::ChunkTooLarge { chunk_bytes: 2, most: 1 };
        let taken = || RunError::PrefixTaken(RunPrefix([1, 2, 3, 4])).into();
        let refused = || {
            let [name, servers, cause] = ["sums", "here", "no"].map(str::to_owned);
            TopologyError::Refused { name, servers, cause }.into()
        };
        let cases: [(&dyn Fn() -> ChunkerError, Exit); 3] =
            [(&too_large, Exit::Usage), (&taken, Exit::Usage), (&refused, Exit::Failed)];
        for (error, expected) in cases {
            let alone = CliError::from(error()).exit();
            let within = CliError::from(UpError::from(error())).exit();
            assert_eq!((alone, within), (expected, expected), "{}", error());
        }
    }
}
