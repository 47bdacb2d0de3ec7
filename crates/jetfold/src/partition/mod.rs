//! The partition worker: the only place where log, fold and store meet.
//!
//! One line per transaction: pull, fold, publish outputs and rejects, each confirmed, then commit rows and checkpoint
//! together. A `session` is the first half, pull and fold; [`committer`] is the second. They are two tasks, so that
//! folding goes on while a commit is on its way to disk.
//!
//! A crash anywhere replays from the checkpoint and arrives at the same place. So does everything that is doubtful: the
//! uncommitted fold is dropped, and the source is opened again at the checkpoint.

pub mod check;
pub mod committed;
pub mod committer;
pub mod counted;
pub mod counters;
mod damage;
mod error;
mod follow;
mod opening;
mod orders;
pub mod republish;
mod session;
pub mod stores;

use crate::application::Application;
use crate::archive::Archive;
use crate::archive::bucket::Snapshots;
use crate::checkpoint::Checkpoint;
use crate::identity::accept::Loss;
use crate::identity::doubt::Doubt;
use crate::identity::rfc3339;
use crate::joined::joined;
use crate::log::reader::LogReader;
use crate::log::source::{Log, ONE_BY_ONE};
use crate::nats::connect::Connection;
use crate::nats::names::Names;
use crate::nats::retry::Pauses;
use crate::standing::{Phase, Standing};
use crate::store::{Owner, Size, Store, StoreError};
use crate::table::Share;
use crate::throttle::ThrottleByCause;
use crate::time::UnixNanos;
use counted::Counted;
use counters::Counters;
pub use error::PartitionError;
use follow::Following;
pub use orders::{Duty, Orders};
use session::Ended;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use stores::Stores;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

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

#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub checkpoint_interval: Duration,
    /// Bytes of batches in one transaction, at the most.
    pub checkpoint_bytes: usize,
    /// Whether proven loss and a conflicting output stop the worker.
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

/// What the partitions of one worker share.
pub struct Shared<A: Application> {
    /// The worker that folds them.
    pub worker: String,
    pub application: Arc<A>,
    pub names: Names,
    /// Partitions of the system.
    pub partitions: u32,
    pub stores: Stores,
    pub config: Config,
    /// For what is published and asked.
    pub connection: Connection,
    pub snapshots: Snapshots,
    /// Snapshots that are written at once.
    pub turns: Arc<Semaphore>,
    pub counters: Arc<Counters<A>>,
    /// Told when a partition is opened, or has come close to its owner.
    pub changed: Arc<Notify>,
    /// When the worker was told to stop.
    pub stopped_at: Arc<OnceLock<Instant>>,
}

/// One partition, as one worker folds it.
pub struct Partition<A: Application> {
    partition: u32,
    application: Arc<A>,
    names: Names,
    partitions: u32,
    stores: Stores,
    config: Config,
    store: Arc<Store<A>>,
    /// The same, for whoever reads it beside folding.
    shown: watch::Sender<Arc<Store<A>>>,
    /// On a connection for pulling: what is pulled must not hold up what is published.
    log: Log,
    connection: Connection,
    counted: Counted<A>,
    standing: watch::Sender<Standing>,
    owner: Owner,
    snapshots: Snapshots,
    /// Turns of writing snapshots, for all partitions of the worker.
    turns: Arc<Semaphore>,
    /// What the operator accepts, until it was needed.
    accepts: Vec<Loss>,
    /// What the operator has accepted of what is in question now.
    accepted: Option<Loss>,
    /// What is in question about the log. Its time counts from `began`.
    doubt: Doubt,
    began: Instant,
    /// Sessions in a row that were lost before anything was committed.
    fruitless: u32,
    /// How many batches are read one by one, if it comes to that.
    careful: u32,
    /// Since when the log is refused, and as what.
    refused: Option<Refusal>,
    /// Whether it is, for whoever wants to know.
    is_refused: watch::Sender<bool>,
    /// The position of which was said that its message is deleted.
    deleted_at: AtomicU64,
    orders: Orders,
    /// Through where every effect is confirmed, as the owner.
    confirmed: Arc<watch::Sender<Option<Checkpoint>>>,
    /// What it has followed, to go on with as the owner. Locked only because a partition is shared by what looks at it meanwhile.
    promoted: Mutex<Option<Box<Following<A>>>>,
    changed: Arc<Notify>,
    stopped_at: Arc<OnceLock<Instant>>,
}

/// A log that is refused.
struct Refusal {
    since: UnixNanos,
    why: PartitionError,
}

impl<A: Application> Partition<A> {
    pub fn new(
        partition: u32,
        shared: &Shared<A>,
        store: Arc<Store<A>>,
        log: Log,
        accepts: Vec<Loss>,
        orders: Orders,
    ) -> Result<Self, StoreError> {
        let (size, checkpoint) = (store.size()?, store.checkpoint()?);
        let standing = checkpoint.map_or_else(Standing::default, |at| Standing::of(&at, size.rows, size.bytes));
        let trouble = store.replaced().map_or_else(|| "not opened yet".to_owned(), damage::trouble);
        let standing = Standing { trouble: Some(trouble), ..standing };
        Ok(Self {
            partition,
            owner: shared.stores.owner(partition),
            application: shared.application.clone(),
            names: shared.names.clone(),
            partitions: shared.partitions,
            stores: shared.stores.clone(),
            config: shared.config,
            shown: watch::Sender::new(store.clone()),
            store,
            snapshots: shared.snapshots.clone(),
            turns: shared.turns.clone(),
            accepts,
            accepted: None,
            log,
            connection: shared.connection.clone(),
            counted: Counted::new(shared.counters.clone(), &shared.worker, partition),
            standing: watch::Sender::new(standing),
            doubt: Doubt::new(checkpoint.map_or(0, |checkpoint| checkpoint.position)),
            began: Instant::now(),
            fruitless: 0,
            careful: ONE_BY_ONE,
            refused: None,
            is_refused: watch::Sender::new(false),
            deleted_at: AtomicU64::new(0),
            orders,
            confirmed: Arc::default(),
            promoted: Mutex::default(),
            changed: shared.changed.clone(),
            stopped_at: shared.stopped_at.clone(),
        })
    }

    /// Tells where the store stands, and that nothing keeps it from going on.
    fn show(&self, phase: Phase, at: &Checkpoint, size: Size) {
        self.standing.send_modify(|standing| {
            let (committed_at, stopped_at) = (standing.committed_at, standing.stopped_at);
            *standing = Standing { committed_at, stopped_at, phase, ..Standing::of(at, size.rows, size.bytes) };
        });
    }

    fn has_committed(&self) {
        self.standing.send_modify(|standing| standing.committed_at = Some(std::time::Instant::now()));
    }

    /// What it is to do at the moment.
    fn duty(&self) -> Duty {
        *self.orders.duty.borrow()
    }

    fn promoted(&mut self) -> &mut Option<Box<Following<A>>> {
        self.promoted.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it folds behind another worker.
    fn follows(&self) -> bool {
        self.duty() == Duty::Follow
    }

    fn share(&self) -> Share {
        Share { partition: self.partition, partitions: self.partitions }
    }

    /// How far it is, for whoever wants to know.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Its store, and each that takes its place.
    pub fn stores(&self) -> watch::Receiver<Arc<Store<A>>> {
        self.shown.subscribe()
    }

    /// Through where every effect is confirmed: for whoever follows.
    pub fn confirmed(&self) -> watch::Receiver<Option<Checkpoint>> {
        self.confirmed.subscribe()
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
                        Some(loss) = self.orders.accepts.recv() => self.accepted = Some(loss),
                        () = tokio::time::sleep(LOOK_AGAIN) => {}
                    }
                }
                // It followed, and is to go on as the owner.
                Ok(()) if !stop.is_cancelled() && matches!(self.duty(), Duty::Own { .. }) => {}
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
        let verdict = why.verdict();
        self.standing.send_modify(|standing| {
            (standing.trouble, standing.refused_since, standing.verdict) = (Some(trouble), Some(since), verdict);
        });
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

    /// Whether the operator accepts a loss: from the start on, or since it is in question.
    fn accepts(&mut self, loss: Loss) -> bool {
        while let Ok(told) = self.orders.accepts.try_recv() {
            self.accepted = Some(told);
        }
        self.accepts.contains(&loss) || self.accepted == Some(loss)
    }

    /// What was accepted while it was in question is accepted, or nothing was lost: either way it is no permission for another loss.
    fn accepts_no_more(&mut self) {
        while self.orders.accepts.try_recv().is_ok() {}
        if !crate::planted!("what-was-accepted-once-is-accepted-for-good") {
            self.accepted = None;
        }
    }

    /// Folds into the store and keeps its archive until told to stop, or until the store is found damaged. Nobody else
    /// holds the store then.
    async fn run_on_store(&mut self, stop: &CancellationToken) -> Result<(), PartitionError> {
        if self.follows() {
            return self.fold_on(stop.clone()).await;
        }
        let archive = Archive::new(
            self.owner.clone(),
            self.store.clone(),
            LogReader::new(self.connection.clone(), &self.names, self.partition),
            self.snapshots.clone(),
            self.turns.clone(),
            self.config.purge_delay,
            self.counted.meters.clone(),
        );
        let archive = Arc::new(archive);
        let over = CancellationToken::new();
        let archiving = tokio::spawn(archive.clone().run(self.standing(), over.clone()));
        let stop = stop.child_token();
        let result = {
            let folding = self.fold_on(stop.clone());
            tokio::pin!(folding);
            tokio::select! {
                result = &mut folding => result,
                () = stop.cancelled() => folding.await,
                // The archive says so if it has found the store damaged: what is not committed can't be any more.
                () = over.cancelled() => {
                    stop.cancel();
                    folding.await
                }
            }
        };
        over.cancel();
        joined(archiving.await);
        if result.is_ok() && self.store.damage().is_none() && self.duty() != Duty::HandOver {
            archive.put_last(*self.stopped_at.get_or_init(Instant::now) + LAST_SNAPSHOT).await;
        }
        result
    }

    async fn fold_on(&mut self, stop: CancellationToken) -> Result<(), PartitionError> {
        let mut pauses = Pauses::reopening();
        let mut connects = self.log.connects();
        loop {
            connects.mark_unchanged();
            if self.duty() == Duty::HandOver {
                return Ok(());
            }
            let ended = match self.follows() {
                true => self.follow(&stop).await?,
                false => self.session(&stop).await?,
            };
            match ended {
                Ended::Stopped => return Ok(()),
                Ended::Lost { why, progressed } => {
                    if progressed {
                        pauses = Pauses::reopening();
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
            let pause = pauses.pause();
            let follows = self.follows();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = connects.changed() => pauses = Pauses::reopening(),
                () = self.is_to_own(), if follows => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
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
