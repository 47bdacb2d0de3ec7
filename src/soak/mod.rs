//! `soak`: a system under faults, and a verdict on whether it kept what it promises.
//!
//! 1. The servers are the run's own, each behind [links](proxy) that can be cut, or somebody's, on which the run makes streams under a
//!    prefix of its own. [Summers](crew) are processes; the chunker, whose ledger is the judge, is in this one.
//! 2. [Faults](fault) come by a [mod@plan] that is drawn before, and are [injected](injector) one after the other. Chunks are due by a
//!    schedule that no fault slows down.
//! 3. Beside it run messages that no worker touches, the [baseline]: what is slow there is the servers' doing.
//! 4. [Seconds](mod@seconds), [samples](mod@sample) and single [streams](points) are kept; what summers find that JetStream has forgotten is
//!    [overheard]; at the end [replicas] are compared.
//! 5. The [judgement] is made of all that, and stands with it in one [document], which is written as it goes and drawn by a [page].

pub mod baseline;
pub mod clock;
pub mod crew;
pub mod document;
pub mod fault;
mod faults;
pub mod injector;
pub mod judgement;
pub mod nodes;
pub mod overheard;
pub mod page;
pub mod plan;
pub mod points;
pub mod proxy;
pub mod replicas;
pub mod sample;
pub mod seconds;
mod stage;
mod watching;

use crate::local::nats_server::ServerError;
use crate::local::up::UpError;
use crate::local::up::children::ChildError;
use crate::roles::chunker::{Choices, ChunkerConfig, ChunkerError, Outcome, generate_and_verify_streams};
use crate::run::endings::Endings;
use crate::run::report::Report;
use crate::sum::topology_section;
use document::{Document, Head};
use fault::{Fault, Ground};
use jetfold::joined;
use jetfold::nats::connect::{self, ConnectError};
use jetfold::nats::standing::CannotAsk;
use jetfold::nats::topology::TopologyError;
use nodes::NodesError;
use plan::Plan;
use stage::Stage;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use watching::Watching;

/// How often the report is written.
const WRITTEN: Duration = Duration::from_secs(2);

/// After the last chunk, finals are waited for as long as it takes to call one missing, and a little longer.
const MORE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum SoakError {
    #[error(transparent)]
    Stack(#[from] UpError),
    #[error(transparent)]
    Nodes(#[from] NodesError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error(transparent)]
    CannotAsk(#[from] CannotAsk),
    #[error(transparent)]
    Child(#[from] ChildError),
    #[error(transparent)]
    Chunker(#[from] ChunkerError),
    #[error("the servers did not come together as a cluster within {} s", .0.as_secs())]
    NoCluster(Duration),
}

/// What is to be done.
pub struct Soak {
    pub ground: Ground,
    pub summers: u32,
    /// What every summer gets on its command line before its command, and in its environment.
    pub arguments: Vec<OsString>,
    pub environment: Vec<(String, String)>,
    pub nats: connect::Config,
    pub topology: topology_section::Config,
    pub chunker: ChunkerConfig,
    pub duration: Duration,
    pub plan: Plan,
    /// What can't be tested here, or was not asked for, each with why.
    pub not_tested: Vec<String>,
    pub seed: u64,
    pub max_p99: Option<Duration>,
    pub sync_interval: Option<String>,
    /// Kept; where there is none, a temporary folder, which is not.
    pub data_dir: Option<PathBuf>,
    /// What stands in the report of all that.
    pub command: String,
    pub config: serde_json::Value,
}

/// Runs it to its end, or until `stop`. `reports` is told how the chunker's run stands, `say` of each fault, and `write` is called with the
/// report every few seconds.
pub async fn run(
    soak: Soak,
    reports: watch::Sender<Report>,
    say: impl Fn(&str) + Clone + Send + 'static,
    write: impl Fn(Document) + Send + 'static,
    stop: CancellationToken,
) -> Result<Document, SoakError> {
    let mut stage = Stage::new(&soak)?;
    let staged = tokio::select! {
        staged = stage.set(&soak) => staged,
        () = stop.cancelled() => Ok(None),
    };
    let result = match staged {
        Ok(Some(set)) => {
            let ended = play(&soak, &mut stage, &set, reports, say, write, stop).await;
            // The links lead to the servers until everybody has stopped.
            stage.clear(&soak).await;
            drop(set);
            ended.map(Some)
        }
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    stage.clear(&soak).await;
    let document = result?;
    Ok(document.unwrap_or_else(|| Watching::nothing(head(&soak, Vec::new(), 0, soak.topology.partitions))))
}

fn head(soak: &Soak, servers: Vec<document::Server>, replicas: usize, partitions: u32) -> Head {
    let kind = match soak.ground {
        Ground::Private { .. } => "private",
        Ground::Given => "given",
    };
    let sync_interval = match soak.ground {
        Ground::Private { .. } => Some(soak.sync_interval.clone().unwrap_or_else(|| "2m".to_owned())),
        Ground::Given => None,
    };
    Head {
        version: crate::VERSION,
        started: watching::now(),
        command: soak.command.clone(),
        seed: soak.seed,
        duration_s: soak.duration.as_secs_f64(),
        rate: soak.chunker.rate,
        max_p99_ms: soak.max_p99.map(|most| most.as_secs_f64() * 1000.0),
        target: document::Target { kind, servers, sync_interval, replicas, partitions, summers: soak.summers },
        config: soak.config.clone(),
        plan: soak.plan.clone(),
    }
}

/// From the first chunk to the verdict.
async fn play(
    soak: &Soak,
    stage: &mut Stage,
    set: &stage::Set,
    reports: watch::Sender<Report>,
    say: impl Fn(&str) + Clone + Send + 'static,
    write: impl Fn(Document) + Send + 'static,
    stop: CancellationToken,
) -> Result<Document, SoakError> {
    let (endings, told) = Endings::channel();
    let last_finals = soak.chunker.deadline.0 * 2 + MORE;
    let choices = Choices { seed: Some(soak.seed), endings, last_finals: Some(last_finals), ..Choices::default() };
    let head = head(soak, set.servers.clone(), set.replicas, set.partitions);
    let stopped = CancellationToken::new();
    let began = Instant::now();
    stage.overheard.begins(began.into_std());
    let watching = Watching::start(soak, head, set, &stage.overheard, reports.subscribe(), told, began);
    let injecting = faults::inject_all(set.injector.clone(), soak.plan.clone(), began, watching.faults(), say);
    let mut injecting = tokio::spawn(injecting);
    let (config, nats, topology) = (soak.chunker.clone(), set.nats.clone(), set.topology.clone());
    let chunking = {
        let stopped = stopped.clone();
        async move { generate_and_verify_streams(&config, choices, &nats, &topology, &reports, stopped).await }
    };
    let mut chunking = tokio::spawn(chunking);
    let mut kept = stage.hand_over();
    let mut ticks = tokio::time::interval(WRITTEN);
    let mut failure: Option<SoakError> = None;
    let mut injected = false;
    let over_at = began + soak.duration;
    let outcome: Result<Outcome, ChunkerError> = loop {
        tokio::select! {
            outcome = &mut chunking => break joined(outcome),
            given = ended(&mut kept) => {
                kept = None;
                if let Some(error) = stage.take_back_from(given) {
                    failure.get_or_insert(error.into());
                }
                stopped.cancel();
            }
            ended = &mut injecting, if !injected => {
                injected = true;
                if let Err(error) = joined(ended) {
                    failure.get_or_insert(error.into());
                    stopped.cancel();
                }
            }
            // The faults of the plan are over by then, or soon.
            () = tokio::time::sleep_until(over_at), if !stopped.is_cancelled() && injected => stopped.cancel(),
            () = stop.cancelled(), if !stopped.is_cancelled() => {
                injecting.abort();
                injected = true;
                // What has begun is undone first: finals come over links that lead somewhere.
                if let Some(before) = kept.take() {
                    stage.take_back(before).await;
                }
                stage.heal(set).await;
                kept = stage.hand_over();
                stopped.cancel();
            }
            _ = ticks.tick() => write(watching.document(false, None, None)),
        }
    };
    injecting.abort();
    if let Some(kept) = kept.take() {
        stage.take_back(kept).await;
    }
    if !injected {
        stage.heal(set).await;
    }
    let report = match outcome {
        Ok(Outcome { report, failure: of_run }) => {
            failure = failure.or(of_run.map(SoakError::from));
            report
        }
        Err(error) => {
            failure.get_or_insert(error.into());
            watching.report()
        }
    };
    let compared = match failure {
        None => stage.compare(soak, set).await,
        Some(_) => None,
    };
    // Of an interrupt nothing more is to be said: what was promised until then was kept, or was not.
    let said = failure.as_ref().map(ToString::to_string);
    watching.ends_with(report, failure.as_ref().and_then(violation));
    Ok(watching.document(true, said, compared))
}

/// Waits until processes can't be kept running any more.
async fn ended(kept: &mut Option<stage::Kept>) -> stage::Given {
    match kept {
        Some(kept) => joined((&mut kept.keeping).await),
        None => std::future::pending().await,
    }
}

/// A summer that says by its end that a guarantee was broken.
fn violation(error: &SoakError) -> Option<String> {
    match error {
        SoakError::Child(ChildError::GaveUp { name, how, code: 3 }) => Some(format!("{name} {how}")),
        _ => None,
    }
}

/// The faults that are possible, of those that are wanted, and of all others why they are not tested.
pub fn possible(ground: Ground, wanted: &[Fault], allowed: &[Fault]) -> (Vec<Fault>, Vec<String>) {
    let allowed = allowed.iter().copied().collect();
    let (mut kinds, mut not_tested) = (Vec::new(), Vec::new());
    for fault in Fault::ALL {
        match fault.impossible(ground, &allowed) {
            Some(why) => not_tested.push(format!("{fault}: {why}")),
            None if wanted.contains(&fault) => kinds.push(fault),
            None => not_tested.push(format!("{fault}: it was not asked for")),
        }
    }
    (kinds, not_tested)
}

/// What no soak can test.
pub const NEVER_TESTED: [&str; 2] = [
    "power failure: the page cache of a machine can't be dropped from here; that a folder is put back (server-forgets) stands for it",
    "networks: links are cut, reset and slowed down on one machine; packets are not lost, doubled or turned around",
];
