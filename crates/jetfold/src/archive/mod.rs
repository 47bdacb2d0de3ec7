//! The archive of one partition: snapshots of its store, written beside folding, and its log purged up to them.
//!
//! Whether a snapshot is due is decided in `situation.rs`. Up to what the log may be purged, and which snapshots may be removed, is
//! decided in `retention.rs` by what the [`bucket`] tells: nothing that a worker remembers of what it has put
//! stands for the snapshot itself. `seen.rs` holds what was last seen of the bucket. [`restore`] puts a snapshot in the store's place.
//! The log is purged only up to a snapshot that was just read to its end, and whose place in the log was just compared.

pub mod bucket;
pub mod listed;
pub mod restore;
pub(crate) mod retention;
mod seen;
pub(crate) mod situation;

use crate::application::Application;
use crate::archive::bucket::{Listed, Name, PutError, Snapshots};
use crate::archive::seen::{Bucket, LookError, Seen};
use crate::archive::situation::{INTERVAL, Situation};
use crate::checkpoint::Checkpoint;
use crate::identity::{Said, judge};
use crate::log::reader::LogReader;
use crate::metrics::Meters;
use crate::nats::read::{self, NoAnswer};
use crate::standing::Standing;
use crate::store::snapshot::SnapshotError;
use crate::store::{Owner, Store};
use crate::throttle::ThrottleByCause;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// How soon after a commit the archive looks at its log, and so how often at the most.
const LOOK: Duration = Duration::from_millis(250);

/// How often it looks at its log if nothing is committed, and at the bucket if the log runs full. Else it looks at
/// the bucket every [`INTERVAL`], and whenever there may be something to do.
const IDLE: Duration = Duration::from_secs(5);

/// After a failure, so long until the next try.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// One bucket is what the archives of all partitions wait for.
static COMPLAINTS: ThrottleByCause = ThrottleByCause::new();

/// Why there is no new snapshot, or nothing was purged.
#[derive(Debug, thiserror::Error)]
enum ArchiveError {
    #[error("{0}")]
    NoAnswer(#[from] NoAnswer),
    #[error("{0}")]
    Look(#[from] LookError),
    #[error("a snapshot could not be put ({0})")]
    Put(#[from] PutError<SnapshotError>),
    #[error("a snapshot could not be read back ({0})")]
    ReadBack(String),
    #[error("{0}")]
    Store(#[from] crate::store::StoreError),
    #[error("a snapshot is gone right after it was put")]
    Gone,
    #[error("the log is not what the store was folded from: {0}")]
    NotTheStores(Said),
    #[error("the log is not what the snapshot was folded from: {0}")]
    NotTheSnapshots(Said),
}

pub struct Archive<A: Application> {
    store: Arc<Store<A>>,
    log: LogReader,
    /// Snapshots that one worker writes or reads at once: each takes a thread and its share of the processor.
    turns: Arc<Semaphore>,
    bucket: Mutex<Bucket>,
    meters: Arc<Meters>,
}

impl<A: Application> Archive<A> {
    /// `delay` is how long a snapshot takes to settle: `purge_delay` of a worker's configuration.
    pub fn new(
        owner: Owner,
        store: Arc<Store<A>>,
        log: LogReader,
        snapshots: Snapshots,
        turns: Arc<Semaphore>,
        delay: Duration,
        meters: Arc<Meters>,
    ) -> Self {
        let bucket = Mutex::new(Bucket::new(owner, log.clone(), snapshots, delay));
        Self { store, log, turns, bucket, meters }
    }

    /// Keeps the archive until `stop`, which it says itself if it finds the store damaged. `standing` tells when the
    /// store has come on.
    pub async fn run(self: Arc<Self>, mut standing: watch::Receiver<Standing>, stop: CancellationToken) {
        let began = Instant::now();
        let mut bucket = self.bucket.lock().await;
        let mut again = false;
        loop {
            let wait = async {
                // If nobody commits any more, time has to do; if publishers wait, there is none to lose.
                if !again {
                    timeout(IDLE, standing.changed()).await.ok();
                }
                tokio::time::sleep(LOOK).await;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = wait => {}
            }
            standing.mark_unchanged();
            let turn = tokio::select! {
                // What was put half-way is swept.
                () = stop.cancelled() => return,
                turn = self.turn(&mut bucket, began) => turn,
            };
            again = matches!(turn, Ok(true));
            if let Err(error) = turn {
                if self.store.damage().is_some() {
                    return stop.cancel();
                }
                if let Some(times) = COMPLAINTS.count(&error.to_string()) {
                    tracing::warn!(log = self.log.name(), times, "the archive stands still: {error}");
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(AFTER_FAILURE) => {}
                }
            }
        }
    }

    /// Writes a snapshot if one is due, purges the log if it may be, and removes what nobody needs any more.
    /// Whether the next turn is to come at once.
    async fn turn(&self, bucket: &mut Bucket, began: Instant) -> Result<bool, ArchiveError> {
        let mut situation = self.situation(bucket, began).await?;
        if !is_worth_a_look(bucket, &situation) {
            return Ok(situation.runs_full());
        }
        self.look(bucket).await?;
        situation = self.situation(bucket, began).await?;
        if let Some(position) = bucket.newly_gone() {
            tracing::warn!(log = self.log.name(), position, "a snapshot is gone from the bucket");
        }
        let mut written = None;
        if situation.is_due() {
            written = Some(self.write(bucket).await?);
            situation = self.situation(bucket, began).await?;
        }
        let purge = bucket.shelf(situation.first).purge_to(situation.position, situation.runs_full());
        if let Some(index) = purge {
            let Listed { name, checkpoint, .. } = bucket.readable(index).clone();
            let is_known = written == Some(name.clone()) || crate::planted!("a-log-is-purged-up-to-a-snapshot-unseen");
            if !is_known && !self.is_whole(bucket, &name).await? {
                return Ok(true);
            }
            // The log may have been brought back, or made anew, since: then nothing of it is this snapshot's to purge.
            self.compare(&checkpoint, ArchiveError::NotTheSnapshots).await?;
            let first = checkpoint.position;
            read::purge_before(self.log.jetstream(), self.log.name(), first).await?;
            tracing::info!(log = self.log.name(), first, "purged the log up to a snapshot");
            situation.first = first;
        }
        self.tidy(bucket, &situation).await?;
        Ok(situation.runs_full())
    }

    async fn look(&self, bucket: &mut Bucket) -> Result<(), ArchiveError> {
        Ok(bucket.look(&self.store.accepted()?).await?)
    }

    async fn situation(&self, bucket: &mut Bucket, began: Instant) -> Result<Situation, ArchiveError> {
        let position = self.store.checkpoint()?.map_or(0, |checkpoint| checkpoint.position);
        let info = read::stream(self.log.jetstream(), self.log.name()).await?.ok_or(LookError::LogGone)?;
        let first = info.state.first_sequence;
        let shelf = bucket.shelf(first);
        let newest = shelf.newest().map(|entry| entry.position);
        Ok(Situation {
            position,
            newest,
            since: shelf.since_newest().unwrap_or_else(|| began.elapsed()),
            lost: bucket.has_lost(newest),
            first,
            last: info.state.last_sequence,
            bytes: info.state.bytes,
            max_bytes: u64::try_from(info.config.max_bytes).ok(),
            max_message: self.log.connection().client.server_info().max_payload as u64,
        })
    }

    /// Sees that the log holds what a store or a snapshot was folded from.
    async fn compare(
        &self,
        checkpoint: &Checkpoint,
        differs: impl FnOnce(Said) -> ArchiveError,
    ) -> Result<(), ArchiveError> {
        let reading = self.log.reading(checkpoint, None).await?.ok_or(LookError::LogGone)?;
        judge(checkpoint, &reading).map_err(|verdict| differs(verdict.said(&A::WORDS)))
    }

    /// Writes a snapshot, reads it back, and sees that the log holds what it was folded from.
    async fn write(&self, bucket: &mut Bucket) -> Result<Name, ArchiveError> {
        let _turn = self.turns.acquire().await.expect("it is never closed");
        let view = self.store.view()?;
        if let Some(checkpoint) = view.checkpoint()? {
            // A store whose log is another is put away again and again otherwise.
            self.compare(&checkpoint, ArchiveError::NotTheStores).await?;
        }
        let name = bucket.put(view).await?;
        self.look(bucket).await?;
        match bucket.see::<A>(&name).await? {
            _ if crate::planted!("a-snapshot-is-not-read-back") => {}
            Seen::Whole => {}
            Seen::Gone => return Err(ArchiveError::Gone),
            Seen::Damaged(why) => {
                bucket.remove(&name).await?;
                return Err(ArchiveError::ReadBack(why));
            }
        }
        let Some(Listed { checkpoint, bytes, .. }) = bucket.find(&name).cloned() else {
            return Err(ArchiveError::Gone);
        };
        self.compare(&checkpoint, ArchiveError::NotTheSnapshots).await?;
        bucket.replaced(checkpoint.position);
        self.meters.wrote_a_snapshot();
        tracing::info!(log = self.log.name(), position = checkpoint.position, bytes, "wrote a snapshot");
        Ok(name)
    }

    /// Whether a snapshot that the bucket holds is whole.
    async fn is_whole(&self, bucket: &mut Bucket, name: &Name) -> Result<bool, ArchiveError> {
        let _turn = self.turns.acquire().await.expect("it is never closed");
        let seen = bucket.see::<A>(name).await?;
        if let Seen::Damaged(why) = &seen {
            tracing::error!(log = self.log.name(), snapshot = %name, "a snapshot is of no use, and nothing is purged up to it: {why}");
        }
        Ok(seen == Seen::Whole)
    }

    /// Removes what nobody needs any more.
    async fn tidy(&self, bucket: &mut Bucket, situation: &Situation) -> Result<(), ArchiveError> {
        let mut shelf = bucket.shelf(situation.first);
        if shelf.removable().iter().any(|removal| removal.superseded)
            && let Some(furthest) = shelf.furthest_settled()
            && !bucket.is_whole(bucket.name(furthest))
        {
            let name = bucket.name(furthest).clone();
            if !self.is_whole(bucket, &name).await? {
                return Ok(());
            }
            // That may have taken its time.
            self.look(bucket).await?;
            shelf = bucket.shelf(situation.first);
        }
        let is_safe = shelf.furthest_settled().is_some_and(|furthest| bucket.is_whole(bucket.name(furthest)));
        let removals = shelf.removable().into_iter().filter(|removal| is_safe || !removal.superseded);
        let removals: Vec<_> =
            removals.map(|removal| (bucket.name(removal.index).clone(), shelf.entries[removal.index])).collect();
        for (name, entry) in removals {
            if bucket.age().is_none_or(|age| age >= shelf.good_for()) {
                break;
            }
            bucket.remove(&name).await?;
            if !entry.is_of_this_log() {
                let log = self.log.name();
                tracing::info!(log, snapshot = %name, what = ?entry.kind, "removed a snapshot that is of no use here");
            }
        }
        Ok(())
    }

    /// Puts the store away as it is, at a clean stop.
    pub async fn put_last(&self, deadline: Instant) {
        let mut bucket = self.bucket.lock().await;
        match timeout_at(deadline, self.put_if_further(&mut bucket)).await {
            Ok(Ok(false)) => return,
            Ok(Ok(true)) => {}
            Ok(Err(error)) => return tracing::warn!(log = self.log.name(), "no snapshot at the end: {error}"),
            Err(_) => {
                let log = self.log.name();
                return tracing::warn!(log, "no snapshot at the end: there was no time for it");
            }
        }
        let tidied = timeout_at(deadline, async {
            let situation = self.situation(&mut bucket, deadline).await?;
            self.tidy(&mut bucket, &situation).await
        });
        if !matches!(tidied.await, Ok(Ok(()))) {
            tracing::debug!(log = self.log.name(), "older snapshots are left to the next start");
        }
    }

    /// Whether the store was further than what is put away.
    async fn put_if_further(&self, bucket: &mut Bucket) -> Result<bool, ArchiveError> {
        let position = self.store.checkpoint()?.map_or(0, |checkpoint| checkpoint.position);
        if position == 0 {
            return Ok(false);
        }
        self.look(bucket).await?;
        let newest = bucket.shelf(0).newest().map_or(0, |entry| entry.position);
        if newest >= position {
            return Ok(false);
        }
        self.write(bucket).await?;
        Ok(true)
    }
}

/// Whether the bucket is to be looked at: what was listed last says that something is to be done by now, or it is old.
fn is_worth_a_look(bucket: &Bucket, situation: &Situation) -> bool {
    let Some(age) = bucket.age() else { return true };
    let shelf = bucket.shelf(situation.first);
    age >= if situation.runs_full() { IDLE } else { INTERVAL }
        || situation.is_due()
        || shelf.purge_to(situation.position, situation.runs_full()).is_some()
        || !shelf.removable().is_empty()
}
