//! The chunker: generates streams, publishes them interleaved, and verifies that each comes back as one right final.

use crate::bus::admin::Admin;
use crate::bus::connect::{self, ConnectError};
use crate::bus::lanes::{Closed, LaneEntries, Outbox};
use crate::bus::topology::{self, TopologyError};
use crate::interleaved::{Interleaved, Turn};
use crate::joined::joined;
use crate::presence::Moment;
use crate::report::{Facts, Report};
use crate::run::{self, Run, RunError, lock};
use crate::stream_id::RunPrefix;
use crate::unopened::Drawn;
use crate::values::{Size, Span, parsed};
use crate::verify::Ledger;
use crate::workload::Workload;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkerConfig {
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
}

/// What one run takes beside the configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choices {
    /// Drawn where it is not given.
    pub seed: Option<u64>,
    pub run: Option<RunPrefix>,
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
}

/// Closed streams whose finals have not come: with more, no stream is opened, which bounds the ledger's memory.
const MOST_AWAITED: usize = 500_000;

/// Chunks that a generator makes before it tells the ledger.
const MOST_UNREPORTED: u64 = 256;

/// Chunks that a generator makes before it hands in what it holds back, and looks whether to go on.
const MOST_HELD_BACK: u64 = 1024;

/// By a schedule, chunks that close no stream are held back so long at the most.
const LONGEST_HELD_BACK: Duration = Duration::from_millis(20);

/// By a schedule, chunks that close no stream are made so early at the most: a thread wakes up for each closing chunk, whose
/// final somebody waits for, and makes many others meanwhile.
const MOST_EARLY: Duration = Duration::from_millis(1);

/// Waking up for every single chunk would take a core at some rates.
const SHORTEST_PAUSE: Duration = Duration::from_micros(100);

/// A thread that waits looks so often, at the least, whether to go on.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Turns between two looks for streams to open, where none was found: partitions that take some are rare then.
const MOST_VAIN_TURNS: u64 = 64;

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
    topology: &topology::Config,
    reports: &watch::Sender<Report>,
    stop: CancellationToken,
) -> Result<Outcome, ChunkerError> {
    let stop = stop.child_token();
    let seed = choices.seed.unwrap_or_else(draw_seed);
    let workload = Workload { seed, chunks: config.chunks, chunk_bytes: config.chunk_bytes };
    let starting = async {
        let connection = connect::connect(nats, "chunker").await?;
        let topology = Admin::new(&connection, topology, nats.shown_addresses()).check().await?;
        if config.chunk_bytes > topology.max_chunk_bytes {
            let (chunk_bytes, most) = (config.chunk_bytes, topology.max_chunk_bytes);
            return Err(ChunkerError::ChunkTooLarge { chunk_bytes, most });
        }
        if !topology.once_only {
            tracing::warn!(
                "sums takes more than one message a subject: nothing but luck keeps finals from being there twice"
            );
        }
        let options = run::Options {
            run: choices.run,
            streams: config.wanted().unwrap_or(u64::MAX),
            deadline: config.deadline.0,
            batch_bytes: config.batch_bytes.bytes(),
            patience: None,
            workload: Some(workload),
        };
        let run = Run::start(&connection, &topology, options).await?;
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
    tracing::info!(run = %run.prefix, seed, streams = config.streams, partitions = facts.partitions, "chunking");

    let generation = Arc::new(Generation {
        workload,
        live_streams: config.live_streams,
        rate: config.rate,
        began: run.began(),
        next_chunk: AtomicU64::new(0),
        ledger: run.ledger(),
        entries: run.entries(),
        stop: stop.clone(),
    });
    let mut generators = JoinSet::new();
    for worker in 0..config.workers {
        let generation = generation.clone();
        generators.spawn_blocking(move || generation.generate(worker.into()));
    }
    let outcome = drive(&mut run, &mut generators, &facts, reports, &stop).await;
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
            () = stop.cancelled(), if !interrupted => give_up_at = Some(Instant::now() + LAST_FINALS),
            () = tokio::time::sleep_until(give_up_at.unwrap_or_else(Instant::now)), if interrupted => return Ok(()),
            _ = ticks.tick() => { reports.send_replace(report(run, facts)); }
        }
    }
}

/// Chunks handed over that the ledger was not told of yet.
#[derive(Default)]
struct Made {
    chunks: u64,
    bytes: u64,
}

impl Made {
    fn report(&mut self, ledger: &mut Ledger) {
        ledger.produced(std::mem::take(&mut self.chunks), std::mem::take(&mut self.bytes));
    }
}

/// What the generator threads of one run share.
struct Generation {
    workload: Workload,
    live_streams: usize,
    /// Chunks a second; 0: as fast as it goes.
    rate: u64,
    began: Instant,
    next_chunk: AtomicU64,
    ledger: Arc<Mutex<Ledger>>,
    entries: LaneEntries,
    stop: CancellationToken,
}

impl Generation {
    /// One generator thread: until all streams are closed, or the run ends.
    fn generate(&self, worker: u64) {
        let mut made = Made::default();
        self.make(worker, &mut made);
        made.report(&mut lock(&self.ledger));
    }

    fn make(&self, worker: u64, made: &mut Made) {
        let mut streams = Interleaved::new(self.workload, self.entries.partitions(), worker);
        let mut outbox = Outbox::new(self.entries.clone(), self.workload.chunk_bytes);
        // Where the run has ended, nobody takes it; where this thread ends, what it has made must be sent.
        self.fill(&mut streams, &mut outbox, made).or_else(|Closed| outbox.flush()).ok();
    }

    /// Until all streams are closed and handed in.
    fn fill(&self, streams: &mut Interleaved, outbox: &mut Outbox, made: &mut Made) -> Result<(), Closed> {
        let (mut all_opened, mut found_none) = (false, false);
        let mut flushed = self.began.elapsed();
        for turn in 0u64.. {
            if turn.is_multiple_of(MOST_HELD_BACK) {
                outbox.hand_in_all()?;
                tell_waiting(outbox, streams);
                self.go_on()?;
            }
            outbox.try_again()?;
            for partition in outbox.freed() {
                streams.unpark(partition);
            }
            if !all_opened && (!found_none || streams.live() == 0 || turn.is_multiple_of(MOST_VAIN_TURNS)) {
                let drawn = self.open_streams(streams, outbox)?;
                (all_opened, found_none) = (drawn == Some(Drawn::Never), drawn == Some(Drawn::Later));
            }
            if streams.live() == 0 {
                match streams.open_streams() {
                    0 if all_opened => break,
                    0 => {}
                    _ => self.wait_for_room(outbox, streams)?,
                }
                continue;
            }
            let due = self.due();
            let Turn { partition, chunk, sum } = streams.next_chunk().expect("a stream takes turns");
            if let Some(due) = due {
                self.wait_for(due, chunk.closes(), outbox, &mut flushed)?;
            }
            made.chunks += 1;
            made.bytes += chunk.data.len() as u64;
            if sum.is_some() || made.chunks >= MOST_UNREPORTED {
                let mut ledger = lock(&self.ledger);
                made.report(&mut ledger);
                // Before it can be sent: its final must find the stream closed.
                if let Some(sum) = sum {
                    ledger.close(sum, due.unwrap_or_else(|| self.began.elapsed()));
                }
            }
            let closes = chunk.closes();
            outbox.push(partition, &chunk);
            // By a schedule, somebody waits for the final. As fast as it goes, every lane has more than it can send.
            if closes && due.is_some() {
                outbox.hand_in(partition)?;
            }
            if !outbox.has_room(partition)? {
                streams.park(partition);
            }
        }
        outbox.flush()
    }

    /// Opens as many streams as are to be open at once. What the last draw has come to, where that was not a stream.
    fn open_streams(&self, streams: &mut Interleaved, outbox: &mut Outbox) -> Result<Option<Drawn>, Closed> {
        while self.takes_more(streams) {
            let mut ledger = lock(&self.ledger);
            if ledger.awaited() >= MOST_AWAITED {
                drop(ledger);
                self.wait_for_finals(outbox)?;
                ledger = lock(&self.ledger);
            }
            match ledger.open_next(|partition| self.takes(streams.parked_streams(partition))) {
                Drawn::Stream(id) => streams.open(id),
                none => return Ok(Some(none)),
            }
        }
        Ok(None)
    }

    /// Whether one more stream is to be open. Those that are parked count, but leave half of the places to others.
    fn takes_more(&self, streams: &Interleaved) -> bool {
        let has_place = streams.open_streams() < self.live_streams || streams.live() < self.live_streams.div_ceil(2);
        has_place && !streams.all_parked()
    }

    /// Whether a stream may be opened of a partition with so many parked ones; `None`: it is not parked. One that stands
    /// still may have twice its share of places, which a full lane of a healthy run does not reach.
    fn takes(&self, parked: Option<usize>) -> bool {
        let most = 2 * self.live_streams / self.entries.partitions() as usize;
        parked.is_none_or(|parked| parked < most.max(1))
    }

    /// When the next chunk is due; `None` where it is due at once, whenever that is.
    ///
    /// The schedule does not wait for anybody: a chunk that could not be sent in time was due when it was due.
    fn due(&self) -> Option<Moment> {
        if self.rate == 0 {
            return None;
        }
        let n = self.next_chunk.fetch_add(1, Ordering::Relaxed);
        let nanos = u128::from(n) * 1_000_000_000 / u128::from(self.rate);
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// Waits until a chunk may be handed in: one that closes a stream when it is due, others a little earlier too. What
    /// has come together since `flushed` may wait for company a little longer: a message for each chunk would cost the
    /// server more than the chunks do.
    fn wait_for(&self, due: Moment, closes: bool, outbox: &mut Outbox, flushed: &mut Moment) -> Result<(), Closed> {
        let most_early = if closes { Duration::ZERO } else { MOST_EARLY };
        loop {
            let now = self.began.elapsed();
            if due.max(now) >= *flushed + LONGEST_HELD_BACK {
                outbox.hand_in_all()?;
                *flushed = now;
            }
            outbox.try_again()?;
            let early = due.saturating_sub(now);
            if early <= most_early {
                return Ok(());
            }
            self.pause(early.max(SHORTEST_PAUSE), outbox)?;
        }
    }

    /// Holds up new streams while too many finals are awaited.
    fn wait_for_finals(&self, outbox: &mut Outbox) -> Result<(), Closed> {
        outbox.hand_in_all()?;
        while lock(&self.ledger).awaited() >= MOST_AWAITED {
            self.pause(Duration::from_millis(5), outbox)?;
            outbox.try_again()?;
        }
        Ok(())
    }

    /// All open streams are parked: hands in what others have left behind, and waits until a lane has room.
    fn wait_for_room(&self, outbox: &mut Outbox, streams: &Interleaved) -> Result<(), Closed> {
        outbox.hand_in_all()?;
        tell_waiting(outbox, streams);
        self.pause(LONGEST_PAUSE, outbox)
    }

    /// Waits, but never long enough to hold up a stop, and no longer than until a lane has room for what it had none for.
    fn pause(&self, duration: Duration, outbox: &Outbox) -> Result<(), Closed> {
        self.go_on()?;
        outbox.wait(duration.min(LONGEST_PAUSE));
        Ok(())
    }

    fn go_on(&self) -> Result<(), Closed> {
        if self.stop.is_cancelled() { Err(Closed) } else { Ok(()) }
    }
}

fn tell_waiting(outbox: &mut Outbox, streams: &Interleaved) {
    outbox.tell_waiting(|partition| streams.parked_streams(partition).unwrap_or(0));
}
