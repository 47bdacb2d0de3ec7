//! `summer`: a worker that folds partitions until it is told to stop.

use crate::cli::config::{Config, Override};
use crate::cli::ending::{self, CliError, Exit};
use crate::cli::{given, progress};
use crate::roles::summing;
use crate::web::Web;
use clap::Args;
use jetfold::Acceptance;
use jetfold::WorkerError;
use jetfold::store::StoreError;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

#[derive(Debug, Args)]
pub struct SummerArgs {
    /// Name of this worker [summer.worker]
    #[arg(long, value_name = "NAME")]
    worker: Option<String>,
    /// Partitions to fold: auto, all, or a list as 0-3,6 [summer.partitions]
    #[arg(long, value_name = "LIST")]
    partitions: Option<String>,
    /// Address and port of the page, the metrics and the health of this process [http.listen]
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: Option<String>,
    /// Folder of the stores [summer.data_dir]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Go on without what a log has lost, which is recorded: diverged, truncated, hole or replaced, and the partition
    #[arg(long, value_name = "LOSS:PARTITION", value_delimiter = ',')]
    accept: Vec<Acceptance>,
}

impl SummerArgs {
    pub fn settings(&self) -> Vec<Override> {
        given([("summer.worker", &self.worker), ("summer.partitions", &self.partitions), ("http.listen", &self.http)])
    }

    pub async fn run(self, config: &Config, stop: CancellationToken) -> Result<Exit, CliError> {
        let mut summer = config.summer.clone();
        // The name of a folder need not be text, as values of the configuration are.
        summer.data_dir = self.data_dir.unwrap_or(summer.data_dir);
        let worker = summing::worker(&summer, &config.nats, &config.topology);
        let web = Web::open(&config.http, &config.otlp).await?;
        let _answering = web.map(|web| {
            if let Some(address) = web.address {
                tracing::info!(%address, "answering by HTTP");
            }
            web.serve_worker(&config.nats, &config.topology, worker.health())
        });
        let _shown = AbortOnDropHandle::new(tokio::spawn(progress::worker(worker.health(), stop.clone())));
        summing::run(worker, &self.accept, stop).await?;
        Ok(Exit::Done)
    }
}

pub fn exit(error: &WorkerError) -> Exit {
    match error {
        WorkerError::Connect(error) => ending::of_connect(error),
        WorkerError::Topology(error) => ending::of_topology(error),
        WorkerError::OutOfRange(_)
        | WorkerError::NotOnceOnly { .. }
        | WorkerError::NoSuchPartition { .. }
        | WorkerError::NothingToAccept { .. }
        | WorkerError::Store(StoreError::Foreign { .. }) => Exit::Usage,
        WorkerError::Partition(error) if error.is_violation() => Exit::Violation,
        WorkerError::Store(_) | WorkerError::Partition(_) => Exit::Failed,
    }
}
