//! The chunker: generates streams, publishes them interleaved, and verifies that each comes back as one right final.

use crate::roles::generator::Generation;
use crate::run::endings::Endings;
use crate::run::name::{RunName, Shape};
use crate::run::report::{Facts, Report};
use crate::run::schedule::Schedule;
use crate::run::workload::Workload;
use crate::run::{self, Ids, Run, RunError};
use crate::sum::stream_id::RunPrefix;
use crate::sum::topology_section;
use jetfold::joined;
use jetfold::nats::connect::{self, ConnectError};
use jetfold::nats::topology::TopologyError;
use jetfold::values::{Size, Span, parsed};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkerConfig {
    /// What the run is called; empty: it has no name, and can't be gone on with.
    #[serde(deserialize_with = "parsed")]
    pub run: RunName,
    /// Streams to make, over all workers; below 0: without end.
    #[serde(deserialize_with = "parsed")]
    pub streams: i64,
    /// Chunks of data a stream; the closing chunk comes after them.
    #[serde(deserialize_with = "parsed")]
    pub chunks: u64,
    /// Bytes of data a chunk.
    #[serde(deserialize_with = "parsed")]
    pub chunk_bytes: usize,
    /// Threads that generate.
    #[serde(deserialize_with = "parsed")]
    pub workers: u32,
    /// Streams that each worker keeps open at once.
    #[serde(deserialize_with = "parsed")]
    pub live_streams: usize,
    /// Chunks a second over all workers, by the schedule; 0: as fast as it goes.
    #[serde(deserialize_with = "parsed")]
    pub rate: u64,
    /// The most bytes of one batch; a single chunk that is larger travels alone.
    pub batch_bytes: Size,
    /// How long after its closing chunk a final may be stored. It does not run while NATS is away.
    pub deadline: Span,
}

impl ChunkerConfig {
    /// The streams to make; `None`: without end.
    pub fn wanted(&self) -> Option<u64> {
        u64::try_from(self.streams).ok()
    }

    /// What the streams are made of, and which IDs they have.
    /// What a run with a name has sent of a stream is sent again by its next life, and until that is done the stream gets no new chunk.
    fn warn_of_slow_streams(&self, idle_expiry: Duration) {
        let most = self.workers as u64 * self.live_streams as u64;
        let open = self.wanted().unwrap_or(most).min(most);
        let takes = Schedule::new(self.rate, Duration::ZERO).lasts(open.saturating_mul(self.chunks + 1));
        if !self.run.is_empty() && takes > idle_expiry / 2 {
            tracing::warn!(
                run = %self.run, takes_s = takes.as_secs_f64(), idle_expiry_s = idle_expiry.as_secs_f64(),
                "a stream of this run takes longer than half of topology.idle_expiry: if the run is gone on with, some may be \
                 forgotten before what was sent of them is sent again, and be missing in that life. Raise chunker.rate, or \
                 lower chunker.live_streams"
            );
        }
    }

    fn content(&self, choices: &Choices) -> Result<(Workload, Ids), ChunkerError> {
        let name = &self.run;
        let (seed, ids) = match (choices, self.wanted()) {
            (Choices { seed, prefix, .. }, _) if name.is_empty() => {
                (seed.unwrap_or_else(draw_seed), prefix.map_or(Ids::Drawn, Ids::Given))
            }
            (Choices { seed: Some(_), .. }, _) => return Err(ChunkerError::NotChosen { what: "--seed" }),
            (Choices { prefix: Some(_), .. }, _) => return Err(ChunkerError::NotChosen { what: "--id-prefix" }),
            (_, None) => return Err(ChunkerError::NamedWithoutEnd { name: name.clone() }),
            (_, Some(streams)) => {
                let shape = Shape { streams, chunks: self.chunks, chunk_bytes: self.chunk_bytes as u64 };
                (name.derive(shape).1, Ids::Named(name.clone(), shape))
            }
        };
        Ok((Workload { seed, chunks: self.chunks, chunk_bytes: self.chunk_bytes }, ids))
    }
}

/// What one run takes beside the configuration.
#[derive(Clone, Debug, Default)]
pub struct Choices {
    /// Drawn where it is not given. A run with a name has its own.
    pub seed: Option<u64>,
    /// Of the stream IDs; the same.
    pub prefix: Option<RunPrefix>,
    /// Where each ending is told.
    pub endings: Endings,
    /// How long an interrupted run waits for the finals of what it has sent; for a few seconds where it is not given.
    pub last_finals: Option<Duration>,
}

#[derive(Debug, thiserror::Error)]
pub enum ChunkerError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(
        "chunker.chunk_bytes is {chunk_bytes}, but topology.max_chunk_bytes allows {most}: lower the one, or make \
         another topology with more"
    )]
    ChunkTooLarge { chunk_bytes: usize, most: usize },
    #[error("{what} is given for a run with a name, which has its own: leave out {what}, or --run and chunker.run")]
    NotChosen { what: &'static str },
    #[error(
        "the run {name} would have no end, and sums forgets its first finals while it goes on, so that no later life could \
         account for it: say how many with --streams, or leave out --run"
    )]
    NamedWithoutEnd { name: RunName },
}

/// How long an interrupted run waits for the finals of what it has sent.
const LAST_FINALS: Duration = Duration::from_secs(4);

/// How often it is told how the run stands.
const REPORTS: Duration = Duration::from_millis(200);

/// How a run that began has ended.
#[derive(Debug, Default)]
pub struct Outcome {
    pub report: Report,
    /// Why it ended before its time.
    pub failure: Option<ChunkerError>,
}

/// Generates, publishes and verifies until all streams have ended or `stop`. `reports` is told now and then how the
/// run stands.
pub async fn generate_and_verify_streams(
    config: &ChunkerConfig,
    choices: Choices,
    nats: &connect::Config,
    topology: &topology_section::Config,
    reports: &watch::Sender<Report>,
    stop: CancellationToken,
) -> Result<Outcome, ChunkerError> {
    let stop = stop.child_token();
    let (workload, ids) = config.content(&choices)?;
    let seed = workload.seed;
    let starting = async {
        let connection = connect::connect(nats, "stream-sum chunker").await?;
        let admin = topology.admin(&connection, nats.shown_addresses());
        let topology = connection.unless_denied(admin.check()).await??;
        let rules = topology.application.rules();
        if config.chunk_bytes > rules.max_chunk_bytes {
            let (chunk_bytes, most) = (config.chunk_bytes, rules.max_chunk_bytes);
            return Err(ChunkerError::ChunkTooLarge { chunk_bytes, most });
        }
        if !topology.once_only {
            tracing::warn!(
                "sums takes more than one message a subject: nothing but luck keeps finals from being there twice"
            );
        }
        config.warn_of_slow_streams(Duration::from_nanos(u64::try_from(rules.expiry.idle).unwrap_or(0)));
        let options = run::Options {
            ids,
            streams: config.wanted().unwrap_or(u64::MAX),
            deadline: config.deadline.0,
            batch_bytes: config.batch_bytes.bytes(),
            patience: None,
            workload: Some(workload),
            endings: choices.endings,
        };
        let run = connection.unless_denied(Run::start(&connection, &topology, options)).await??;
        let facts = Facts {
            run: run.prefix,
            seed,
            server_version: connection.client.server_info().version,
            replicas: topology.replicas,
            partitions: topology.partitions,
        };
        Ok((facts, run))
    };
    let (facts, mut run) = tokio::select! {
        () = stop.cancelled() => return Ok(Outcome::default()),
        started = starting => started?,
    };
    let taken = {
        let mut told = |run: &Run| _ = reports.send_replace(report(run, &facts));
        tokio::select! {
            () = stop.cancelled() => None,
            taken = run.take_stock(&mut told) => Some(taken),
        }
    };
    let Some(Ok(())) = taken else {
        let failure = taken.and_then(Result::err).map(ChunkerError::from);
        return Ok(Outcome { report: report(&run, &facts), failure });
    };
    tracing::info!(run = %run.prefix, seed, resumed = run.report().counts.resumed, streams = config.streams, partitions = facts.partitions, "chunking");

    let generation = Arc::new(Generation {
        workload,
        live_streams: config.live_streams,
        schedule: Schedule::new(config.rate, run.began().elapsed()),
        began: run.began(),
        ledger: run.ledger(),
        entries: run.entries(),
        stop: stop.clone(),
    });
    let mut generators = JoinSet::new();
    for worker in 0..config.workers {
        let generation = generation.clone();
        generators.spawn_blocking(move || generation.generate(worker.into()));
    }
    let last_finals = choices.last_finals.unwrap_or(LAST_FINALS);
    let outcome = drive(&mut run, &mut generators, &facts, reports, &stop, last_finals).await;
    // Whatever the outcome, no thread stays behind in a full lane.
    stop.cancel();
    generation.entries.close();
    while generators.join_next().await.is_some() {}
    Ok(Outcome { report: report(&run, &facts), failure: outcome.err() })
}

/// Short enough for a number in JSON, which some read as one with a fraction.
fn draw_seed() -> u64 {
    rand::random::<u64>() >> 11
}

fn report(run: &Run, facts: &Facts) -> Report {
    Report { facts: Some(facts.clone()), ..run.report() }
}

async fn drive(
    run: &mut Run,
    generators: &mut JoinSet<()>,
    facts: &Facts,
    reports: &watch::Sender<Report>,
    stop: &CancellationToken,
    last_finals: Duration,
) -> Result<(), ChunkerError> {
    let mut ticks = tokio::time::interval(REPORTS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut give_up_at: Option<Instant> = None;
    loop {
        let interrupted = give_up_at.is_some();
        // What an interrupt has left open gets no final.
        let settled = if interrupted { run.awaits_nothing() } else { run.is_settled() };
        if generators.is_empty() && settled {
            let last = run.catch_up();
            return match give_up_at {
                None => Ok(last.await?),
                Some(give_up_at) => Ok(tokio::time::timeout_at(give_up_at, last).await.unwrap_or(Ok(()))?),
            };
        }
        tokio::select! {
            step = run.step() => { step?; }
            Some(ended) = generators.join_next(), if !generators.is_empty() => {
                joined(ended);
                if generators.is_empty() {
                    run.no_more_chunks();
                }
            }
            () = stop.cancelled(), if !interrupted => give_up_at = Some(Instant::now() + last_finals),
            () = tokio::time::sleep_until(give_up_at.unwrap_or_else(Instant::now)), if interrupted => return Ok(()),
            _ = ticks.tick() => { reports.send_replace(report(run, facts)); }
        }
    }
}
