//! A run: chunks go out, finals come back, and the ledger compares. What the chunker and `sum` have in common.

pub mod ahead;
mod bad_endings;
mod claimed;
pub mod done;
pub mod endings;
pub mod interleaved;
pub mod ladder;
mod lane;
pub mod lanes;
pub mod latency;
pub mod ledger;
mod may_send;
pub mod name;
pub mod outbox;
pub mod presence;
mod question;
pub mod record;
pub mod report;
pub mod run_finals;
pub mod schedule;
mod start;
pub mod unopened;
pub mod watch;
pub mod workload;

pub use start::{Ids, Options};

use crate::run::ladder::Delayed;
use crate::run::lanes::{LaneEntries, Lanes};
use crate::run::ledger::{Ending, Ledger, Seen};
use crate::run::name::RunName;
use crate::run::presence::{Contact, Moment, SILENCE};
use crate::run::record::RecordError;
use crate::run::report::Report;
use crate::run::run_finals::RunFinals;
use crate::run::watch::{Arrival, WatchError, Watching};
use crate::run::workload::Workload;
use crate::sum::running::Sum;
use crate::sum::stream_id::{RunPrefix, StreamId};
use bad_endings::BadEndings;
use claimed::Claimed;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use jetfold::DeliveryError;
use jetfold::Throttle;
use jetfold::nats::connect::{Connection, Denied};
use jetfold::nats::read::NoAnswer;
use question::{Answer, Question, ask};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::{Instant, Interval, timeout};

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

/// Finals that wait until it is computed what they must say.
const MOST_COMPUTING: usize = 4096;

/// How long the end of a run waits for finals that are stored but have not arrived.
const CATCH_UP: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("sums gives no answer ({0}): see that NATS is up")]
    NoAnswer(#[from] NoAnswer),
    #[error("the finals in sums can't be watched ({0}): see that this user may create consumers on it")]
    Watch(#[from] WatchError),
    #[error("sums holds finals {0}.* already: name another prefix with --id-prefix, or let one be drawn")]
    PrefixTaken(RunPrefix),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("another chunker has gone on with the run {0}: this one ends, and what it had left is done by that one")]
    Superseded(RunName),
    #[error(transparent)]
    Lane(#[from] DeliveryError),
    #[error("{0}")]
    Denied(Denied),
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
    claimed: Option<Claimed>,
    watching: Watching,
    /// The last sequence of `sums` that has arrived.
    arrived: u64,
    ledger: Arc<Mutex<Ledger>>,
    lanes: Lanes,
    asked: VecDeque<Question>,
    asking: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// Finals whose sums are to be computed: while they are many, no more are taken in.
    computing: usize,
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
            denied = self.connection.denied_where(|denied| !self.finals.goes_on_without(denied)) => {
                return Err(RunError::Denied(denied));
            }
            Some(arrival) = self.watching.arrivals.recv(), if self.computing < MOST_COMPUTING => Event::Arrived(arrival),
            Some(answer) = self.asking.next(), if !self.asking.is_empty() => Event::Answered(answer),
            _ = self.ticks.tick() => Event::Tick,
        };
        // First of all, for this process may have been paused, or NATS away, since the last step.
        self.observe();
        match event {
            Event::Arrived(arrival) => Ok(self.arrived(&arrival)),
            Event::Answered(answer) => self.answered(answer),
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
        if let (Seen::Elsewhere(id), Some(workload)) = (seen, self.workload) {
            self.computing += 1;
            self.asked.push_back(Question::Computed(id, arrival.found, workload));
        }
        self.seen(seen, arrival.found.sum)
    }

    /// What comes of a final that says `sum`.
    fn seen(&mut self, seen: Seen, sum: Option<Sum>) -> Step {
        match seen {
            Seen::Ended(id, ending) => return self.ended_as(id, ending, sum),
            Seen::Doubtful(batch) => self.asked.extend(batch.map(Question::Closing)),
            Seen::Again(id) => self.asked.push_back(Question::Copies(id)),
            Seen::Elsewhere(_) | Seen::Known | Seen::Unexpected => {}
        }
        Step::Nothing
    }

    fn ended_as(&mut self, id: StreamId, ending: Ending, sum: Option<Sum>) -> Step {
        self.bad_endings.note(id, ending);
        Step::Ended { id, ending, sum }
    }

    fn answered(&mut self, answer: Answer) -> Result<Step, RunError> {
        let now = self.now();
        Ok(match answer {
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
            Answer::Computed(found, expected) => {
                self.computing -= 1;
                let seen = self.lock().computed(found, expected);
                seen.map_or(Step::Nothing, |seen| self.seen(seen, found.sum))
            }
            Answer::Superseded(is_superseded, look) => {
                self.claimed.as_mut().map_or(Ok(()), |claimed| claimed.told(is_superseded, look, now))?;
                Step::Nothing
            }
        })
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
        // Before all others, for it may be in vain to ask them.
        if let Some(question) = self.claimed.as_mut().and_then(|claimed| claimed.due(now)) {
            self.asked.push_front(question);
        }
    }

    /// Waits until every final that is stored by now has arrived, so that a duplicate at the very end is seen too.
    pub async fn catch_up(&mut self) -> Result<(), RunError> {
        loop {
            let began = self.now();
            if let Ok(done) = timeout(CATCH_UP, self.caught_up(&mut |_| ())).await {
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

    /// Takes in what is stored of earlier lives of the run, before anything is sent: their streams are not opened again. Is an
    /// error if not every final that was ever stored of it can be there. `told` is called now and then.
    pub async fn take_stock(&mut self, told: &mut (dyn FnMut(&Self) + Send)) -> Result<(), RunError> {
        let Some(claimed) = self.claimed.clone() else { return Ok(()) };
        self.caught_up(told).await?;
        // Whatever was there to be read before is there still.
        loop {
            match claimed.still_accounts().await {
                // The time to start may be over long ago.
                Err(error) if error.may_pass() => {
                    tracing::debug!(%error, "no answer about what sums has kept");
                    self.step_told(told).await?;
                }
                answer => return Ok(answer?),
            }
        }
    }

    /// Cancel-safe.
    async fn caught_up(&mut self, told: &mut (dyn FnMut(&Self) + Send)) -> Result<(), RunError> {
        loop {
            let (finals, arrived) = (self.finals.clone(), self.arrived);
            let asked = finals.next_after(arrived);
            tokio::pin!(asked);
            let stored = loop {
                tokio::select! {
                    stored = &mut asked => break stored,
                    step = self.step_told(told) => step?,
                }
            };
            match stored {
                Ok(Some(stored)) => {
                    while self.arrived < stored {
                        self.step_told(told).await?;
                    }
                }
                Ok(None) => break,
                // The next step is a tick at the latest.
                Err(cause) => {
                    tracing::debug!(%cause, "no answer about the last finals");
                    self.step_told(told).await?;
                }
            }
        }
        while !self.awaits_nothing() {
            self.step_told(told).await?;
        }
        Ok(())
    }

    async fn step_told(&mut self, told: &mut (dyn FnMut(&Self) + Send)) -> Result<(), RunError> {
        if let Step::Tick = self.step().await? {
            told(self);
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
