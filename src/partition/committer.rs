//! The second half of the line: publish what a fold asks for, see it confirmed, commit.
//!
//! A transaction is committed when every effect of it is confirmed, nothing speaks against what was confirmed, and the log
//! still reaches its position: that is what [`check`] sees to. While it is on its way to disk, effects of the next are
//! published already.

use crate::application::Application;
use crate::bus::acks::Answer;
use crate::bus::connect::Connection;
use crate::bus::finals::{Confirmed, ConflictingFinal, Effects, Kind};
use crate::bus::log::LogReader;
use crate::checkpoint::{Checkpoint, Mark};
use crate::crash_point;
use crate::doubt::{Order, Place, Sign, Trail};
use crate::joined::joined;
use crate::partition::check::{self, Check, Leaders};
use crate::partition::counters::Counters;
use crate::reject::RejectedBatch;
use crate::row::Row;
use crate::store::{Size, Store, StoreError};
use crate::stream_id::StreamId;
use crate::sum::Sum;
use crate::summer::Summer;
use crate::throttle::Throttle;
use crate::transaction::Transaction;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Publishes of one partition that wait for their confirmation at once. More would only queue in the socket, and a
/// server refuses them beyond ten thousand of one stream.
const WINDOW: usize = 512;

/// Batches whose effects may wait to be published. Each holds finals of one batch at most.
pub const QUEUED_BATCHES: usize = 4;

/// What the fold hands over, in order.
pub enum Work {
    /// The effects of one batch of the open transaction.
    Effects { finals: Vec<Sum>, rejected: Option<RejectedBatch> },
    /// The open transaction ends here.
    Seal(Box<Transaction<Summer>>),
}

/// Why committing ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Conflict(Box<ConflictingFinal>),
    /// Log or effects no longer are as they were folded and published: to be judged, and folded again.
    #[error("not committed: {0}")]
    Doubt(String),
}

/// Rows to look at after a commit for each stream that it has opened: more than one, so that rows leave the store as
/// fast as they come, and the store holds a quarter more than it has to at the most.
const LOOKED_AT: u64 = 4;

/// The most rows to look at: those that have expired wait in memory for the next transaction.
const LOOKED_AT_MOST: usize = 1 << 16;

/// Rows to look at besides.
const LOOKED_AT_LEAST: u64 = 256;

/// Where two workers fold the same logs, all that one publishes is there already.
static TOLD_AGAIN: Throttle = Throttle::new();

/// How far a session has come.
#[derive(Clone, Debug)]
pub struct Committed {
    pub transaction: u64,
    pub checkpoint: Checkpoint,
    pub size: Size,
    /// Rows that this commit has left in the store although they have expired: some of them.
    pub expired: Arc<[(StreamId, Row)]>,
}

/// A commit, and the stream up to which expired rows were looked for, where that was not the last.
type Written = Result<(Committed, Option<StreamId>), StoreError>;

pub struct Committer {
    pub connection: Connection,
    pub log: LogReader,
    pub effects: Arc<Effects>,
    pub store: Arc<Store<Summer>>,
    /// Whether a conflicting final ends the session.
    pub halt: bool,
    pub counters: Arc<Counters>,
    pub committed: watch::Sender<Committed>,
    pub summer: Arc<Summer>,
    /// The stream up to which expired rows were looked for; `None`: to be looked for from the first on.
    pub looked_at: Option<StreamId>,
}

/// A transaction whose effects are being confirmed.
struct Pending {
    unconfirmed: usize,
    already_there: u64,
    /// Finals of it that contradict others, and were let pass.
    conflicting: u64,
    finals: Trail<StreamId>,
    rejects: Trail<String>,
    /// Where each of its rejects is.
    reject_subjects: Vec<String>,
    sealed: Option<Box<Transaction<Summer>>>,
    /// How often the connection had been made when the transaction was opened.
    connects: u64,
}

impl Pending {
    fn opened(leaders: &Leaders, connects: u64) -> Self {
        Self {
            unconfirmed: 0,
            already_there: 0,
            conflicting: 0,
            finals: Trail::led_by(leaders.sums.clone()),
            rejects: Trail::led_by(leaders.rejects.clone()),
            reject_subjects: Vec::new(),
            sealed: None,
            connects,
        }
    }

    fn doubt(&mut self, kind: Kind, sign: Sign) {
        match kind {
            Kind::Sums => self.finals.doubt(sign),
            Kind::Rejects => self.rejects.doubt(sign),
        }
    }
}

/// Transactions whose effects are being confirmed: the sealed ones, and the open one last.
struct Line {
    pending: VecDeque<Pending>,
    /// The number of the first of them.
    first: u64,
    /// What the two streams have acknowledged.
    sums: Order,
    rejects: Order,
    began: Instant,
}

impl Line {
    fn of(&mut self, number: u64) -> &mut Pending {
        let place = usize::try_from(number - self.first).expect("two transactions at most");
        &mut self.pending[place]
    }

    fn open(&mut self) -> &mut Pending {
        self.pending.back_mut().expect("an open transaction")
    }

    fn doubt(&mut self, kind: Kind, sign: Sign) {
        self.pending.iter_mut().for_each(|pending| pending.doubt(kind, sign));
    }

    /// A message was stored: what that says of all that was stored before.
    fn stored(&mut self, kind: Kind, sequence: u64) {
        let order = match kind {
            Kind::Sums => &mut self.sums,
            Kind::Rejects => &mut self.rejects,
        };
        if let Some(sign) = order.stored(sequence) {
            self.doubt(kind, sign);
        }
    }
}

enum Effect {
    Final(Sum),
    Reject(RejectedBatch),
}

/// What became of an effect, and whether a try of it ended unknown.
enum Outcome {
    Final(Result<Confirmed<StreamId>, Box<ConflictingFinal>>, bool),
    Reject(Confirmed<String>, bool),
}

/// Which transaction an effect belongs to: its number.
type Numbered<T> = (u64, T);
type InFlight = FuturesUnordered<BoxFuture<'static, Numbered<Outcome>>>;
type Checked = Result<(Box<Transaction<Summer>>, Leaders), CommitError>;

impl Committer {
    /// Works until the fold hangs up and everything sealed is committed, or `cancel` says to drop what is not.
    ///
    /// A commit that is on its way to disk is always waited for.
    pub async fn run(mut self, mut work: mpsc::Receiver<Work>, cancel: CancellationToken) -> Result<(), CommitError> {
        let mut queue: VecDeque<Numbered<Effect>> = VecDeque::new();
        let mut acks = self.effects.acks().await.map_err(|error| CommitError::Doubt(error.to_string()))?;
        // What takes more than one try.
        let mut in_flight = InFlight::new();
        let mut leaders = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            leaders = check::leaders(&self.effects, &self.log) => leaders,
        };
        let mut line = self.line(&leaders);
        let mut checking: Option<BoxFuture<'static, Checked>> = None;
        let mut writing: Option<JoinHandle<Written>> = None;
        let mut hung_up = false;
        loop {
            while in_flight.len() + acks.unanswered() < WINDOW
                && let Some((number, effect)) = queue.pop_front()
            {
                match effect {
                    Effect::Final(sum) if self.effects.send_final(&mut acks, &sum, (number, sum)) => {}
                    effect => in_flight.push(self.publish(number, effect)),
                }
            }
            if checking.is_none()
                && writing.is_none()
                && let Some(front) = line.pending.front_mut()
                && front.unconfirmed == 0
                && let Some(transaction) = front.sealed.take()
            {
                crash_point::reached("effects-confirmed");
                checking = Some(self.check(transaction, front, &leaders));
            }
            let published = queue.is_empty() && in_flight.is_empty() && acks.unanswered() == 0;
            let idle = published && checking.is_none() && writing.is_none();
            if hung_up && idle {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    if let Some(writing) = writing {
                        self.written(joined(writing.await)?);
                    }
                    return Ok(());
                }
                written = async { writing.as_mut().expect("guarded").await }, if writing.is_some() => {
                    writing = None;
                    self.written(joined(written)?);
                    let done = line.pending.pop_front().expect("the transaction that was written");
                    line.first += 1;
                    if done.already_there > 0
                        && let Some(already_there) = TOLD_AGAIN.add(done.already_there)
                    {
                        let position = self.committed.borrow().checkpoint.position;
                        tracing::info!(
                            log = self.log.name(), position, already_there,
                            "finals and rejects were there already: these batches had been folded before"
                        );
                    }
                }
                checked = async { checking.as_mut().expect("guarded").await }, if checking.is_some() => {
                    checking = None;
                    let (transaction, found) = checked?;
                    leaders = found;
                    writing = Some(self.write(transaction));
                }
                ((number, sum), answer) = acks.next(), if acks.unanswered() > 0 => match answer {
                    Answer::Stored(sequence) => {
                        let place = Place { sequence, key: sum.id };
                        let confirmed = Confirmed { place, already_there: false, differs: false };
                        self.confirmed(&mut line, number, Outcome::Final(Ok(confirmed), false))?;
                    }
                    Answer::SubjectTaken => in_flight.push(self.publish(number, Effect::Final(sum))),
                    Answer::Unknown => {
                        line.doubt(Kind::Sums, Sign::Unknown);
                        in_flight.push(self.publish(number, Effect::Final(sum)));
                    }
                },
                Some((number, outcome)) = in_flight.next(), if !in_flight.is_empty() => {
                    if let Err(error) = self.confirmed(&mut line, number, outcome) {
                        // The conflict is the graver news, whatever the disk says.
                        if let Some(writing) = writing
                            && let Ok(committed) = joined(writing.await)
                        {
                            self.written(committed);
                        }
                        return Err(error);
                    }
                }
                received = work.recv(), if !hung_up && queue.is_empty() => match received {
                    None => hung_up = true,
                    Some(Work::Effects { finals, rejected }) => {
                        let number = line.first + line.pending.len() as u64 - 1;
                        let open = line.open();
                        open.unconfirmed += finals.len() + usize::from(rejected.is_some());
                        queue.extend(finals.into_iter().map(|sum| (number, Effect::Final(sum))));
                        queue.extend(rejected.map(|batch| (number, Effect::Reject(batch))));
                    }
                    Some(Work::Seal(transaction)) => {
                        line.open().sealed = Some(transaction);
                        line.pending.push_back(Pending::opened(&leaders, self.connects()));
                    }
                },
            }
        }
    }

    /// Nothing is sent yet.
    fn line(&self, leaders: &Leaders) -> Line {
        let committed = self.committed.borrow();
        let order = |mark: Option<Mark>| Order::after(mark.map_or(0, |mark| mark.sequence));
        Line {
            pending: VecDeque::from([Pending::opened(leaders, self.connects())]),
            first: committed.transaction + 1,
            sums: order(committed.checkpoint.sums),
            rejects: order(committed.checkpoint.rejects),
            began: Instant::now(),
        }
    }

    fn connects(&self) -> u64 {
        *self.connection.connects().borrow()
    }

    fn publish(&self, number: u64, effect: Effect) -> BoxFuture<'static, Numbered<Outcome>> {
        let effects = self.effects.clone();
        async move {
            let outcome = match effect {
                Effect::Final(sum) => {
                    let (confirmed, unknown) = effects.publish_final(sum).await;
                    Outcome::Final(confirmed.map_err(Box::new), unknown)
                }
                Effect::Reject(batch) => {
                    let (confirmed, unknown) = effects.publish_reject(&batch).await;
                    Outcome::Reject(confirmed, unknown)
                }
            };
            (number, outcome)
        }
        .boxed()
    }

    fn confirmed(&self, line: &mut Line, number: u64, outcome: Outcome) -> Result<(), CommitError> {
        let counters = &self.counters;
        let now = line.began.elapsed();
        let (kind, unknown) = match &outcome {
            Outcome::Final(_, unknown) => (Kind::Sums, *unknown),
            Outcome::Reject(_, unknown) => (Kind::Rejects, *unknown),
        };
        if unknown {
            line.doubt(kind, Sign::Unknown);
        }
        match outcome {
            Outcome::Final(Ok(Confirmed { place, already_there, .. }), _) => {
                match already_there {
                    true => counters.finals_already_there.add(1),
                    false => {
                        counters.finals_published.add(1);
                        line.stored(kind, place.sequence);
                    }
                }
                let pending = line.of(number);
                pending.already_there += u64::from(already_there);
                pending.finals.confirmed(place, now);
            }
            Outcome::Reject(Confirmed { place, already_there, differs }, _) => {
                counters.rejects_differing.add(u64::from(differs));
                match already_there {
                    true => counters.rejects_already_there.add(1),
                    false => {
                        counters.rejects_published.add(1);
                        line.stored(kind, place.sequence);
                    }
                }
                let pending = line.of(number);
                pending.already_there += u64::from(already_there);
                pending.reject_subjects.push(place.key.clone());
                pending.rejects.confirmed(place, now);
            }
            Outcome::Final(Err(conflict), _) if self.halt => return Err(CommitError::Conflict(conflict)),
            Outcome::Final(Err(conflict), _) => {
                counters.conflicting_finals.add(1);
                line.of(number).conflicting += 1;
                tracing::error!(log = self.log.name(), "{conflict}");
            }
        }
        line.of(number).unconfirmed -= 1;
        Ok(())
    }

    fn check(
        &self,
        mut transaction: Box<Transaction<Summer>>,
        pending: &mut Pending,
        known: &Leaders,
    ) -> BoxFuture<'static, Checked> {
        let before = self.committed.borrow().checkpoint;
        let check = Check {
            connection: self.connection.clone(),
            log: self.log.clone(),
            effects: self.effects.clone(),
            connects: pending.connects,
            conflicting: pending.conflicting,
            finals: pending.finals.clone(),
            rejects: pending.rejects.clone(),
            reject_subjects: std::mem::take(&mut pending.reject_subjects),
            known: known.clone(),
        };
        async move {
            let checked = check.run(&transaction, &before).await?;
            (transaction.checkpoint.sums, transaction.checkpoint.rejects) = (checked.sums, checked.rejects);
            Ok((transaction, checked.leaders))
        }
        .boxed()
    }

    fn write(&self, transaction: Box<Transaction<Summer>>) -> JoinHandle<Written> {
        let (store, counters) = (self.store.clone(), self.counters.clone());
        let (after, summer) = (self.looked_at, self.summer.clone());
        tokio::task::spawn_blocking(move || {
            crash_point::reached("before-commit");
            store.commit(&transaction)?;
            crash_point::reached("after-commit");
            let Transaction { number, checkpoint, tally, .. } = *transaction;
            counters.folded(&tally);
            let most = usize::try_from(tally.opened * LOOKED_AT + LOOKED_AT_LEAST).unwrap_or(usize::MAX);
            let (mut expired, mut left, mut looked_at) = (Vec::new(), most.min(LOOKED_AT_MOST), None);
            store.view()?.each(after, |id, row| {
                if summer.is_forgotten(&row, checkpoint.log_time) {
                    expired.push((id, row));
                }
                left -= 1;
                looked_at = Some(id);
                Ok::<_, StoreError>(left > 0)
            })?;
            // At the end of the table, the next look starts again at its beginning.
            let looked_at = looked_at.filter(|_| left == 0);
            let expired = expired.into();
            Ok((Committed { transaction: number, checkpoint, size: store.size()?, expired }, looked_at))
        })
    }

    fn written(&mut self, (committed, looked_at): (Committed, Option<StreamId>)) {
        tracing::debug!(log = self.log.name(), position = committed.checkpoint.position, "committed");
        self.looked_at = looked_at;
        self.committed.send_replace(committed);
    }
}
