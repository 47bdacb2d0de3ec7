//! The second half of the line: publish what a fold asks for, see it confirmed, commit.
//!
//! Everything about it is decided by a [`Line`], which is pure. This does what the line says: it keeps the publishes, the
//! inspection and the write that are under way, and tells the line what becomes of them. While a transaction is on its way
//! to disk, effects of the next are published already.

use crate::application::Application;
use crate::checkpoint::Checkpoint;
use crate::commit::effect::{Answer, Conflict, Effect, Outcome};
use crate::commit::inspection::{Inspection, Sound, Unsound};
use crate::commit::line::{Action, Failed, Line};
use crate::crash_point;
use crate::effects::Effects;
use crate::effects::acks::Acks;
use crate::joined::joined;
use crate::log::reader::LogReader;
use crate::nats::connect::Connection;
use crate::partition::check::{self, Check};
use crate::partition::committed::{Committed, Written, written};
use crate::partition::counted::Counted;
use crate::refused::RejectedBatch;
use crate::store::{Store, StoreError};
use crate::throttle::Throttle;
use crate::transaction::Transaction;
use crate::words::Words;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Batches whose effects may wait to be published. Each holds outputs of one batch at most.
pub const QUEUED_BATCHES: usize = 4;

/// What the fold hands over, in order.
pub enum Work<A: Application> {
    /// The effects of one batch of the open transaction.
    Effects { outputs: Vec<A::Output>, rejected: Option<RejectedBatch> },
    /// The open transaction ends here.
    Seal(Box<Transaction<A>>),
}

/// Why committing ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Conflict(Box<Conflict>),
    /// Log or effects no longer are as they were folded and published: to be judged, and folded again.
    #[error("not committed: {0}")]
    Doubt(String),
}

/// Where two workers fold the same logs, all that one publishes is there already.
static TOLD_AGAIN: Throttle = Throttle::new();

pub struct Committer<A: Application> {
    pub connection: Connection,
    pub log: LogReader,
    pub effects: Arc<Effects<A>>,
    pub store: Arc<Store<A>>,
    /// Whether a conflicting output ends the session.
    pub halt: bool,
    pub counted: Counted<A>,
    pub committed: watch::Sender<Committed<A>>,
    /// What is confirmed, and on its way to disk: whoever follows needs no more.
    pub confirmed: Arc<watch::Sender<Option<Checkpoint>>>,
    pub application: Arc<A>,
    /// The key up to which expired rows were looked for; `None`: to be looked for from the first on.
    pub looked_at: Option<A::Key>,
}

/// What is under way for a line.
struct UnderWay<A: Application> {
    /// First tries of outputs, each with the number of its transaction.
    acks: Acks<(u64, A::Output)>,
    /// What takes more than one try: what became of it, and whether a try of it ended unknown.
    publishing: FuturesUnordered<Publishing<A>>,
    inspecting: Option<Inspecting<A>>,
    writing: Option<JoinHandle<Written<A>>>,
}

type Publishing<A> = BoxFuture<'static, (u64, Outcome<<A as Application>::Output>, bool)>;
type Inspecting<A> = BoxFuture<'static, Result<Sound<A>, Unsound<<A as Application>::Output>>>;

impl CommitError {
    fn of<O>(failed: Failed<O, StoreError>, words: &'static Words) -> Self {
        match failed {
            Failed::Conflict(conflict) => Self::Conflict(conflict),
            Failed::Unsound(unsound) => Self::Doubt(unsound.said(words)),
            Failed::Unwritten(error) => Self::Store(error),
        }
    }
}

impl<A: Application> Committer<A> {
    /// Works until the fold hangs up and everything sealed is committed, or `cancel` says to drop what is not.
    ///
    /// A commit that is on its way to disk is always waited for.
    pub async fn run(
        mut self,
        mut work: mpsc::Receiver<Work<A>>,
        cancel: CancellationToken,
    ) -> Result<(), CommitError> {
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
                    return result.map_err(|failed| CommitError::of(failed, &A::WORDS));
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
                ((number, output), answer) = acks.next(), if acks.unanswered() > 0 => {
                    if let Answer::Stored(_) = answer {
                        self.counted.published();
                    }
                    line.acknowledged(number, output, answer, began.elapsed());
                }
                Some((number, outcome, unknown)) = publishing.next(), if !publishing.is_empty() => {
                    self.counted.confirmed(&outcome);
                    line.confirmed(number, outcome, unknown, began.elapsed());
                }
                received = work.recv(), if line.has_room() => match received {
                    None => line.hang_up(),
                    Some(Work::Effects { outputs, rejected }) => line.effects(outputs, rejected),
                    Some(Work::Seal(transaction)) => line.seal(transaction, self.connects()),
                },
            }
        }
    }

    fn act(&self, action: Action<A, StoreError>, under_way: &mut UnderWay<A>) {
        match action {
            Action::Send(number, output) => {
                if !self.effects.send(&mut under_way.acks, &output, (number, output.clone())) {
                    under_way.publishing.push(self.publish(number, Effect::Output(output)));
                }
            }
            Action::Publish(number, effect) => under_way.publishing.push(self.publish(number, effect)),
            Action::LetPass(conflict) => {
                self.counted.conflicting(1);
                tracing::error!(log = self.log.name(), "{conflict}");
            }
            Action::Inspect(inspection) => {
                crash_point::reached("effects-confirmed");
                under_way.inspecting = Some(self.inspect(inspection));
            }
            Action::Write(transaction) => {
                self.confirmed.send_replace(Some(transaction.checkpoint));
                under_way.writing = Some(self.write(transaction));
            }
            Action::End(_) => unreachable!("returned before"),
        }
    }

    /// How often the connection has been made.
    fn connects(&self) -> u64 {
        *self.connection.connects().borrow()
    }

    fn publish(&self, number: u64, effect: Effect<A::Output>) -> Publishing<A> {
        let effects = self.effects.clone();
        async move {
            match effect {
                Effect::Output(output) => {
                    let (confirmed, unknown) = effects.publish_output(output).await;
                    (number, Outcome::Output(confirmed), unknown)
                }
                Effect::Reject(batch) => {
                    let (confirmed, unknown) = effects.publish_reject(&batch).await;
                    (number, Outcome::Reject(confirmed), unknown)
                }
            }
        }
        .boxed()
    }

    fn inspect(&self, inspection: Box<Inspection<A>>) -> Inspecting<A> {
        let (log, effects) = (self.log.clone(), self.effects.clone());
        let check = Check { connection: self.connection.clone(), log, effects };
        async move { check.run(*inspection).await }.boxed()
    }

    fn write(&self, transaction: Box<Transaction<A>>) -> JoinHandle<Written<A>> {
        let (store, counted) = (self.store.clone(), self.counted.clone());
        let (after, application) = (self.looked_at.clone(), self.application.clone());
        tokio::task::spawn_blocking(move || {
            crash_point::reached("before-commit");
            let began = Instant::now();
            store.commit(&transaction)?;
            crash_point::reached("after-commit");
            counted.committed(&transaction.tally, began.elapsed());
            written(&store, &*application, &transaction, after)
        })
    }

    fn written(&mut self, (committed, looked_at): (Committed<A>, Option<A::Key>)) {
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
                "{} and {} were there already: these batches had been folded before",
                A::WORDS.output_plural,
                A::WORDS.rejects,
            );
        }
    }
}
