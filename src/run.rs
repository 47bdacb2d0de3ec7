//! A run: chunks go out, finals come back, and the ledger compares. What the chunker and `sum` have in common.

use crate::bus::backoff;
use crate::bus::connect::Connection;
use crate::bus::lanes::{LaneEntries, LaneError, Lanes, Patience};
use crate::bus::publish::Throttle;
use crate::bus::read::NoAnswer;
use crate::bus::topology::{REJECT_HEADROOM, Topology};
use crate::bus::watch::{Arrival, RunFinals, WatchError};
use crate::report::Report;
use crate::stream_id::{RunPrefix, StreamId};
use crate::sum::Sum;
use crate::verify::{Copies, Delayed, Ending, Ledger, Moment, Seen};
use crate::workload::Workload;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

/// How often the ledger looks at who has been waiting for how long.
const TICK: Duration = Duration::from_millis(50);

/// The shortest time between warnings of delayed finals.
const WARNINGS: Duration = Duration::from_secs(1);

/// Leader reads of one run under way at once; what else is to be asked waits.
const MOST_QUESTIONS: usize = 64;

/// How long the end of a run waits for finals that are stored but have not arrived.
const CATCH_UP: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("sums gives no answer ({0}): see that NATS is up")]
    NoAnswer(#[from] NoAnswer),
    #[error("the finals in sums can't be watched ({0}): see that this user may create consumers on it")]
    Watch(#[from] WatchError),
    #[error("sums holds finals of the run {0} already: name another with --run, or let one be drawn")]
    RunTaken(RunPrefix),
    #[error(transparent)]
    Lane(#[from] LaneError),
}

/// What a run is given to start with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Drawn where it is not given.
    pub run: Option<RunPrefix>,
    pub deadline: Duration,
    pub batch_bytes: usize,
    /// How long to go on without an answer from NATS; `None`: for ever.
    pub patience: Option<Duration>,
    /// What can be recomputed to judge a final that came again.
    pub workload: Option<Workload>,
}

/// Something that happened to a stream of the run.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// It has ended, with what its final says.
    Ended { id: StreamId, ending: Ending, sum: Option<Sum> },
    /// Time has passed, and every final that had arrived was looked at.
    Tick,
    /// Nothing of note.
    Nothing,
}

/// A question to the leader, answered.
enum Answer {
    Copies(StreamId, Copies),
    Overdue(StreamId, Option<Option<Sum>>),
}

/// A question to the leader.
#[derive(Clone, Copy)]
enum Question {
    Copies(StreamId),
    Overdue(StreamId),
}

pub struct Run {
    pub prefix: RunPrefix,
    began: Instant,
    workload: Option<Workload>,
    finals: RunFinals,
    arrivals: mpsc::Receiver<Arrival>,
    /// The last sequence of `sums` that has arrived.
    arrived: u64,
    ledger: Arc<Mutex<Ledger>>,
    lanes: Lanes,
    asked: VecDeque<Question>,
    asking: FuturesUnordered<BoxFuture<'static, Answer>>,
    ticks: Interval,
    /// Delays that were not warned of yet.
    delayed: BTreeMap<Duration, Delayed>,
    next_warning: Moment,
    complaints: Arc<Throttle>,
}

impl Run {
    pub async fn start(connection: &Connection, topology: &Topology, options: Options) -> Result<Self, RunError> {
        let (prefix, finals) = choose(connection, topology, options.run).await?;
        let may_pass = |error: &WatchError| !matches!(error, WatchError::NoSums);
        let (arrived, arrivals) = connection.ask_at_start(|| finals.clone().watch(), may_pass).await?;
        let began = Instant::now();
        let ledger = Arc::new(Mutex::new(Ledger::new(prefix, options.deadline)));
        let max_payload = connection.client.server_info().max_payload;
        let lanes = Lanes::start(
            connection,
            &topology.names,
            topology.partitions,
            options
                .batch_bytes
                .min(max_payload - REJECT_HEADROOM)
                .min(topology.max_message_bytes.unwrap_or(usize::MAX)),
            Patience { full: options.deadline, unknown: options.patience },
            &ledger,
            began,
        );
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            prefix,
            began,
            workload: options.workload,
            finals,
            arrivals,
            arrived,
            ledger,
            lanes,
            asked: VecDeque::new(),
            asking: FuturesUnordered::new(),
            ticks,
            delayed: BTreeMap::new(),
            next_warning: Moment::ZERO,
            complaints: Arc::default(),
        })
    }

    pub fn began(&self) -> Instant {
        self.began
    }

    fn now(&self) -> Moment {
        self.began.elapsed()
    }

    pub fn ledger(&self) -> Arc<Mutex<Ledger>> {
        self.ledger.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Where chunks are handed in.
    pub fn entries(&self) -> LaneEntries {
        self.lanes.entries()
    }

    /// No more chunks come: what has filled is sent.
    pub fn no_more_chunks(&self) {
        self.lanes.finish();
    }

    /// Whether every stream that was opened has ended, and no question is open.
    pub fn is_settled(&self) -> bool {
        self.asked.is_empty() && self.asking.is_empty() && self.lock().is_settled()
    }

    /// Whether every stream that was closed has ended, and no question is open.
    pub fn awaits_nothing(&self) -> bool {
        self.asked.is_empty() && self.asking.is_empty() && self.lock().awaited() == 0
    }

    /// The next thing that happens, or the reason why nothing more can. Cancel-safe.
    pub async fn step(&mut self) -> Result<Step, RunError> {
        while self.asking.len() < MOST_QUESTIONS
            && let Some(question) = self.asked.pop_front()
        {
            self.asking.push(ask(self.finals.clone(), question, self.complaints.clone()));
        }
        tokio::select! {
            // What has arrived comes before the clock: a final that was in time must not be late because we were.
            biased;
            error = self.lanes.failed() => Err(error.into()),
            Some(arrival) = self.arrivals.recv() => Ok(self.arrived(&arrival)),
            Some(answer) = self.asking.next(), if !self.asking.is_empty() => Ok(self.answered(answer)),
            _ = self.ticks.tick() => {
                self.tick();
                Ok(Step::Tick)
            }
        }
    }

    fn arrived(&mut self, arrival: &Arrival) -> Step {
        self.arrived = arrival.sequence;
        let now = arrival.at.saturating_duration_since(self.began);
        if arrival.replayed && !arrival.id.is_some_and(|id| self.lock().is_awaited(id)) {
            return Step::Nothing;
        }
        let seen = self.lock().arrived(arrival.id, arrival.sum, now);
        match seen {
            Seen::Ended(id, ending) => {
                complain(id, ending);
                Step::Ended { id, ending, sum: arrival.sum }
            }
            Seen::Again(id) => {
                self.asked.push_back(Question::Copies(id));
                Step::Nothing
            }
            Seen::Unexpected => {
                tracing::error!(subject = arrival.subject, "unexpected: a final of a stream that nobody has opened");
                Step::Nothing
            }
        }
    }

    fn answered(&mut self, answer: Answer) -> Step {
        let now = self.now();
        let (id, ending, sum) = match answer {
            Answer::Copies(id, copies) => {
                let expected = self.workload.map(|workload| workload.expected(id));
                (id, self.lock().came_again(id, copies, expected), None)
            }
            Answer::Overdue(id, found) => (id, self.lock().overdue_answered(id, found, now), found.flatten()),
        };
        match ending {
            Some(ending) => {
                complain(id, ending);
                Step::Ended { id, ending, sum }
            }
            None => Step::Nothing,
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        let tick = self.lock().tick(now);
        for delayed in tick.delayed {
            self.delayed.entry(delayed.by).or_insert(Delayed { streams: 0, ..delayed }).streams += delayed.streams;
        }
        // One warning a step of the ladder and second, however many finals there are.
        if now >= self.next_warning {
            for delayed in std::mem::take(&mut self.delayed).into_values() {
                self.next_warning = now + WARNINGS;
                tracing::warn!(
                    by_s = delayed.by.as_secs_f64(),
                    streams = delayed.streams,
                    example = %delayed.example,
                    "finals are delayed"
                );
            }
        }
        self.asked.extend(tick.overdue.into_iter().map(Question::Overdue));
    }

    /// Waits until every final that is stored by now has arrived, so that a duplicate at the very end is seen too.
    pub async fn catch_up(&mut self) -> Result<(), RunError> {
        let caught_up = async {
            loop {
                match self.finals.next_after(self.arrived).await {
                    Ok(Some(stored)) => {
                        while self.arrived < stored {
                            self.step().await?;
                        }
                    }
                    Ok(None) => break,
                    Err(cause) => {
                        tracing::debug!(%cause, "no answer about the last finals");
                        tokio::time::sleep(TICK).await;
                    }
                }
            }
            while !self.awaits_nothing() {
                self.step().await?;
            }
            Ok(())
        };
        match timeout(CATCH_UP, caught_up).await {
            Ok(done) => done,
            Err(_) => {
                tracing::warn!(
                    "sums does not say whether more finals are stored: a duplicate at the very end would not be seen"
                );
                Ok(())
            }
        }
    }

    pub fn report(&self) -> Report {
        self.lock().report(self.now())
    }
}

/// The ledger, from any thread.
pub fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().expect("nothing panics while it holds the ledger")
}

async fn choose(
    connection: &Connection,
    topology: &Topology,
    given: Option<RunPrefix>,
) -> Result<(RunPrefix, RunFinals), RunError> {
    loop {
        let prefix = given.unwrap_or_else(|| RunPrefix(rand::random()));
        let finals = RunFinals::new(connection.clone(), topology.names.clone(), prefix);
        match (connection.ask_at_start(|| finals.exist(), |_| true).await?, given) {
            (false, _) => return Ok((prefix, finals)),
            (true, Some(_)) => return Err(RunError::RunTaken(prefix)),
            (true, None) => {}
        }
    }
}

/// Asks the leader until it answers.
fn ask(finals: RunFinals, question: Question, complaints: Arc<Throttle>) -> BoxFuture<'static, Answer> {
    async move {
        for pause in backoff::reopening() {
            let answer = match question {
                Question::Copies(id) => finals.copies(id).await.map(|copies| Answer::Copies(id, copies)),
                Question::Overdue(id) => finals.last(id).await.map(|found| Answer::Overdue(id, found)),
            };
            match answer {
                Ok(answer) => return answer,
                Err(cause) if complaints.is_due() => {
                    tracing::warn!(%cause, "no answer from sums about a final: asking again")
                }
                Err(_) => {}
            }
            tokio::time::sleep(pause).await;
        }
        unreachable!("the pauses never end")
    }
    .boxed()
}

fn complain(id: StreamId, ending: Ending) {
    let what = match ending {
        Ending::Verified => return,
        Ending::Late => "late: the right final, but after the deadline",
        Ending::Missing => "missing: no final within twice the deadline",
        Ending::Mismatched => "mismatched: the final is not what was sent",
        Ending::Duplicate => "duplicate: sums holds two finals of one stream",
    };
    tracing::error!(stream = %id, "{what}");
}
