//! The partition worker: the only place where log, fold and store meet.
//!
//! One line per transaction: pull, fold, publish finals and rejects, each confirmed, then commit sums and checkpoint
//! together. This file is the first half, pull and fold; [`committer`] is the second. They are two tasks, so that
//! folding goes on while a commit is on its way to disk.
//!
//! A crash anywhere replays from the checkpoint and arrives at the same place. So does everything that is doubtful: the
//! uncommitted fold is dropped, and the source is opened again at the checkpoint.

pub mod archive;
mod bucket;
pub mod check;
pub mod committer;
pub mod counters;
mod damage;
pub mod held;
mod opening;
pub mod republish;
pub mod restore;
mod retention;
mod situation;
pub mod stores;

use crate::accept::Loss;
use crate::bus::backoff;
use crate::bus::connect::Connection;
use crate::bus::log::LogReader;
use crate::bus::snapshots::Snapshots;
use crate::bus::source::{Log, Lost, Source};
use crate::bus::topology::Topology;
use crate::checkpoint::{Checkpoint, Position};
use crate::effect::ConflictingFinal;
use crate::identity::doubt::Doubt;
use crate::identity::{Verdict, judge, rfc3339};
use crate::joined::joined;
use crate::row::UnixNanos;
use crate::shutdown;
use crate::standing::Standing;
use crate::store::{Owner, Store, StoreError};
use crate::summer::Summer;
use crate::table::{Share, Table};
use crate::throttle::{Throttle, ThrottleByCause};
use crate::transaction::{Batch, Folded};
use archive::Archive;
use committer::{CommitError, Committed, Work};
use counters::Counters;
use damage::Aside;
use futures_util::future::{BoxFuture, FutureExt};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use stores::Stores;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

/// How often the message at the committed position is compared with the one that was folded.
const IDENTITY_CHECK: Duration = Duration::from_secs(5);

/// While the log is ahead, a transaction may last this many times `checkpoint_interval`. Who catches up changes the same rows
/// again and again, and each commit writes all of them.
const CATCHING_UP: u32 = 8;

/// A transaction that holds this part of `checkpoint_bytes` ends as soon as the log is drained: so many batches are not to
/// be folded again, and there is nothing to wait for.
const LARGE: usize = 16;

/// How long after a refusal a partition is looked at again: somebody may have mended its log.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// How long after the signal to stop a last snapshot may take.
const LAST_SNAPSHOT: Duration = Duration::from_secs(9);

/// What all partitions of a process meet at once, or one of them with each batch, is said once.
static REOPENINGS: ThrottleByCause = ThrottleByCause::new();
static UNANSWERED: ThrottleByCause = ThrottleByCause::new();
static REJECTED: ThrottleByCause = ThrottleByCause::new();
static LOSSES: Throttle = Throttle::new();

#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub checkpoint_interval: Duration,
    /// Bytes of chunk batches in one transaction, at the most.
    pub checkpoint_bytes: usize,
    /// Whether proven loss and a conflicting final stop the worker.
    pub halt: bool,
    /// How old a snapshot must be before its log is purged up to it: till then the broker may not have it on disk.
    pub purge_delay: Duration,
}

impl Config {
    /// How long a transaction of `bytes` may last, from its first batch on. `ahead`: the log has more than it has folded.
    fn longest(&self, bytes: usize, ahead: bool) -> Duration {
        match ahead {
            true => self.checkpoint_interval * CATCHING_UP,
            false if bytes >= self.checkpoint_bytes / LARGE => Duration::ZERO,
            false => self.checkpoint_interval,
        }
    }
}

/// Why a partition can't be folded any further.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    #[error("partition {partition}: {verdict}{}", way_out(verdict, *partition))]
    Refused { partition: u32, verdict: Verdict },
    #[error(
        "partition {partition}: {verdict}{}. This store is new, because one that may have folded them was damaged, and lies beside it as {aside}",
        way_out(verdict, *partition)
    )]
    RefusedAfterDamage { partition: u32, verdict: Verdict, aside: Aside },
    #[error(
        "partition {partition}: the log {log} is gone: bring it back from a backup; or make it anew with `stream-sum topology apply`, and go on with --accept replaced:{partition}"
    )]
    LogGone { partition: u32, log: String },
    #[error(
        "partition {partition}: another process has started as the same worker and has taken over; give each summer a --worker name of its own"
    )]
    Superseded { partition: u32 },
    #[error("partition {partition}, position {position}: {loss}. Halted before it, as summer.on_violation says")]
    Loss { partition: u32, position: Position, loss: String },
    #[error("partition {partition}: {conflict}. Halted before committing it, as summer.on_violation says")]
    Conflict { partition: u32, conflict: Box<ConflictingFinal> },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What follows a verdict in the sentence that refuses a partition.
fn way_out(verdict: &Verdict, partition: u32) -> String {
    verdict.way_out(partition).map(|way_out| format!(". {way_out}")).unwrap_or_default()
}

impl PartitionError {
    /// Whether it is this partition's log alone that can't be folded: it is refused, and others go on.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::RefusedAfterDamage { .. } | Self::LogGone { .. })
    }

    /// Whether a guarantee was broken, rather than something that could not be done.
    pub fn is_violation(&self) -> bool {
        matches!(self, Self::Loss { .. } | Self::Conflict { .. })
    }
}

/// What the partitions of one worker share.
#[derive(Clone)]
pub struct Shared {
    pub summer: Arc<Summer>,
    pub topology: Topology,
    pub stores: Stores,
    pub config: Config,
    /// For what is published and asked.
    pub connection: Connection,
    pub snapshots: Snapshots,
    /// Snapshots that are written at once.
    pub turns: Arc<Semaphore>,
    pub counters: Arc<Counters>,
}

/// One partition, as one worker folds it.
pub struct Partition {
    partition: u32,
    summer: Arc<Summer>,
    topology: Topology,
    stores: Stores,
    config: Config,
    store: Arc<Store<Summer>>,
    /// On a connection for pulling: what is pulled must not hold up what is published.
    log: Log,
    connection: Connection,
    counters: Arc<Counters>,
    standing: watch::Sender<Standing>,
    owner: Owner,
    snapshots: Snapshots,
    /// Turns of writing snapshots, for all partitions of the worker.
    turns: Arc<Semaphore>,
    /// What the operator accepts, until it was needed.
    accepts: Vec<Loss>,
    /// What is in question about the log. Its time counts from `began`.
    doubt: Doubt,
    began: Instant,
    /// Sessions in a row that were lost before anything was committed.
    fruitless: u32,
    /// Since when the log is refused, and as what.
    refused: Option<Refusal>,
    /// Whether it is, for whoever wants to know.
    is_refused: watch::Sender<bool>,
    /// The position of which was said that its message is deleted.
    deleted_at: AtomicU64,
}

/// A log that is refused.
struct Refusal {
    since: UnixNanos,
    why: PartitionError,
}

/// How a session ended without a reason to give up.
enum Ended {
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
struct Session {
    table: Table<Summer>,
    source: Source,
    /// Whether the source reads messages one by one.
    one_by_one: bool,
    work: mpsc::Sender<Work>,
    committed: watch::Receiver<Committed>,
    committer: JoinHandle<Result<(), CommitError>>,
    cancel: CancellationToken,
    /// Bytes of batches in the open transaction, and when the first of them was folded.
    open_bytes: usize,
    opened_at: Instant,
    /// The transaction that is sealed and not committed yet.
    sealed: Option<u64>,
    /// The position that did not come when it was next.
    skipped: Option<Position>,
}

impl Partition {
    pub fn new(
        partition: u32,
        shared: Shared,
        store: Arc<Store<Summer>>,
        log: Log,
        accepts: Vec<Loss>,
    ) -> Result<Self, StoreError> {
        let Shared { summer, topology, stores, config, connection, snapshots, turns, counters } = shared;
        let (size, checkpoint) = (store.size()?, store.checkpoint()?);
        let standing = checkpoint.map_or_else(Standing::default, |at| Standing::of(&at, size.rows, size.bytes));
        let trouble = store.replaced().map_or_else(|| "not opened yet".to_owned(), damage::trouble);
        let standing = Standing { trouble: Some(trouble), ..standing };
        Ok(Self {
            partition,
            owner: stores.owner(partition),
            summer,
            topology,
            stores,
            config,
            store,
            snapshots,
            turns,
            accepts,
            log,
            connection,
            counters,
            standing: watch::Sender::new(standing),
            doubt: Doubt::new(checkpoint.map_or(0, |checkpoint| checkpoint.position)),
            began: Instant::now(),
            fruitless: 0,
            refused: None,
            is_refused: watch::Sender::new(false),
            deleted_at: AtomicU64::new(0),
        })
    }

    pub fn number(&self) -> u32 {
        self.partition
    }

    fn share(&self) -> Share {
        Share { partition: self.partition, partitions: self.topology.partitions }
    }

    /// How far it is, for whoever wants to know.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Whether its log is refused at the moment.
    pub fn is_refused(&self) -> watch::Receiver<bool> {
        self.is_refused.subscribe()
    }

    /// Folds until told to stop. A store that is found damaged is set aside, and made again. A log that is refused is looked
    /// at again now and then, and told to stop meanwhile, it ends with the refusal.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), PartitionError> {
        loop {
            let result = self.run_on_store(&stop).await;
            if let Some(what) = damage::found(&self.store, &result) {
                self.replace_store(what).await?;
                continue;
            }
            match result.map_err(|error| self.with_what_was_set_aside(error)) {
                Err(error) if error.is_refusal() => {
                    self.refuse(error);
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(LOOK_AGAIN) => {}
                    }
                }
                Ok(()) => break,
                Err(error) => return Err(error),
            }
        }
        for loss in &self.accepts {
            tracing::warn!(partition = self.partition, %loss, "there was nothing of the kind to accept");
        }
        // Told to stop while it was looked at again, or before that: it is refused still.
        self.refused.map_or(Ok(()), |refusal| Err(refusal.why))
    }

    /// Says once why the log is refused, and tells it from then on.
    fn refuse(&mut self, why: PartitionError) {
        let said = why.to_string();
        let since = match &self.refused {
            Some(before) if before.why.to_string() == said => before.since,
            _ => {
                tracing::error!("{said}");
                let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos();
                UnixNanos::try_from(now).unwrap_or(UnixNanos::MAX)
            }
        };
        let trouble = format!("refused since {}: {said}", rfc3339(since));
        self.standing.send_modify(|standing| (standing.trouble, standing.refused_since) = (Some(trouble), Some(since)));
        self.refused = Some(Refusal { since, why });
        self.is_refused.send_replace(true);
    }

    /// The log is what it was: whoever mended it is told.
    fn refuse_no_more(&mut self) {
        if self.refused.take().is_some() {
            tracing::info!(log = self.log.name(), "the log is what it was again, and is folded on");
            self.is_refused.send_replace(false);
        }
    }

    /// Folds into the store and keeps its archive until told to stop, or until the store is found damaged. Nobody else
    /// holds the store then.
    async fn run_on_store(&mut self, stop: &CancellationToken) -> Result<(), PartitionError> {
        let archive = Archive::new(
            self.owner.clone(),
            self.store.clone(),
            LogReader::new(self.connection.clone(), &self.topology.names, self.partition),
            self.snapshots.clone(),
            self.turns.clone(),
            self.config.purge_delay,
        );
        let archive = Arc::new(archive);
        let over = CancellationToken::new();
        let archiving = tokio::spawn(archive.clone().run(self.standing(), over.clone()));
        let stop = stop.child_token();
        let mut stopped_at = None;
        let result = {
            let folding = self.fold_on(stop.clone());
            tokio::pin!(folding);
            tokio::select! {
                result = &mut folding => result,
                () = stop.cancelled() => {
                    stopped_at = Some(Instant::now());
                    folding.await
                }
                // The archive says so where it has found the store damaged: what is not committed can't be any more.
                () = over.cancelled() => {
                    stop.cancel();
                    folding.await
                }
            }
        };
        over.cancel();
        joined(archiving.await);
        if result.is_ok() && self.store.damage().is_none() {
            archive.put_last(stopped_at.unwrap_or_else(Instant::now) + LAST_SNAPSHOT).await;
        }
        result
    }

    async fn fold_on(&mut self, stop: CancellationToken) -> Result<(), PartitionError> {
        let mut pauses = backoff::reopening();
        let mut connects = self.log.connects();
        loop {
            connects.mark_unchanged();
            match self.session(&stop).await? {
                Ended::Stopped => return Ok(()),
                Ended::Lost { why, progressed } => {
                    if progressed {
                        pauses = backoff::reopening();
                    }
                    if let Some(times) = REOPENINGS.count(&why) {
                        tracing::warn!(log = self.log.name(), why, times, "opening the log again");
                    }
                    // Why the log is refused says more than why it can't be looked at again.
                    if self.refused.is_none() {
                        self.standing.send_modify(|standing| standing.trouble = Some(why));
                    }
                }
            }
            let pause = pauses.next().expect("the pauses never end");
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = connects.changed() => pauses = backoff::reopening(),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// From one opening of the log to the next.
    async fn session(&mut self, stop: &CancellationToken) -> Result<Ended, PartitionError> {
        let mut connects = self.log.connects();
        connects.mark_unchanged();
        if let Some(beyond) = self.doubt.wanted_beyond() {
            let restored = tokio::select! {
                () = stop.cancelled() => return Ok(Ended::Stopped),
                // Seen to its end whatever the connections do: nothing else may change the store meanwhile.
                restored = self.restore(beyond) => restored?,
            };
            match restored {
                Ok(()) => self.doubt.has_searched(),
                Err(why) => return Ok(Ended::Lost { why, progressed: false }),
            }
        }
        let opening = tokio::select! {
            () = stop.cancelled() => return Ok(Ended::Stopped),
            // What was asked on the old connection is never answered: asking again is quicker than waiting for that.
            _ = connects.changed() => {
                return Ok(Ended::Lost { why: Lost::Reconnected.to_string(), progressed: true });
            }
            opening = self.open() => opening?,
        };
        let mut session = match opening {
            Ok(session) => session,
            Err(why) => return Ok(Ended::Lost { why, progressed: false }),
        };
        self.refuse_no_more();
        let began = session.committed.borrow().transaction;
        let over = self.work(&mut session, stop).await;
        self.doubt.ended(session.skipped);
        let position = session.table.position();
        let last = match over {
            // What was read one by one has to be committed, or it would be to read again.
            Ok(Over::Stopped | Over::Read) => self.drain(session).await,
            Ok(Over::Lost(_)) if session.one_by_one || self.doubt.is_before_hole() => self.drain(session).await,
            Ok(Over::Lost(_)) | Err(_) => self.abandon(session).await,
        };
        if let Err(CommitError::Conflict(conflict)) = last {
            return Err(PartitionError::Conflict { partition: self.partition, conflict });
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
                // What is read one by one stays so until it has got somewhere: others may break the connection too.
                self.fruitless = if progressed { 0 } else { self.fruitless.saturating_add(1) };
                Ok(Ended::Lost { why, progressed })
            }
        }
    }

    /// Pulls and folds until told to stop, or until the log has to be opened again.
    async fn work(&self, session: &mut Session, stop: &CancellationToken) -> Result<Over, PartitionError> {
        let mut next_check = Instant::now() + IDENTITY_CHECK;
        let mut check: Option<BoxFuture<'_, Result<Result<(), String>, String>>> = None;
        loop {
            let full = session.open_bytes >= self.config.checkpoint_bytes || session.table.is_crowded();
            let may_seal = session.sealed.is_none() && session.table.open_batches() > 0;
            let ahead = session.source.pending() > 0;
            let longest = if full { Duration::ZERO } else { self.config.longest(session.open_bytes, ahead) };
            let seal_at = session.opened_at + longest;
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Over::Stopped),
                // The committer ends by itself only where it can't go on; `drain` and `abandon` say why.
                () = session.work.closed() => return Ok(Over::Lost("committing has ended".to_owned())),
                _ = session.committed.changed() => {
                    let Committed { transaction, checkpoint, size, .. } = *session.committed.borrow_and_update();
                    if session.sealed == Some(transaction) {
                        session.sealed = None;
                    }
                    session.table.committed(transaction);
                    let committed_at = Some(std::time::Instant::now());
                    self.standing.send_replace(Standing { committed_at, ..Standing::of(&checkpoint, size.rows, size.bytes) });
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
                            if let Lost::OutOfSequence { expected, .. } = lost {
                                session.skipped = Some(expected);
                            }
                            return Ok(Over::Lost(lost.to_string()));
                        }
                    };
                    if session.table.open_batches() == 0 {
                        session.opened_at = Instant::now();
                    }
                    session.open_bytes += batch.payload.len();
                    let folded = self.fold(&mut session.table, &batch).await?;
                    if !folded.outputs.is_empty() || folded.rejected.is_some() {
                        permit.send(Work::Effects { finals: folded.outputs, rejected: folded.rejected });
                    }
                }
            }
        }
    }

    /// Compares log, `sums` and `rejects` with what the store knows of them. The outer error is no answer, the inner one what is wrong.
    async fn look_again(&self, checkpoint: Checkpoint) -> Result<Result<(), String>, String> {
        let reading = self.log.reader().reading(&checkpoint, None).await.map_err(|cause| cause.to_string())?;
        let Some(reading) = reading else { return Ok(Err("there is no such stream".to_owned())) };
        match judge(&checkpoint, &reading) {
            Ok(()) if reading.state.created != checkpoint.log_created => {
                Ok(Err("the log was brought back from a backup".to_owned()))
            }
            Ok(()) => {
                self.note_deleted(&checkpoint, &reading);
                Ok(self.judge_effects(&checkpoint).await?.map_err(|verdict| verdict.to_string()))
            }
            Err(verdict) => Ok(Err(verdict.to_string())),
        }
    }

    /// Folds a batch, and says what is wrong with it.
    async fn fold(&self, table: &mut Table<Summer>, batch: &Batch) -> Result<Folded<Summer>, PartitionError> {
        let folded = table.consume(&self.store, batch).await?;
        self.counters.batches.add(1);
        let partition = self.partition;
        if let Some(loss) = &folded.loss {
            let (position, loss) = (batch.position, loss.clone());
            if self.config.halt {
                return Err(PartitionError::Loss { partition, position, loss });
            }
            if let Some(losses) = LOSSES.add(folded.tally.losses) {
                tracing::error!(
                    partition,
                    position,
                    loss,
                    losses,
                    "something was lost, and what it belongs to will get no final"
                );
            }
        }
        if let Some(rejected) = &folded.rejected {
            let reasons = rejected.rejections.reasons();
            if let Some(chunks) = REJECTED.add(&reasons, folded.tally.rejected) {
                tracing::warn!(partition, position = batch.position, chunks, reasons, "rejected chunks");
            }
        }
        Ok(folded)
    }

    /// Seals what is folded and waits until it is committed, or until the time to stop is over.
    async fn drain(&self, mut session: Session) -> Result<Committed, CommitError> {
        let deadline = Instant::now() + shutdown::DRAIN;
        let last = session.committed.borrow().transaction;
        let transaction = session.table.seal(last, &[]);
        let Session { work, committer, cancel, committed, .. } = session;
        let finish = async {
            if let Some(transaction) = transaction {
                // Where the committer has ended, its own result says why.
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
    async fn abandon(&self, session: Session) -> Result<Committed, CommitError> {
        let Session { work, committer, cancel, committed, source, .. } = session;
        cancel.cancel();
        drop((work, source));
        joined(committer.await)?;
        Ok(committed.borrow().clone())
    }
}

/// Waits for a place to put a batch's effects, then for the batch. `None` where committing has ended. Cancel-safe.
async fn pull<'a>(
    work: &'a mpsc::Sender<Work>,
    source: &mut Source,
) -> Option<(mpsc::Permit<'a, Work>, Result<Batch, Lost>)> {
    let permit = work.reserve().await.ok()?;
    let batch = source.next().await;
    Some((permit, batch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_lasts_longer_while_the_log_is_ahead_and_ends_large_where_it_is_not() {
        let interval = Duration::from_millis(250);
        let config =
            Config { checkpoint_interval: interval, checkpoint_bytes: 1600, halt: false, purge_delay: Duration::ZERO };
        assert_eq!(config.longest(99, false), interval);
        assert_eq!(config.longest(100, false), Duration::ZERO);
        assert_eq!(config.longest(99, true), interval * 8);
        assert_eq!(config.longest(100, true), interval * 8);
    }
}
