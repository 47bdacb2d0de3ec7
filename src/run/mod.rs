//! A run: chunks go out, finals come back, and the ledger compares. What the chunker and `sum` have in common.

pub mod ahead;
mod bad_endings;
pub mod interleaved;
pub mod ladder;
mod lane;
pub mod lanes;
pub mod latency;
pub mod ledger;
pub mod outbox;
pub mod presence;
mod question;
pub mod report;
pub mod run_finals;
pub mod unopened;
pub mod watch;
pub mod workload;

use crate::run::ladder::Delayed;
use crate::run::lanes::{LaneEntries, Lanes};
use crate::run::ledger::{Ending, Ledger, Seen};
use crate::run::presence::{Contact, Moment, SILENCE};
use crate::run::report::Report;
use crate::run::run_finals::RunFinals;
use crate::run::unopened::Unopened;
use crate::run::watch::{Arrival, WatchError, Watching};
use crate::run::workload::Workload;
use crate::sum::Summer;
use crate::sum::running::Sum;
use crate::sum::stream_id::{RunPrefix, StreamId};
use bad_endings::BadEndings;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use jetfold::Throttle;
use jetfold::nats::connect::{Connection, Denied};
use jetfold::nats::read::NoAnswer;
use jetfold::nats::topology::{REJECT_HEADROOM, Topology};
use jetfold::{DeliveryError, Patience};
use question::{Answer, Question, ask};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

/// How often the ledger looks at who has been waiting for how long.
const TICK: Duration = Duration::from_millis(50);

/// How often it is noted, at the most, whether the run is there to see what comes.
const OBSERVATIONS: Duration = Duration::from_millis(10);

/// A final that has been waited for as long is warned of.
const WORTH_A_WARNING: Duration = Duration::from_secs(1);

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
    Lane(#[from] DeliveryError),
    #[error("{0}")]
    Denied(Denied),
}

/// What a run is given to start with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Drawn where it is not given.
    pub run: Option<RunPrefix>,
    /// Streams that are opened at the most.
    pub streams: u64,
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

/// What a step waits for.
enum Event {
    Arrived(Arrival),
    Answered(Answer),
    Tick,
}

pub struct Run {
    pub prefix: RunPrefix,
    began: Instant,
    workload: Option<Workload>,
    patience: Option<Duration>,
    connection: Connection,
    finals: RunFinals,
    watching: Watching,
    /// The last sequence of `sums` that has arrived.
    arrived: u64,
    ledger: Arc<Mutex<Ledger>>,
    lanes: Lanes,
    asked: VecDeque<Question>,
    asking: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// Streams that have ended and were not told of yet.
    ended: VecDeque<Step>,
    next_observation: Moment,
    ticks: Interval,
    /// Delays that were not warned of yet.
    delayed: BTreeMap<Duration, Delayed>,
    next_warning: Moment,
    complaints: Arc<Throttle>,
    bad_endings: BadEndings,
    deadline: Duration,
}

impl Run {
    pub async fn start(
        connection: &Connection,
        topology: &Topology<Summer>,
        options: Options,
    ) -> Result<Self, RunError> {
        let (prefix, finals) = choose(connection, topology, options.run).await?;
        let may_pass = |error: &WatchError| !matches!(error, WatchError::NoSums);
        let watching = connection.ask_at_start(|| watch::watch(finals.clone()), may_pass).await?;
        let began = Instant::now();
        let unopened = Unopened::new(prefix, topology.partitions, options.streams);
        let ledger = Arc::new(Mutex::new(Ledger::new(unopened, options.deadline)));
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
            patience: options.patience,
            connection: connection.clone(),
            finals,
            arrived: watching.head,
            watching,
            ledger,
            lanes,
            asked: VecDeque::new(),
            asking: FuturesUnordered::new(),
            ended: VecDeque::new(),
            next_observation: Moment::ZERO,
            ticks,
            delayed: BTreeMap::new(),
            next_warning: Moment::ZERO,
            complaints: Arc::default(),
            bad_endings: BadEndings::default(),
            deadline: options.deadline,
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
        self.is_at_rest() && self.lock().is_settled()
    }

    /// Whether every stream that was closed has ended, and no question is open.
    pub fn awaits_nothing(&self) -> bool {
        self.is_at_rest() && self.lock().awaited() == 0
    }

    fn is_at_rest(&self) -> bool {
        self.asked.is_empty() && self.asking.is_empty() && self.ended.is_empty()
    }

    /// The next thing that happens, or the reason why nothing more can. Cancel-safe.
    pub async fn step(&mut self) -> Result<Step, RunError> {
        while self.asking.len() < MOST_QUESTIONS
            && let Some(question) = self.asked.pop_front()
        {
            self.asking.push(ask(self.finals.clone(), question, self.complaints.clone()));
        }
        if let Some(step) = self.ended.pop_front() {
            return Ok(step);
        }
        let event = tokio::select! {
            // What has arrived comes before the clock: it must not be asked for because we were slow.
            biased;
            error = self.lanes.failed() => return Err(error.into()),
            // What is not allowed is not answered, now or later.
            denied = self.connection.denied() => return Err(RunError::Denied(denied)),
            Some(arrival) = self.watching.arrivals.recv() => Event::Arrived(arrival),
            Some(answer) = self.asking.next(), if !self.asking.is_empty() => Event::Answered(answer),
            _ = self.ticks.tick() => Event::Tick,
        };
        // First of all, for this process may have been paused, or NATS away, since the last step.
        self.observe();
        match event {
            Event::Arrived(arrival) => Ok(self.arrived(&arrival)),
            Event::Answered(answer) => Ok(self.answered(answer)),
            Event::Tick => {
                self.see_that_nats_is_there()?;
                self.tick();
                Ok(Step::Tick)
            }
        }
    }

    fn observe(&mut self) {
        let heard = self.watching.heard.last().saturating_duration_since(self.began);
        let now = self.now();
        if now >= self.next_observation {
            self.next_observation = now + OBSERVATIONS;
            let contact = Contact { stands: self.connection.stands(), heard };
            self.lock().observe(now, contact);
        }
    }

    /// Gives up once finals are awaited and nothing was heard for longer than the patience lasts.
    fn see_that_nats_is_there(&self) -> Result<(), RunError> {
        let Some(patience) = self.patience else { return Ok(()) };
        let ledger = self.lock();
        if ledger.awaited() == 0 || ledger.presence().unheard() <= patience.saturating_add(SILENCE) {
            return Ok(());
        }
        let patience = humantime::format_duration(patience);
        Err(NoAnswer::new(format!("nothing was heard of NATS for {patience}")).into())
    }

    fn arrived(&mut self, arrival: &Arrival) -> Step {
        self.arrived = arrival.found.mark.position;
        let at = arrival.at.saturating_duration_since(self.began);
        if arrival.replayed && !arrival.id.is_some_and(|id| self.lock().is_awaited(id)) {
            return Step::Nothing;
        }
        let seen = self.lock().arrived(arrival.id, arrival.found, at);
        if seen == Seen::Unexpected {
            tracing::error!(subject = arrival.subject, "unexpected: a final of a stream that nobody has opened");
        }
        self.seen(seen, arrival.found.sum)
    }

    /// What comes of a final that says `sum`.
    fn seen(&mut self, seen: Seen, sum: Option<Sum>) -> Step {
        match seen {
            Seen::Ended(id, ending) => return self.ended_as(id, ending, sum),
            Seen::Doubtful(batch) => self.asked.extend(batch.map(Question::Closing)),
            Seen::Again(id) => self.asked.push_back(Question::Copies(id)),
            Seen::Known | Seen::Unexpected => {}
        }
        Step::Nothing
    }

    fn ended_as(&mut self, id: StreamId, ending: Ending, sum: Option<Sum>) -> Step {
        self.bad_endings.note(id, ending);
        Step::Ended { id, ending, sum }
    }

    fn answered(&mut self, answer: Answer) -> Step {
        let now = self.now();
        match answer {
            Answer::Copies(id, copies) => {
                let expected = self.workload.map(|workload| workload.expected(id));
                let ending = self.lock().came_again(id, copies, expected);
                ending.map_or(Step::Nothing, |ending| self.ended_as(id, ending, None))
            }
            Answer::Overdue(id, found) => {
                let seen = self.lock().overdue_answered(id, found, now);
                seen.map_or(Step::Nothing, |seen| self.seen(seen, found.and_then(|found| found.sum)))
            }
            Answer::Closing(batch, stored) => {
                let judged = self.lock().judged(batch, stored);
                self.ended.extend(judged.into_iter().map(|(sum, ending)| {
                    self.bad_endings.note(sum.id, ending);
                    Step::Ended { id: sum.id, ending, sum: Some(sum) }
                }));
                self.ended.pop_front().unwrap_or(Step::Nothing)
            }
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
                let (by_s, streams, example) = (delayed.by.as_secs_f64(), delayed.streams, delayed.example);
                // A busy run has a final now and then that takes a moment: nothing to look at.
                match delayed.by >= WORTH_A_WARNING.min(self.deadline) {
                    true => tracing::warn!(by_s, streams, %example, "finals are delayed"),
                    false => tracing::debug!(by_s, streams, %example, "finals are delayed"),
                }
            }
        }
        self.asked.extend(tick.overdue.into_iter().map(Question::Overdue));
    }

    /// Waits until every final that is stored by now has arrived, so that a duplicate at the very end is seen too.
    pub async fn catch_up(&mut self) -> Result<(), RunError> {
        loop {
            let began = self.now();
            if let Ok(done) = timeout(CATCH_UP, self.caught_up()).await {
                return done;
            }
            // A pause of this process says nothing about NATS.
            self.observe();
            if self.lock().presence().awake(began, self.now()) >= CATCH_UP {
                tracing::warn!(
                    "sums does not say whether more finals are stored: a duplicate at the very end would not be seen"
                );
                return Ok(());
            }
        }
    }

    /// Cancel-safe.
    async fn caught_up(&mut self) -> Result<(), RunError> {
        loop {
            let (finals, arrived) = (self.finals.clone(), self.arrived);
            let asked = finals.next_after(arrived);
            tokio::pin!(asked);
            let stored = loop {
                tokio::select! {
                    stored = &mut asked => break stored,
                    step = self.step() => { step?; }
                }
            };
            match stored {
                Ok(Some(stored)) => {
                    while self.arrived < stored {
                        self.step().await?;
                    }
                }
                Ok(None) => break,
                // The next step is a tick at the latest.
                Err(cause) => {
                    tracing::debug!(%cause, "no answer about the last finals");
                    self.step().await?;
                }
            }
        }
        while !self.awaits_nothing() {
            self.step().await?;
        }
        Ok(())
    }

    pub fn report(&self) -> Report {
        let now = self.now();
        let waiting = self.lanes.waiting(now);
        Report { waiting, ..self.lock().report(now) }
    }
}

/// The ledger, from any thread.
pub fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().expect("nothing panics while it holds the ledger")
}

async fn choose(
    connection: &Connection,
    topology: &Topology<Summer>,
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
