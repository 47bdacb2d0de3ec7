//! The partition worker: the only place where log, fold and store meet.
//!
//! One line per transaction: pull, fold, publish finals and rejects, each confirmed, then commit sums and checkpoint
//! together. This file is the first half, pull and fold; [`committer`] is the second. They are two tasks, so that
//! folding goes on while a commit is on its way to disk.
//!
//! A crash anywhere replays from the checkpoint and arrives at the same place. So does everything that is doubtful: the
//! uncommitted fold is dropped, and the source is opened again at the checkpoint.

pub mod committer;
pub mod counters;

use crate::bus::backoff;
use crate::bus::connect::Connection;
use crate::bus::finals::{ConflictingFinal, Effects};
use crate::bus::names::Names;
use crate::bus::publish::Throttle;
use crate::bus::read::NoAnswer;
use crate::bus::source::{Log, Lost, OpenError, Opened, Source};
use crate::checkpoint::{Checkpoint, LogReading, Position, Verdict, judge};
use crate::chunk::SeqNo;
use crate::shutdown;
use crate::store::{Store, StoreError};
use crate::stream_id::StreamId;
use crate::transaction::{Batch, Fold, Folded, Rules};
use committer::{CommitError, Committed, Committer, QUEUED_BATCHES, Work};
use counters::Counters;
use futures_util::future::{BoxFuture, FutureExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

/// How often the message at the committed position is compared with the one that was folded.
const IDENTITY_CHECK: Duration = Duration::from_secs(5);

/// How long a verdict must stand, over reads that were answered, before it is believed: an R3 leader that has lost
/// its peers goes on answering for up to 20 s.
const VERDICT_STANDS: Duration = Duration::from_secs(30);

/// After this many sessions without a commit, the next few batches are read one by one instead of pulled: one of them
/// may be what ends the connection.
const MOST_FRUITLESS: u32 = 3;

/// Rows to look up at once without leaving the async thread.
const FEW_ROWS: usize = 64;

/// Rows that are not committed can't be let go: with this many times the memory for rows held, pulling waits for a
/// commit.
const CROWDED: u64 = 2;

/// The checkpoint that was checked, and what was read for it.
type IdentityCheck = (Checkpoint, Result<Option<LogReading>, NoAnswer>);

#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub checkpoint_interval: Duration,
    /// Bytes of chunk batches in one transaction, at the most.
    pub checkpoint_bytes: usize,
    /// Memory for the rows that the fold holds.
    pub row_bytes: u64,
    /// Whether proven loss and a conflicting final stop the worker.
    pub halt: bool,
}

/// Why a partition can't be folded any further.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    #[error("partition {partition}: {verdict}")]
    Refused { partition: u32, verdict: Verdict },
    #[error(
        "partition {partition}: the log {log} is gone: bring it back, or run `stream-sum topology apply` and delete the store's file"
    )]
    LogGone { partition: u32, log: String },
    #[error(
        "partition {partition}: another process has started as the same worker and has taken over; give each summer a --worker name of its own"
    )]
    Superseded { partition: u32 },
    #[error(
        "partition {partition}: chunk {seq_no} of stream {id} at position {position} follows a gap: chunks were lost. \
         Halted before it, as summer.on_violation says"
    )]
    Gap { partition: u32, id: StreamId, seq_no: SeqNo, position: u64 },
    #[error("partition {partition}: {conflict}. Halted before committing it, as summer.on_violation says")]
    Conflict { partition: u32, conflict: Box<ConflictingFinal> },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PartitionError {
    /// Whether a guarantee was broken, rather than something that could not be done.
    pub fn is_violation(&self) -> bool {
        matches!(self, Self::Gap { .. } | Self::Conflict { .. })
    }
}

/// One partition, as one worker folds it.
pub struct Partition {
    rules: Rules,
    config: Config,
    store: Arc<Store>,
    /// On a connection for pulling: what is pulled must not hold up what is published.
    log: Log,
    connection: Connection,
    names: Names,
    counters: Arc<Counters>,
    /// What speaks against the log, and since when.
    doubt: Option<(&'static str, Instant)>,
    /// The position that did not come when it was next. It may lie well after the checkpoint, so it is remembered, or
    /// a hole there would never be seen as one.
    skipped: Option<Position>,
    /// Sessions in a row that were lost before anything was committed.
    fruitless: u32,
    complaints: Throttle,
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
    fold: Fold,
    source: Source,
    /// Whether the source reads messages one by one.
    one_by_one: bool,
    work: mpsc::Sender<Work>,
    committed: watch::Receiver<Committed>,
    committer: JoinHandle<Result<(), CommitError>>,
    cancel: CancellationToken,
    /// Bytes of batches in the open transaction, and when it is to be sealed.
    open_bytes: usize,
    seal_at: Instant,
    /// The transaction that is sealed and not committed yet.
    sealed: Option<u64>,
    /// The position that did not come when it was next.
    skipped: Option<Position>,
}

impl Partition {
    pub fn new(
        rules: Rules,
        config: Config,
        store: Arc<Store>,
        log: Log,
        connection: Connection,
        names: Names,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            rules,
            config,
            store,
            log,
            connection,
            names,
            counters,
            doubt: None,
            skipped: None,
            fruitless: 0,
            complaints: Throttle::default(),
        }
    }

    /// Folds until told to stop.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), PartitionError> {
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
                    tracing::warn!(log = self.log.name(), why, "opening the log again");
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
        let began = session.committed.borrow().transaction;
        let over = self.work(&mut session, stop).await;
        self.skipped = session.skipped;
        let position = session.fold.position();
        let last = match over {
            // What was read one by one has to be committed, or it would be to read again.
            Ok(Over::Stopped | Over::Read) => self.drain(session).await,
            Ok(Over::Lost(_)) if session.one_by_one => self.drain(session).await,
            Ok(Over::Lost(_)) | Err(_) => self.abandon(session).await,
        };
        if let Err(CommitError::Conflict(conflict)) = last {
            return Err(PartitionError::Conflict { partition: self.rules.partition, conflict });
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

    /// Judges the log, and opens it at the checkpoint. The inner error is a reason to try again.
    async fn open(&mut self) -> Result<Result<Session, String>, PartitionError> {
        let checkpoint = match self.store.checkpoint()? {
            Some(checkpoint) => checkpoint,
            None => match self.log.state().await {
                Ok(Some(state)) => {
                    let checkpoint = Checkpoint::start_of(state.created);
                    self.store.begin(&checkpoint)?;
                    checkpoint
                }
                Ok(None) => return self.doubtful("gone", self.gone()).map(Err),
                Err(cause) => return Ok(Err(cause.to_string())),
            },
        };
        let next = checkpoint.position + 1;
        let expected = self.skipped.map_or(next, |skipped| skipped.max(next));
        match self.log.reading(&checkpoint, Some(expected)).await {
            Err(cause) => return Ok(Err(cause.to_string())),
            Ok(None) => return self.doubtful("gone", self.gone()).map(Err),
            Ok(Some(reading)) => match judge(&checkpoint, &reading) {
                Ok(()) => (self.doubt, self.skipped) = (None, None),
                Err(verdict) => {
                    let refused = PartitionError::Refused { partition: self.rules.partition, verdict };
                    return self.doubtful(verdict.name(), refused).map(Err);
                }
            },
        }
        let one_by_one = self.fruitless >= MOST_FRUITLESS;
        let (source, refolding) = if one_by_one {
            (self.log.open_one_by_one(checkpoint.position), 0)
        } else {
            match self.log.open(checkpoint.position).await {
                Ok(Opened { source, sent_before }) => {
                    (source, sent_before.map_or(0, |sent| sent.saturating_sub(checkpoint.position)))
                }
                Err(OpenError::Superseded) => {
                    return Err(PartitionError::Superseded { partition: self.rules.partition });
                }
                Err(error) => return Ok(Err(error.to_string())),
            }
        };
        self.counters.opened.add(1);
        tracing::info!(log = self.log.name(), position = checkpoint.position, refolding, "opened the log");

        let (work, queue) = mpsc::channel(QUEUED_BATCHES);
        let (committed_tx, committed) = watch::channel(Committed { transaction: 0, checkpoint });
        let cancel = CancellationToken::new();
        let effects =
            Effects::new(self.connection.clone(), self.names.clone(), self.rules.partition, checkpoint.log_created);
        let committer = Committer {
            connection: self.connection.clone(),
            log: self.log.name().to_owned(),
            effects: Arc::new(effects),
            store: self.store.clone(),
            halt: self.config.halt,
            counters: self.counters.clone(),
            committed: committed_tx,
        };
        Ok(Ok(Session {
            fold: Fold::new(self.rules, checkpoint),
            source,
            one_by_one,
            work,
            committed,
            committer: tokio::spawn(committer.run(queue, cancel.clone())),
            cancel,
            open_bytes: 0,
            seal_at: Instant::now(),
            sealed: None,
            skipped: None,
        }))
    }

    fn gone(&self) -> PartitionError {
        PartitionError::LogGone { partition: self.rules.partition, log: self.log.name().to_owned() }
    }

    /// Gives up for `error` once nothing else has been found for long enough; until then it is a reason to look again.
    fn doubtful(&mut self, name: &'static str, error: PartitionError) -> Result<String, PartitionError> {
        let now = Instant::now();
        match self.doubt {
            Some((before, since)) if before == name => {
                if now - since >= VERDICT_STANDS {
                    return Err(error);
                }
            }
            _ => {
                tracing::error!("{error}; looking again for {} s before it is believed", VERDICT_STANDS.as_secs());
                self.doubt = Some((name, now));
            }
        }
        Ok(format!("the log is in doubt: {name}"))
    }

    /// Pulls and folds until told to stop, or until the log has to be opened again.
    async fn work(&self, session: &mut Session, stop: &CancellationToken) -> Result<Over, PartitionError> {
        let mut next_check = Instant::now() + IDENTITY_CHECK;
        let mut check: Option<BoxFuture<'_, IdentityCheck>> = None;
        loop {
            let full = session.open_bytes >= self.config.checkpoint_bytes
                || session.fold.held_bytes() > self.config.row_bytes.saturating_mul(CROWDED);
            let may_seal = session.sealed.is_none() && session.fold.open_batches() > 0;
            let seal_at = if full { Instant::now() } else { session.seal_at };
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Over::Stopped),
                // The committer ends by itself only where it can't go on; `drain` and `abandon` say why.
                () = session.work.closed() => return Ok(Over::Lost("committing has ended".to_owned())),
                _ = session.committed.changed() => {
                    let transaction = session.committed.borrow_and_update().transaction;
                    if session.sealed == Some(transaction) {
                        session.sealed = None;
                    }
                    if session.fold.open_batches() == 0 {
                        session.fold.evict(self.config.row_bytes, transaction);
                    }
                }
                permit = async { sleep_until(seal_at).await; session.work.reserve().await }, if may_seal => {
                    let Ok(permit) = permit else { continue };
                    if let Some(transaction) = session.fold.seal() {
                        session.sealed = Some(transaction.number);
                        session.open_bytes = 0;
                        permit.send(Work::Seal(Box::new(transaction)));
                        let committed = session.committed.borrow().transaction;
                        session.fold.evict(self.config.row_bytes, committed);
                    }
                }
                (checkpoint, reading) = async { check.as_mut().expect("guarded").await }, if check.is_some() => {
                    check = None;
                    next_check = Instant::now() + IDENTITY_CHECK;
                    match reading {
                        Ok(Some(reading)) => {
                            if let Err(verdict) = judge(&checkpoint, &reading) {
                                return Ok(Over::Lost(verdict.to_string()));
                            }
                        }
                        Ok(None) => return Ok(Over::Lost("there is no such stream".to_owned())),
                        Err(cause) if self.complaints.is_due() => {
                            tracing::warn!(log = self.log.name(), %cause, "no answer to an identity check");
                        }
                        Err(_) => {}
                    }
                }
                () = sleep_until(next_check), if check.is_none() => {
                    let checkpoint = session.committed.borrow().checkpoint;
                    check = Some(async move { (checkpoint, self.log.reading(&checkpoint, None).await) }.boxed());
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
                    if session.fold.open_batches() == 0 {
                        session.seal_at = Instant::now() + self.config.checkpoint_interval;
                    }
                    session.open_bytes += batch.payload.len();
                    let folded = self.fold(&mut session.fold, &batch).await?;
                    if !folded.finals.is_empty() || folded.rejected.is_some() {
                        permit.send(Work::Effects { finals: folded.finals, rejected: folded.rejected });
                    }
                }
            }
        }
    }

    /// Gathers the rows that the fold does not hold, and folds the batch.
    async fn fold(&self, fold: &mut Fold, batch: &Batch) -> Result<Folded, PartitionError> {
        let mut staged = fold.stage(&batch.payload);
        let mut missing = std::mem::take(&mut staged.missing);
        let rows = if missing.len() <= FEW_ROWS {
            self.store.rows(&mut missing)?
        } else {
            let store = self.store.clone();
            let reading = tokio::task::spawn_blocking(move || store.rows(&mut missing));
            reading.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?
        };
        for (id, row) in rows {
            fold.supply(id, row);
        }
        let folded = fold.fold(batch, staged);
        self.counters.batches.add(1);
        let partition = self.rules.partition;
        if let Some((id, seq_no)) = folded.gap {
            if self.config.halt {
                return Err(PartitionError::Gap { partition, id, seq_no, position: batch.position });
            }
            tracing::error!(
                partition, position = batch.position, stream = %id, %seq_no, gaps = folded.tally.gaps,
                "a chunk follows a gap: chunks were lost, and the stream will get no final"
            );
        }
        if let Some(rejected) = &folded.rejected {
            tracing::warn!(
                partition,
                position = batch.position,
                chunks = folded.tally.rejected,
                reasons = rejected.rejections.reasons(),
                "rejected chunks"
            );
        }
        Ok(folded)
    }

    /// Seals what is folded and waits until it is committed, or until the time to stop is over.
    async fn drain(&self, mut session: Session) -> Result<Committed, CommitError> {
        let deadline = Instant::now() + shutdown::DRAIN;
        let transaction = session.fold.seal();
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
        result.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        Ok(*committed.borrow())
    }

    /// Drops what is not committed. A commit that is on its way to disk is waited for.
    async fn abandon(&self, session: Session) -> Result<Committed, CommitError> {
        let Session { work, committer, cancel, committed, source, .. } = session;
        cancel.cancel();
        drop((work, source));
        committer.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        Ok(*committed.borrow())
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
