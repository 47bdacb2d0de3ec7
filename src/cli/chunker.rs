//! `chunker`: streams generated, published, and their finals verified.

use crate::cli::conclusion::{Written, conclude};
use crate::cli::config::{Config, Override};
use crate::cli::ending::{self, CliError, Exit};
use crate::cli::{given, progress};
use crate::roles::chunker::{Choices, ChunkerError, Outcome, generate_and_verify_streams};
use crate::run::RunError;
use crate::run::report::Report;
use crate::sum::stream_id::RunPrefix;
use crate::telemetry;
use crate::web::Web;
use clap::Args;
use futures_util::future::FutureExt;
use std::path::PathBuf;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Args)]
pub struct ChunkerArgs {
    /// Streams to make; below 0: without end [chunker.streams]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    streams: Option<String>,
    /// Chunks of data a stream [chunker.chunks]
    #[arg(long, value_name = "N")]
    chunks: Option<String>,
    /// Bytes of data a chunk [chunker.chunk_bytes]
    #[arg(long, value_name = "B")]
    chunk_bytes: Option<String>,
    /// Threads that generate [chunker.workers]
    #[arg(long, value_name = "W")]
    workers: Option<String>,
    /// Chunks a second over all workers; 0: as fast as it goes [chunker.rate]
    #[arg(long, value_name = "CHUNKS_PER_S")]
    rate: Option<String>,
    /// Address and port of the page and the metrics of this process [http.listen]
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: Option<String>,
    /// The name of the run: a chunker that is started again with it goes on with its streams [chunker.run]
    #[arg(long, value_name = "NAME")]
    run: Option<String>,
    /// Makes content repeatable; drawn where it is not given
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// The 4-byte prefix of the stream IDs, as 8 hex characters; drawn where it is not given
    #[arg(long, value_name = "HEX")]
    id_prefix: Option<RunPrefix>,
    /// Write the report as JSON, every 5 seconds and at the end
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

impl ChunkerArgs {
    pub fn settings(&self) -> Vec<Override> {
        given([
            ("chunker.streams", &self.streams),
            ("chunker.chunks", &self.chunks),
            ("chunker.chunk_bytes", &self.chunk_bytes),
            ("chunker.workers", &self.workers),
            ("chunker.rate", &self.rate),
            ("chunker.run", &self.run),
            ("http.listen", &self.http),
        ])
    }

    pub fn choices(&self) -> Choices {
        Choices { seed: self.seed, prefix: self.id_prefix, ..Choices::default() }
    }

    pub async fn run(self, config: &Config, stop: CancellationToken) -> Result<Exit, CliError> {
        let choices = self.choices();
        let (reports, watched) = watch::channel(Report::default());
        let written = Written::start(self.report, config, &reports, &stop).await?;
        let web = Web::open(&config.http, &config.otlp).await?;
        let _answering = web.map(|web| {
            if let Some(address) = web.address {
                tracing::info!(%address, "answering by HTTP");
            }
            let nats = watch::Sender::new(Some(config.nats.clone())).subscribe();
            web.serve_run(nats, &config.topology, reports.subscribe())
        });
        let shown = match u64::try_from(config.chunker.streams) {
            Ok(streams) if !telemetry::bars().is_hidden() => progress::bar(watched, streams).boxed(),
            _ => progress::log(watched).boxed(),
        };
        let shown = tokio::spawn(shown);
        let outcome =
            generate_and_verify_streams(&config.chunker, choices, &config.nats, &config.topology, &reports, stop).await;
        drop(reports);
        shown.await.ok();
        let ended = outcome.map(|Outcome { report, failure }| (report, failure.map(CliError::from)));
        conclude(ended.map_err(CliError::from), config.chunker.wanted(), written).await
    }
}

/// The exit code of a chunker, and of a stack that ends as its chunker does.
pub fn exit(error: &ChunkerError) -> Exit {
    match error {
        ChunkerError::Connect(error) => ending::of_connect(error),
        ChunkerError::Topology(error) => ending::of_topology(error),
        ChunkerError::ChunkTooLarge { .. }
        | ChunkerError::NotChosen { .. }
        | ChunkerError::NamedWithoutEnd { .. }
        | ChunkerError::Run(RunError::PrefixTaken(_) | RunError::Denied(_)) => Exit::Usage,
        // The way out is always another name, or what the run was begun with.
        ChunkerError::Run(RunError::Record(error)) if !error.may_pass() => Exit::Usage,
        ChunkerError::Run(_) => Exit::Failed,
    }
}
