//! The second half of the line: publish what a fold asks for, see it confirmed, commit.
//!
//! Everything about it is decided by a [`Line`], which is pure. This does what the line says: it keeps the publishes, the
//! inspection and the write that are under way, and tells the line what becomes of them. While a transaction is on its way
//! to disk, effects of the next are published already.

use crate::application::Application;
use crate::bus::acks::Acks;
use crate::bus::connect::Connection;
use crate::bus::finals::Effects;
use crate::bus::log::LogReader;
use crate::checkpoint::Checkpoint;
use crate::crash_point;
use crate::effect::{Answer, Confirmed, ConflictingFinal, Effect, Outcome};
use crate::inspection::{Inspection, Sound, Unsound};
use crate::joined::joined;
use crate::line::{Action, Failed, Line};
use crate::partition::check::{self, Check};
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
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

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

/// What is under way for a line.
struct UnderWay {
    /// First tries of finals, each with the number of its transaction.
    acks: Acks<(u64, Sum)>,
    /// What takes more than one try: what became of it, and whether a try of it ended unknown.
    publishing: FuturesUnordered<BoxFuture<'static, (u64, Outcome, bool)>>,
    inspecting: Option<BoxFuture<'static, Result<Sound, Unsound>>>,
    writing: Option<JoinHandle<Written>>,
}

impl From<Failed<StoreError>> for CommitError {
    fn from(failed: Failed<StoreError>) -> Self {
        match failed {
            Failed::Conflict(conflict) => Self::Conflict(conflict),
            Failed::Unsound(unsound) => Self::Doubt(unsound.to_string()),
            Failed::Unwritten(error) => Self::Store(error),
        }
    }
}

impl Committer {
    /// Works until the fold hangs up and everything sealed is committed, or `cancel` says to drop what is not.
    ///
    /// A commit that is on its way to disk is always waited for.
    pub async fn run(mut self, mut work: mpsc::Receiver<Work>, cancel: CancellationToken) -> Result<(), CommitError> {
        let acks = self.effects.acks().await.map_err(|error| CommitError::Doubt(error.to_string()))?;
        let leaders = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            leaders = check::leaders(&self.effects, &self.log) => leaders,
        };
        let Committed { transaction, checkpoint, .. } = *self.committed.borrow();
        let mut line = Line::new(transaction, checkpoint, leaders, self.connects(), self.halt);
        let mut under_way = UnderWay { acks, publishing: FuturesUnordered::new(), inspecting: None, writing: None };
        let began = Instant::now();
        loop {
            while let Some(action) = line.next_action() {
                if let Action::End(result) = action {
                    return Ok(result?);
                }
                self.act(action, &mut under_way);
            }
            let UnderWay { acks, publishing, inspecting, writing } = &mut under_way;
            tokio::select! {
                biased;
                () = cancel.cancelled(), if !line.is_ending() => line.cancel(),
                result = async { writing.as_mut().expect("guarded").await }, if writing.is_some() => {
                    *writing = None;
                    let result = joined(result).map(|written| self.written(written));
                    self.say_already_there(line.written(result));
                }
                found = async { inspecting.as_mut().expect("guarded").await }, if inspecting.is_some() => {
                    *inspecting = None;
                    line.inspected(found);
                }
                ((number, sum), answer) = acks.next(), if acks.unanswered() > 0 => {
                    if let Answer::Stored(_) = answer {
                        self.counters.finals_published.add(1);
                    }
                    line.acknowledged(number, sum, answer, began.elapsed());
                }
                Some((number, outcome, unknown)) = publishing.next(), if !publishing.is_empty() => {
                    self.count(&outcome);
                    line.confirmed(number, outcome, unknown, began.elapsed());
                }
                received = work.recv(), if line.has_room() => match received {
                    None => line.hang_up(),
                    Some(Work::Effects { finals, rejected }) => line.effects(finals, rejected),
                    Some(Work::Seal(transaction)) => line.seal(transaction, self.connects()),
                },
            }
        }
    }

    fn act(&self, action: Action<StoreError>, under_way: &mut UnderWay) {
        match action {
            Action::Send(number, sum) => {
                if !self.effects.send_final(&mut under_way.acks, &sum, (number, sum)) {
                    under_way.publishing.push(self.publish(number, Effect::Final(sum)));
                }
            }
            Action::Publish(number, effect) => under_way.publishing.push(self.publish(number, effect)),
            Action::LetPass(conflict) => {
                self.counters.conflicting_finals.add(1);
                tracing::error!(log = self.log.name(), "{conflict}");
            }
            Action::Inspect(inspection) => {
                crash_point::reached("effects-confirmed");
                under_way.inspecting = Some(self.inspect(inspection));
            }
            Action::Write(transaction) => under_way.writing = Some(self.write(transaction)),
            Action::End(_) => unreachable!("returned before"),
        }
    }

    /// How often the connection has been made.
    fn connects(&self) -> u64 {
        *self.connection.connects().borrow()
    }

    fn publish(&self, number: u64, effect: Effect) -> BoxFuture<'static, (u64, Outcome, bool)> {
        let effects = self.effects.clone();
        async move {
            match effect {
                Effect::Final(sum) => {
                    let (confirmed, unknown) = effects.publish_final(sum).await;
                    (number, Outcome::Final(confirmed.map_err(Box::new)), unknown)
                }
                Effect::Reject(batch) => {
                    let (confirmed, unknown) = effects.publish_reject(&batch).await;
                    (number, Outcome::Reject(confirmed), unknown)
                }
            }
        }
        .boxed()
    }

    fn count(&self, outcome: &Outcome) {
        let counters = &self.counters;
        match outcome {
            Outcome::Final(Ok(Confirmed { already_there: true, .. })) => counters.finals_already_there.add(1),
            Outcome::Final(Ok(_)) => counters.finals_published.add(1),
            Outcome::Reject(Confirmed { already_there, differs, .. }) => {
                counters.rejects_differing.add(u64::from(*differs));
                match already_there {
                    true => counters.rejects_already_there.add(1),
                    false => counters.rejects_published.add(1),
                }
            }
            // Counted where it is let pass.
            Outcome::Final(Err(_)) => {}
        }
    }

    fn inspect(&self, inspection: Box<Inspection>) -> BoxFuture<'static, Result<Sound, Unsound>> {
        let (log, effects) = (self.log.clone(), self.effects.clone());
        let check = Check { connection: self.connection.clone(), log, effects };
        async move { check.run(*inspection).await }.boxed()
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

    /// Tells now and then how many effects of committed transactions were there before they were published.
    fn say_already_there(&self, effects: u64) {
        if effects > 0
            && let Some(already_there) = TOLD_AGAIN.add(effects)
        {
            let position = self.committed.borrow().checkpoint.position;
            tracing::info!(
                log = self.log.name(),
                position,
                already_there,
                "finals and rejects were there already: these batches had been folded before"
            );
        }
    }
}
