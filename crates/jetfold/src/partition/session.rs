//! A session: from one opening of the log to the next. This is the first half of the line, pull and fold.

use super::{Duty, Partition, PartitionError};
use crate::application::Application;
use crate::checkpoint::{Checkpoint, Position};
use crate::identity::judge;
use crate::joined::joined;
use crate::log::source::{Lost, MOST_ONE_BY_ONE, ONE_BY_ONE, Source};
use crate::partition::committed::Committed;
use crate::partition::committer::{CommitError, Work};
use crate::partition::opening::MOST_FRUITLESS;
use crate::shutdown;
use crate::standing::Phase;
use crate::store::Size;
use crate::table::Table;
use crate::throttle::{Throttle, ThrottleByCause};
use crate::transaction::{Batch, Folded};
use futures_util::future::{BoxFuture, FutureExt};
use std::pin::pin;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

/// How often the message at the committed position is compared with the one that was folded.
pub(super) const IDENTITY_CHECK: Duration = Duration::from_secs(5);

static REJECTED: ThrottleByCause = ThrottleByCause::new();
static LOSSES: Throttle = Throttle::new();
static UNANSWERED: ThrottleByCause = ThrottleByCause::new();

/// How a session ended without a reason to give up.
pub(super) enum Ended {
    Stopped,
    /// To be opened again: why, and whether the pauses begin anew.
    Lost {
        why: String,
        progressed: bool,
    },
}

/// How the work of a session is over.
enum Over {
    Stopped,
    /// The few batches that were to be read one by one are folded.
    Read,
    Lost(String),
}

/// A session's working parts.
pub(super) struct Session<A: Application> {
    pub table: Table<A>,
    pub source: Source,
    /// Whether the source reads messages one by one.
    pub one_by_one: bool,
    pub work: mpsc::Sender<Work<A>>,
    pub committed: watch::Receiver<Committed<A>>,
    pub committer: JoinHandle<Result<(), CommitError>>,
    pub cancel: CancellationToken,
    /// When the log, and the streams of outputs and rejects, are compared next with what the store knows of them.
    pub check_at: Instant,
    /// Bytes of batches in the open transaction, and when the first of them was folded.
    pub open_bytes: usize,
    pub opened_at: Instant,
    /// The transaction that is sealed and not committed yet.
    pub sealed: Option<u64>,
    /// The first position that was missing.
    pub skipped: Option<Position>,
}

/// What a session is begun with.
pub(super) struct Parts<A: Application> {
    pub table: Table<A>,
    pub source: Source,
    pub one_by_one: bool,
    pub check_at: Instant,
    pub open_bytes: usize,
    pub opened_at: Instant,
}

impl<A: Application> Partition<A> {
    /// From one opening of the log to the next.
    pub(super) async fn session(&mut self, stop: &CancellationToken) -> Result<Ended, PartitionError> {
        let mut connects = self.log.connects();
        connects.mark_unchanged();
        if let Some(ended) = self.search(stop).await? {
            return Ok(ended);
        }
        let opening = match self.promoted().take() {
            Some(following) => Ok(self.promote(*following)),
            None => tokio::select! {
                () = stop.cancelled() => return Ok(Ended::Stopped),
                // What was asked on the old connection is never answered: asking again is quicker than waiting for that.
                _ = connects.changed() => {
                    return Ok(Ended::Lost { why: Lost::Reconnected.to_string(), progressed: true });
                }
                opening = self.open() => opening?,
            },
        };
        let mut session = match opening {
            Ok(session) => session,
            Err(why) => return Ok(Ended::Lost { why, progressed: false }),
        };
        self.refuse_no_more();
        let began = session.committed.borrow().transaction;
        let over = self.work(&mut session, stop).await;
        if self.duty() == Duty::HandOver {
            self.standing.send_modify(|standing| standing.stopped_at = Some(std::time::Instant::now()));
        }
        self.doubt.ended(session.skipped);
        let (position, one_by_one) = (session.table.position(), session.one_by_one);
        let last = match over {
            // What was read one by one has to be committed, or it would be to read again.
            Ok(Over::Stopped) if self.duty() == Duty::HandOver => self.hand_over(session).await,
            Ok(Over::Stopped | Over::Read) => self.drain(session).await,
            Ok(Over::Lost(_)) if session.one_by_one || self.doubt.is_before_hole() => self.drain(session).await,
            Ok(Over::Lost(_)) | Err(_) => self.abandon(session).await,
        };
        if let (Duty::HandOver, Ok(Committed { checkpoint, size, .. })) = (self.duty(), &last) {
            self.has_handed_over(checkpoint, *size);
        }
        if let Err(CommitError::Conflict(conflict)) = last {
            return Err(PartitionError::Conflict { partition: self.partition, conflict, words: &A::WORDS });
        }
        match (over?, last) {
            (_, Err(CommitError::Store(error))) => Err(error.into()),
            (_, Err(CommitError::Conflict(_))) => unreachable!("returned above"),
            (Over::Stopped, last) => {
                let uncommitted = match last {
                    Ok(committed) => position - committed.checkpoint.position,
                    Err(error) => {
                        tracing::warn!(log = self.log.name(), "{error}");
                        position - self.store.checkpoint()?.map_or(0, |checkpoint| checkpoint.position)
                    }
                };
                if uncommitted > 0 {
                    tracing::warn!(
                        log = self.log.name(),
                        uncommitted,
                        "stopped before the last batches were committed: they will be folded again"
                    );
                }
                Ok(Ended::Stopped)
            }
            (Over::Read | Over::Lost(_), Err(error @ CommitError::Doubt(_))) => {
                Ok(Ended::Lost { why: error.to_string(), progressed: false })
            }
            (over, Ok(committed)) => {
                let why = match over {
                    Over::Lost(why) => why,
                    Over::Stopped | Over::Read => Lost::EndOfReading.to_string(),
                };
                let progressed = committed.transaction > began;
                // What is read one by one stays so until it has got somewhere: others may break the connection too. What does may
                // still lie far ahead: then the first session that is lost shows it, and twice as many are read one by one.
                self.fruitless = match progressed {
                    true if one_by_one => MOST_FRUITLESS - 1,
                    true => 0,
                    false => self.fruitless.saturating_add(1),
                };
                self.careful = match one_by_one {
                    true => (2 * self.careful).min(MOST_ONE_BY_ONE),
                    false if progressed => ONE_BY_ONE,
                    false => self.careful,
                };
                Ok(Ended::Lost { why, progressed })
            }
        }
    }

    /// Looks for a snapshot if one is to be restored before the log is opened; how the session ends, if it does.
    pub(super) async fn search(&mut self, stop: &CancellationToken) -> Result<Option<Ended>, PartitionError> {
        let Some(beyond) = self.doubt.wanted_beyond() else { return Ok(None) };
        let restored = tokio::select! {
            () = stop.cancelled() => return Ok(Some(Ended::Stopped)),
            // Seen to its end whatever the connections do: nothing else may change the store meanwhile.
            restored = self.restore(beyond) => restored?,
        };
        Ok(match restored {
            Ok(()) => {
                self.doubt.has_searched();
                None
            }
            Err(why) => Some(Ended::Lost { why, progressed: false }),
        })
    }

    /// Pulls and folds until told to stop, or until the log has to be opened again.
    async fn work(&self, session: &mut Session<A>, stop: &CancellationToken) -> Result<Over, PartitionError> {
        let mut next_check = session.check_at;
        let mut check: Option<BoxFuture<'_, Result<Result<(), String>, String>>> = None;
        let mut duty = self.orders.duty.clone();
        let mut last = None;
        loop {
            let hands_over = *duty.borrow_and_update() == Duty::HandOver;
            if hands_over {
                // What was folded before is committed while more is folded, so that little is left to wait for.
                let last = *last.get_or_insert(session.table.number());
                let nothing_left = session.table.open_batches() == 0 && session.sealed.is_none();
                if nothing_left || session.committed.borrow().transaction >= last {
                    return Ok(Over::Stopped);
                }
            }
            let full = session.open_bytes >= self.config.checkpoint_bytes || session.table.is_crowded();
            let may_seal = session.sealed.is_none() && session.table.open_batches() > 0;
            // Who follows is told of each commit, and can't come any closer.
            let ahead = session.source.pending() > 0 && !*self.orders.followed.borrow();
            let longest =
                if full || hands_over { Duration::ZERO } else { self.config.longest(session.open_bytes, ahead) };
            let seal_at = session.opened_at + longest;
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Over::Stopped),
                _ = duty.changed(), if !hands_over => {}
                // The committer ends by itself only if it can't go on; `drain` and `abandon` say why.
                () = session.work.closed() => return Ok(Over::Lost("committing has ended".to_owned())),
                _ = session.committed.changed() => {
                    let (transaction, checkpoint, size) = {
                        let committed = session.committed.borrow_and_update();
                        (committed.transaction, committed.checkpoint, committed.size)
                    };
                    if session.sealed == Some(transaction) {
                        session.sealed = None;
                    }
                    session.table.committed(transaction);
                    self.has_committed();
                    self.show(Phase::Owns, &checkpoint, size);
                    // Its share is less if the worker has taken other partitions meanwhile.
                    session.table.give(self.stores.row_bytes());
                }
                permit = async { sleep_until(seal_at).await; session.work.reserve().await }, if may_seal => {
                    let Ok(permit) = permit else { continue };
                    let committed = session.committed.borrow().clone();
                    let (last, expired) = (committed.transaction, &committed.expired);
                    if let Some(transaction) = session.table.seal(last, expired) {
                        session.sealed = Some(transaction.number);
                        session.open_bytes = 0;
                        permit.send(Work::Seal(Box::new(transaction)));
                    }
                }
                seen = async { check.as_mut().expect("guarded").await }, if check.is_some() => {
                    check = None;
                    next_check = Instant::now() + IDENTITY_CHECK;
                    match seen {
                        Ok(Ok(())) => {}
                        Ok(Err(why)) => return Ok(Over::Lost(why)),
                        Err(cause) => {
                            if let Some(times) = UNANSWERED.count(&cause) {
                                tracing::warn!(log = self.log.name(), cause, times, "no answer to an identity check");
                            }
                        }
                    }
                }
                () = sleep_until(next_check), if check.is_none() => {
                    let checkpoint = session.committed.borrow().checkpoint;
                    check = Some(self.look_again(checkpoint).boxed());
                }
                // A place for the effects first: a batch that was pulled is folded at once.
                pulled = pull(&session.work, &mut session.source), if !full => {
                    let Some((permit, batch)) = pulled else { continue };
                    let batch = match batch {
                        Ok(batch) => batch,
                        Err(Lost::EndOfReading) => return Ok(Over::Read),
                        Err(lost) => {
                            session.skipped = lost.missing();
                            return Ok(Over::Lost(lost.to_string()));
                        }
                    };
                    if session.table.open_batches() == 0 {
                        session.opened_at = Instant::now();
                    }
                    session.open_bytes += batch.payload.len();
                    let folded = self.fold(&mut session.table, &batch).await?;
                    if !folded.outputs.is_empty() || folded.rejected.is_some() {
                        permit.send(Work::Effects { outputs: folded.outputs, rejected: folded.rejected });
                    }
                }
            }
        }
    }

    /// Compares the log and the streams of outputs and rejects with what the store knows of them. The outer error is no answer,
    /// the inner one what is wrong.
    async fn look_again(&self, checkpoint: Checkpoint) -> Result<Result<(), String>, String> {
        let reading = self.log.reader().reading(&checkpoint, None).await.map_err(|cause| cause.to_string())?;
        let Some(reading) = reading else { return Ok(Err("there is no such stream".to_owned())) };
        match judge(&checkpoint, &reading) {
            Ok(()) if reading.state.created != checkpoint.log_created => {
                Ok(Err("the log was brought back from a backup".to_owned()))
            }
            Ok(()) => {
                self.note_deleted(&checkpoint, &reading);
                Ok(self.judge_effects(&checkpoint).await?.map_err(|verdict| verdict.said(&A::WORDS).to_string()))
            }
            Err(verdict) => Ok(Err(verdict.said(&A::WORDS).to_string())),
        }
    }

    /// Folds a batch, and says what is wrong with it.
    async fn fold(&self, table: &mut Table<A>, batch: &Batch) -> Result<Folded<A>, PartitionError> {
        let folded = table.consume(&self.store, batch).await?;
        self.counted.folded(folded.rejected.as_ref().map(|rejected| &rejected.rejections));
        let partition = self.partition;
        if let Some(loss) = &folded.loss {
            let (position, loss) = (batch.position, loss.clone());
            if self.config.halt {
                return Err(PartitionError::Loss { partition, position, loss, words: &A::WORDS });
            }
            if let Some(losses) = LOSSES.add(folded.tally.losses) {
                tracing::error!(partition, position, loss, losses, "{}", A::WORDS.lost);
            }
        }
        if let Some(rejected) = &folded.rejected {
            let reasons = rejected.rejections.reasons();
            if let Some(chunks) = REJECTED.add(&reasons, folded.tally.rejected) {
                tracing::warn!(partition, position = batch.position, chunks, reasons, "rejected {}", A::WORDS.records);
            }
        }
        Ok(folded)
    }

    /// Drains, and says where another goes on: as soon as everything is confirmed, since that is all that it needs.
    async fn hand_over(&self, session: Session<A>) -> Result<Committed<A>, CommitError> {
        let (position, size) = (session.table.position(), session.committed.borrow().size);
        let mut confirmed = self.confirmed.subscribe();
        let confirmed = async { *confirmed.wait_for(|at| at.is_some_and(|at| at.position >= position)).await.ok()? };
        let mut drained = pin!(self.drain(session));
        tokio::select! {
            last = &mut drained => last,
            Some(at) = confirmed => {
                self.has_handed_over(&at, size);
                drained.await
            }
        }
    }

    fn has_handed_over(&self, at: &Checkpoint, size: Size) {
        self.show(Phase::HandedOver, at, size);
        self.changed.notify_one();
    }

    /// Seals what is folded and waits until it is committed, or until the time to stop is over.
    async fn drain(&self, mut session: Session<A>) -> Result<Committed<A>, CommitError> {
        let deadline = Instant::now() + shutdown::DRAIN;
        let last = session.committed.borrow().transaction;
        let transaction = session.table.seal(last, &[]);
        let Session { work, committer, cancel, committed, .. } = session;
        let finish = async {
            if let Some(transaction) = transaction {
                // If the committer has ended, its own result says why.
                work.send(Work::Seal(Box::new(transaction))).await.ok();
            }
            drop(work);
        };
        if timeout_at(deadline, finish).await.is_err() {
            cancel.cancel();
        }
        let mut committer = committer;
        let result = match timeout_at(deadline, &mut committer).await {
            Ok(result) => result,
            Err(_) => {
                cancel.cancel();
                committer.await
            }
        };
        joined(result)?;
        Ok(committed.borrow().clone())
    }

    /// Drops what is not committed. A commit that is on its way to disk is waited for.
    async fn abandon(&self, session: Session<A>) -> Result<Committed<A>, CommitError> {
        let Session { work, committer, cancel, committed, source, .. } = session;
        cancel.cancel();
        drop((work, source));
        joined(committer.await)?;
        Ok(committed.borrow().clone())
    }
}

/// Waits for a place to put a batch's effects, then for the batch. `None` if committing has ended. Cancel-safe.
async fn pull<'a, A: Application>(
    work: &'a mpsc::Sender<Work<A>>,
    source: &mut Source,
) -> Option<(mpsc::Permit<'a, Work<A>>, Result<Batch, Lost>)> {
    let permit = work.reserve().await.ok()?;
    let batch = source.next().await;
    Some((permit, batch))
}
