//! The second half of the line: publish what a fold asks for, see it confirmed, commit.
//!
//! A transaction is committed when every effect of it is confirmed, the furthest final was read back, and the log
//! still reaches its position. While it is on its way to disk, effects of the next are published already.

use crate::bus::backoff;
use crate::bus::connect::Connection;
use crate::bus::finals::{Confirmed, ConflictingFinal, Effects, Furthest, Place};
use crate::bus::publish::Throttle;
use crate::bus::read::{self, NoAnswer};
use crate::checkpoint::{Checkpoint, SumsMark, judge_before_commit, judge_sums};
use crate::crash_point;
use crate::joined::joined;
use crate::partition::counters::Counters;
use crate::reject::RejectedBatch;
use crate::row::{Expiry, Row};
use crate::store::{Size, Store, StoreError};
use crate::stream_id::StreamId;
use crate::sum::Sum;
use crate::transaction::Transaction;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
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
    Seal(Box<Transaction>),
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
    pub log: String,
    pub effects: Arc<Effects>,
    pub store: Arc<Store>,
    /// Whether a conflicting final ends the session.
    pub halt: bool,
    pub counters: Arc<Counters>,
    pub committed: watch::Sender<Committed>,
    pub expiry: Expiry,
    /// The stream up to which expired rows were looked for; `None`: to be looked for from the first on.
    pub looked_at: Option<StreamId>,
}

/// A transaction whose effects are being confirmed.
struct Pending {
    unconfirmed: usize,
    already_there: u64,
    /// The final of it that is furthest on in `sums`.
    furthest: Option<Place>,
    sealed: Option<Box<Transaction>>,
    /// How often the connection had been made when the transaction was opened.
    connects: u64,
}

enum Effect {
    Final(Sum),
    Reject(RejectedBatch),
}

/// Which transaction an effect belongs to: its number.
type Numbered<T> = (u64, T);
type Outcome = Result<Confirmed, Box<ConflictingFinal>>;
type InFlight = FuturesUnordered<BoxFuture<'static, Numbered<Outcome>>>;
type Checked = Result<Box<Transaction>, CommitError>;

impl Committer {
    /// Works until the fold hangs up and everything sealed is committed, or `cancel` says to drop what is not.
    ///
    /// A commit that is on its way to disk is always waited for.
    pub async fn run(mut self, mut work: mpsc::Receiver<Work>, cancel: CancellationToken) -> Result<(), CommitError> {
        let mut queue: VecDeque<Numbered<Effect>> = VecDeque::new();
        let mut acks = self.effects.acks().await.map_err(|error| CommitError::Doubt(error.to_string()))?;
        // What takes more than one try.
        let mut in_flight = InFlight::new();
        // Sealed transactions, and the open one last.
        let mut pending = VecDeque::from([self.pending()]);
        let mut first = self.committed.borrow().transaction + 1;
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
                && let Some(front) = pending.front_mut()
                && front.unconfirmed == 0
                && let Some(transaction) = front.sealed.take()
            {
                crash_point::reached("effects-confirmed");
                checking = Some(self.check(transaction, front));
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
                    let done = pending.pop_front().expect("the transaction that was written");
                    first += 1;
                    if done.already_there > 0 {
                        let position = self.committed.borrow().checkpoint.position;
                        tracing::info!(
                            log = %self.log, position, already_there = done.already_there,
                            "finals and rejects were there already: these batches had been folded before"
                        );
                    }
                }
                checked = async { checking.as_mut().expect("guarded").await }, if checking.is_some() => {
                    checking = None;
                    writing = Some(self.write(checked?));
                }
                ((number, sum), sequence) = acks.next(), if acks.unanswered() > 0 => match sequence {
                    Some(sequence) => {
                        let place = usize::try_from(number - first).expect("two transactions at most");
                        self.confirmed(&mut pending[place], Ok(Confirmed::stored(sequence, sum.id)))?;
                    }
                    None => in_flight.push(self.publish(number, Effect::Final(sum))),
                },
                Some((number, outcome)) = in_flight.next(), if !in_flight.is_empty() => {
                    let place = usize::try_from(number - first).expect("two transactions at most");
                    if let Err(error) = self.confirmed(&mut pending[place], outcome) {
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
                        let number = first + pending.len() as u64 - 1;
                        let open = pending.back_mut().expect("an open transaction");
                        open.unconfirmed += finals.len() + usize::from(rejected.is_some());
                        queue.extend(finals.into_iter().map(|sum| (number, Effect::Final(sum))));
                        queue.extend(rejected.map(|batch| (number, Effect::Reject(batch))));
                    }
                    Some(Work::Seal(transaction)) => {
                        pending.back_mut().expect("an open transaction").sealed = Some(transaction);
                        pending.push_back(self.pending());
                    }
                },
            }
        }
    }

    fn pending(&self) -> Pending {
        let connects = *self.connection.connects().borrow();
        Pending { unconfirmed: 0, already_there: 0, furthest: None, sealed: None, connects }
    }

    fn publish(&self, number: u64, effect: Effect) -> BoxFuture<'static, Numbered<Outcome>> {
        let effects = self.effects.clone();
        async move {
            let outcome = match effect {
                Effect::Final(sum) => effects.publish_final(sum).await.map_err(Box::new),
                Effect::Reject(batch) => Ok(effects.publish_reject(&batch).await),
            };
            (number, outcome)
        }
        .boxed()
    }

    fn confirmed(&self, pending: &mut Pending, outcome: Outcome) -> Result<(), CommitError> {
        let counters = &self.counters;
        match outcome {
            Ok(confirmed) => {
                let counter = match (confirmed.place, confirmed.already_there) {
                    (Some(_), false) => &counters.finals_published,
                    (Some(_), true) => &counters.finals_already_there,
                    (None, false) => &counters.rejects_published,
                    (None, true) => &counters.rejects_already_there,
                };
                counter.add(1);
                counters.rejects_differing.add(u64::from(confirmed.differs));
                pending.already_there += u64::from(confirmed.already_there);
                pending.furthest = pending.furthest.max(confirmed.place);
            }
            Err(conflict) if self.halt => return Err(CommitError::Conflict(conflict)),
            Err(conflict) => {
                counters.conflicting_finals.add(1);
                tracing::error!(log = %self.log, "{conflict}");
            }
        }
        pending.unconfirmed -= 1;
        Ok(())
    }

    /// Reads back the furthest final, and sees that the log still reaches the position. Waits for answers as long as
    /// it takes: without them nothing is committed.
    fn check(&self, mut transaction: Box<Transaction>, pending: &Pending) -> BoxFuture<'static, Checked> {
        let before = self.committed.borrow().checkpoint.sums;
        let check = Check {
            connection: self.connection.clone(),
            log: self.log.clone(),
            effects: self.effects.clone(),
            connects: pending.connects,
            complaints: Throttle::default(),
        };
        let furthest = pending.furthest;
        async move {
            let mark = check.finals(furthest).await?;
            if let (Some(before), Some(_)) = (before, mark) {
                check.recorded_final(&before).await?;
            }
            transaction.checkpoint.sums = highest(before, mark);
            check.log_reaches(&transaction.checkpoint).await?;
            check.same_connection()?;
            Ok(transaction)
        }
        .boxed()
    }

    fn write(&self, transaction: Box<Transaction>) -> JoinHandle<Written> {
        let (store, counters) = (self.store.clone(), self.counters.clone());
        let (after, expiry) = (self.looked_at, self.expiry);
        tokio::task::spawn_blocking(move || {
            crash_point::reached("before-commit");
            store.commit(&transaction)?;
            crash_point::reached("after-commit");
            let Transaction { number, checkpoint, tally, .. } = *transaction;
            counters.folded(&tally);
            let most = usize::try_from(tally.opened * LOOKED_AT + LOOKED_AT_LEAST).unwrap_or(usize::MAX);
            let (mut expired, mut left, mut looked_at) = (Vec::new(), most.min(LOOKED_AT_MOST), None);
            store.view()?.each(after, |id, row| {
                if row.is_expired(checkpoint.log_time, expiry) {
                    expired.push((id, row));
                }
                left -= 1;
                looked_at = Some(id);
                Ok::<_, StoreError>(left > 0)
            })?;
            // Where the last row came before the last look, it begins anew.
            let looked_at = looked_at.filter(|_| left == 0);
            let expired = expired.into();
            Ok((Committed { transaction: number, checkpoint, size: store.size()?, expired }, looked_at))
        })
    }

    fn written(&mut self, (committed, looked_at): (Committed, Option<StreamId>)) {
        tracing::debug!(log = %self.log, position = committed.checkpoint.position, "committed");
        self.looked_at = looked_at;
        self.committed.send_replace(committed);
    }
}

/// The checks of one transaction before it is committed.
struct Check {
    connection: Connection,
    log: String,
    effects: Arc<Effects>,
    /// How often the connection had been made when the transaction was opened.
    connects: u64,
    complaints: Throttle,
}

impl Check {
    /// Whoever kept the finals and rejects may have lost its tail with the connection, and with it what was confirmed
    /// before: then all are published again, by folding again from the checkpoint.
    fn same_connection(&self) -> Result<(), CommitError> {
        if *self.connection.connects().borrow() == self.connects {
            return Ok(());
        }
        Err(CommitError::Doubt("the connection was lost while its effects were published".to_owned()))
    }

    /// Sees that the furthest final is still where it was confirmed.
    async fn finals(&self, furthest: Option<Place>) -> Result<Option<SumsMark>, CommitError> {
        let Some(place) = furthest else { return Ok(None) };
        let mut doubted = false;
        for pause in backoff::reopening() {
            match self.effects.furthest(place).await {
                Ok(Furthest::There(mark)) => return Ok(Some(mark)),
                Ok(Furthest::Expired) => return Ok(None),
                Ok(Furthest::Forgotten) if doubted => {
                    tracing::error!(
                        log = %self.log, sequence = place.sequence, stream = %place.id,
                        "sums has lost a final that it acknowledged: folding and publishing again from the checkpoint"
                    );
                    return Err(CommitError::Doubt("sums has forgotten a final".to_owned()));
                }
                Ok(Furthest::Forgotten) => doubted = true,
                Err(cause) => self.complain("no answer from sums: nothing is committed until it comes", &cause),
            }
            tokio::time::sleep(pause).await;
        }
        unreachable!("the pauses never end")
    }

    /// Sees that the furthest final of the transactions before is there, before it is replaced by a further one.
    async fn recorded_final(&self, before: &SumsMark) -> Result<(), CommitError> {
        for pause in backoff::reopening() {
            match self.effects.sums_reading(before).await {
                Ok(Some(reading)) => {
                    return judge_sums(before, &reading).map_err(|verdict| CommitError::Doubt(verdict.to_string()));
                }
                Ok(None) => return Err(CommitError::Doubt("there is no stream for finals".to_owned())),
                Err(cause) => self.complain("no answer from sums: nothing is committed until it comes", &cause),
            }
            tokio::time::sleep(pause).await;
        }
        unreachable!("the pauses never end")
    }

    async fn log_reaches(&self, checkpoint: &Checkpoint) -> Result<(), CommitError> {
        for pause in backoff::reopening() {
            match read::stream(&self.connection.jetstream, &self.log).await {
                Ok(Some(info)) => {
                    return judge_before_commit(checkpoint, &read::log_state(&info))
                        .map_err(|verdict| CommitError::Doubt(verdict.to_string()));
                }
                Ok(None) => return Err(CommitError::Doubt("there is no such stream".to_owned())),
                Err(cause) => self.complain("no answer from the log: nothing is committed until it comes", &cause),
            }
            tokio::time::sleep(pause).await;
        }
        unreachable!("the pauses never end")
    }

    fn complain(&self, what: &str, cause: &NoAnswer) {
        if self.complaints.is_due() {
            tracing::warn!(log = %self.log, %cause, "{what}");
        }
    }
}

/// The mark that reaches further; that of another `sums` never counts against the new one.
fn highest(before: Option<SumsMark>, found: Option<SumsMark>) -> Option<SumsMark> {
    match (before, found) {
        (Some(before), Some(found)) if before.created == found.created && before.sequence > found.sequence => {
            Some(before)
        }
        (before, found) => found.or(before),
    }
}
