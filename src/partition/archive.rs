//! The archive of one partition: snapshots of its store, written beside folding, and its log purged up to them.
//!
//! A snapshot counts only once it was read back whole, and the log was seen to hold what its store had folded. The log
//! is purged up to one that is old enough for the broker to have it on disk for certain; where the log runs full, up to
//! the newest one at once, so that publishers never wait for ever.

use crate::bus::log::LogReader;
use crate::bus::publish::Throttle;
use crate::bus::read::{self, NoAnswer};
use crate::bus::snapshots::{FetchError, Listed, Name, PutError, Snapshots};
use crate::checkpoint::{Checkpoint, Position, Verdict, judge};
use crate::crash_point;
use crate::snapshot::{self, SnapshotError};
use crate::standing::Standing;
use crate::store::{Owner, Store};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// How soon after a commit the archive looks at its log, and so how often at the most.
const LOOK: Duration = Duration::from_millis(250);

/// How often it looks where nothing is committed.
const IDLE: Duration = Duration::from_secs(5);

/// A store that has come on is put away this long after the last snapshot.
const INTERVAL: Duration = Duration::from_secs(60);

/// Once the log holds more than this part of its bound beyond the last snapshot, the next is due.
const GROWTH: u64 = 4;

/// A log of which no more than this part is left runs full: there is no time to wait for old snapshots.
const RUNS_FULL: u64 = 4;

/// Snapshots kept of one partition, besides those that wait to settle.
const KEPT: usize = 2;

/// With a log that runs full, a snapshot is due once it would free this part of it.
const GAIN: u64 = 16;

/// After a failure, so long until the next try.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// What is known when the archive looks.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// The committed position of the store.
    pub position: Position,
    /// The position of the newest snapshot that counts, where there is one, and how long ago it was written; else how
    /// long ago the worker began.
    pub newest: Option<Position>,
    pub since: Duration,
    /// The first sequence that the log holds, the last, its bytes, and their bound, where it has one.
    pub first: Position,
    pub last: Position,
    pub bytes: u64,
    pub max_bytes: Option<u64>,
    /// Bytes of the largest message.
    pub max_message: u64,
}

impl Situation {
    /// Whether the log is about to push back on its publishers.
    pub fn runs_full(&self) -> bool {
        let full = |most: u64| self.bytes >= most - most / RUNS_FULL || self.bytes + self.max_message > most;
        self.max_bytes.is_some_and(full)
    }

    /// Whether a snapshot is to be written.
    pub fn is_due(&self) -> bool {
        let newest = self.newest.unwrap_or(0);
        if newest >= self.position {
            return false;
        }
        if self.since >= INTERVAL {
            return true;
        }
        // Bytes that are folded beyond the newest snapshot, as if all messages were of one size.
        let held = (self.last + 1).saturating_sub(self.first).max(1);
        let beyond = (self.position - newest).min(held);
        let folded = u128::from(self.bytes) * u128::from(beyond) / u128::from(held);
        let part = |most: u64, of: u64| folded >= u128::from(most / of);
        let enough = |most| part(most, GROWTH) || self.runs_full() && (part(most, GAIN) || self.position == self.last);
        self.max_bytes.is_some_and(enough)
    }
}

/// A snapshot that counts.
#[derive(Clone, Debug)]
struct Written {
    name: Name,
    checkpoint: Checkpoint,
    at: Instant,
}

impl Written {
    fn position(&self) -> Position {
        self.checkpoint.position
    }

    /// Whether it is old enough for the broker to have it on disk for certain.
    fn has_settled(&self, now: Instant, delay: Duration) -> bool {
        now.duration_since(self.at) >= delay
    }
}

/// The snapshot up to which the log is to be purged, the oldest of `written` first: the newest that has settled by `now`,
/// which takes `delay`. Where the log runs full, the one before the newest, and where that frees nothing, the newest.
fn purge_to(written: &[Written], now: Instant, delay: Duration, first: Position, runs_full: bool) -> Option<&Written> {
    let frees = |written: &&Written| written.position() > first;
    let settled = written.iter().rfind(|written| written.has_settled(now, delay)).filter(frees);
    let newest = written.len().saturating_sub(KEPT);
    let at_once = || written[newest..].iter().find(frees);
    settled.or_else(|| if runs_full { at_once() } else { None })
}

/// Of the snapshots written, the oldest first, those to keep: the newest two; the newest that has settled; and the oldest
/// that has not, or none ever would.
fn to_keep(written: Vec<Written>, now: Instant, delay: Duration) -> Vec<Written> {
    let newest = written.len().saturating_sub(KEPT);
    let settled = written.iter().rposition(|written| written.has_settled(now, delay));
    let settling = written.iter().position(|written| !written.has_settled(now, delay));
    let kept = |n: usize| n >= newest || Some(n) == settled || Some(n) == settling;
    written.into_iter().enumerate().filter(|(n, _)| kept(*n)).map(|(_, written)| written).collect()
}

/// Why there is no new snapshot that counts.
#[derive(Debug, thiserror::Error)]
enum ArchiveError {
    #[error("{0}")]
    NoAnswer(#[from] NoAnswer),
    #[error("a snapshot could not be put ({0})")]
    Put(#[from] PutError<SnapshotError>),
    #[error("a snapshot could not be read back ({0})")]
    ReadBack(#[from] FetchError<SnapshotError>),
    #[error("{0}")]
    Store(#[from] crate::store::StoreError),
    #[error("a snapshot is gone right after it was put")]
    Gone,
    #[error("the log is not what the snapshot was folded from: {0}")]
    Verdict(Verdict),
    #[error("the log is gone")]
    LogGone,
}

pub struct Archive {
    owner: Owner,
    store: Arc<Store>,
    log: LogReader,
    snapshots: Snapshots,
    /// Snapshots that one worker writes at once: each takes a thread and its share of the processor.
    turns: Arc<Semaphore>,
    /// How long a snapshot takes to settle: see [`Config::purge_delay`](super::Config::purge_delay).
    delay: Duration,
    /// A snapshot that was put and could not be read back.
    unseen: Mutex<Option<Name>>,
}

impl Archive {
    pub fn new(
        owner: Owner,
        store: Arc<Store>,
        log: LogReader,
        snapshots: Snapshots,
        turns: Arc<Semaphore>,
        delay: Duration,
    ) -> Self {
        Self { owner, store, log, snapshots, turns, delay, unseen: Mutex::new(None) }
    }

    /// Keeps the archive until `stop`, which it says itself where it finds the store damaged. `standing` tells how far the
    /// store is.
    pub async fn run(self: Arc<Self>, mut standing: watch::Receiver<Standing>, stop: CancellationToken) {
        let began = Instant::now();
        let complaints = Throttle::default();
        let mut written: Vec<Written> = Vec::new();
        let mut runs_full = false;
        loop {
            let wait = async {
                // Where nobody commits any more, time has to do; where publishers wait, there is none to lose.
                if !runs_full {
                    timeout(IDLE, standing.changed()).await.ok();
                }
                tokio::time::sleep(LOOK).await;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = wait => {}
            }
            let position = standing.borrow_and_update().position;
            let turn = tokio::select! {
                // What was put half-way is swept.
                () = stop.cancelled() => return,
                turn = self.turn(position, began, &mut written) => turn,
            };
            runs_full = matches!(turn, Ok(true));
            if let Err(error) = turn {
                if self.store.damage().is_some() {
                    return stop.cancel();
                }
                if complaints.is_due() {
                    tracing::warn!(log = self.log.name(), "the archive stands still: {error}");
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(AFTER_FAILURE) => {}
                }
            }
        }
    }

    /// Writes a snapshot where one is due, and purges the log where it may be. Whether it runs full.
    async fn turn(&self, position: Position, began: Instant, written: &mut Vec<Written>) -> Result<bool, ArchiveError> {
        let mut situation = self.situation(position, began, written).await?;
        if situation.is_due() {
            let put = self.write().await?;
            let (position, bytes) = (put.checkpoint.position, put.bytes);
            tracing::info!(log = self.log.name(), position, bytes, "wrote a snapshot");
            written.push(Written { name: put.name, checkpoint: put.checkpoint, at: Instant::now() });
            *written = to_keep(std::mem::take(written), Instant::now(), self.delay);
            self.tidy(written).await?;
            situation = self.situation(position, began, written).await?;
        }
        let purge = purge_to(written, Instant::now(), self.delay, situation.first, situation.runs_full());
        if let Some(Written { checkpoint, .. }) = purge {
            // The log may have been brought back, or made anew, since: then nothing of it is this snapshot's to purge.
            if let Err(error) = self.compare(checkpoint).await {
                if let ArchiveError::Verdict(_) = error {
                    written.clear();
                }
                return Err(error);
            }
            let first = checkpoint.position;
            read::purge_before(self.log.jetstream(), self.log.name(), first).await?;
            tracing::info!(log = self.log.name(), first, "purged the log up to a snapshot");
        }
        Ok(situation.runs_full())
    }

    /// Sees that the log holds what a snapshot was folded from.
    async fn compare(&self, checkpoint: &Checkpoint) -> Result<(), ArchiveError> {
        let reading = self.log.reading(checkpoint, None).await?.ok_or(ArchiveError::LogGone)?;
        judge(checkpoint, &reading).map_err(ArchiveError::Verdict)
    }

    async fn situation(
        &self,
        position: Position,
        began: Instant,
        written: &[Written],
    ) -> Result<Situation, ArchiveError> {
        let info = read::stream(self.log.jetstream(), self.log.name()).await?.ok_or(ArchiveError::LogGone)?;
        let newest = written.last();
        Ok(Situation {
            position,
            newest: newest.map(Written::position),
            since: newest.map_or(began, |written| written.at).elapsed(),
            first: info.state.first_sequence,
            last: info.state.last_sequence,
            bytes: info.state.bytes,
            max_bytes: u64::try_from(info.config.max_bytes).ok(),
            max_message: self.log.connection().client.server_info().max_payload as u64,
        })
    }

    /// Writes a snapshot, reads it back, and sees that the log holds what it was folded from.
    async fn write(&self) -> Result<Listed, ArchiveError> {
        let _turn = self.turns.acquire().await.expect("it is never closed");
        let mut unseen = self.unseen.lock().await;
        if let Some(name) = &*unseen {
            // One at the most is left of those that could not be read back.
            let listed = self.snapshots.list(self.owner.partition).await?;
            if let Some(listed) = listed.iter().find(|listed| listed.name == *name) {
                self.snapshots.remove(listed).await?;
            }
        }
        let name = self.put().await?;
        *unseen = Some(name.clone());
        let listed = self.snapshots.list(self.owner.partition).await?;
        let put = listed.into_iter().find(|listed| listed.name == name).ok_or(ArchiveError::Gone)?;
        self.see(&put).await?;
        *unseen = None;
        Ok(put)
    }

    async fn put(&self) -> Result<Name, ArchiveError> {
        let view = self.store.view()?;
        let checkpoint = view.checkpoint()?.ok_or(PutError::Write(SnapshotError::NothingFolded))?;
        let accepted = view.accepted()?;
        let name = Name::new(self.owner.partition, checkpoint.position);
        let owner = self.owner.clone();
        let write = move |out: &mut dyn Write| {
            snapshot::write(&view, &owner, out)?;
            crash_point::reached("snapshot");
            Ok(())
        };
        self.snapshots.put(&name, &checkpoint, &accepted, write).await?;
        Ok(name)
    }

    async fn see(&self, put: &Listed) -> Result<(), ArchiveError> {
        let (owner, checkpoint) = (self.owner.clone(), put.checkpoint);
        let read = move |input: &mut dyn std::io::Read| {
            snapshot::read(input, &owner, &checkpoint)?.try_for_each(|row| row.map(|_| ()))
        };
        self.snapshots.fetch(put, read).await?;
        self.compare(&put.checkpoint).await
    }

    /// Keeps the two furthest snapshots of this log, and those of `written`. Those of a log that it is not stay for as
    /// long as no snapshot of this one has settled: somebody may bring the other back.
    async fn tidy(&self, written: &[Written]) -> Result<(), ArchiveError> {
        let settled = written.iter().any(|written| written.has_settled(Instant::now(), self.delay));
        let mut ours = 0;
        for listed in self.snapshots.list(self.owner.partition).await? {
            let Some(reading) = self.log.reading(&listed.checkpoint, None).await? else { break };
            let keep = match judge(&listed.checkpoint, &reading) {
                // One that the log was purged beyond is of this log all the same.
                Ok(()) | Err(Verdict::LogTruncated { .. }) => {
                    ours += 1;
                    ours <= KEPT || written.iter().any(|written| written.name == listed.name)
                }
                Err(_) => !settled,
            };
            if !keep {
                self.snapshots.remove(&listed).await?;
            }
        }
        Ok(())
    }

    /// Puts the store away as it is, at a clean stop.
    pub async fn put_last(&self, deadline: Instant) {
        match timeout_at(deadline, self.put_if_further()).await {
            Ok(Ok(Some(put))) => tracing::info!(
                log = self.log.name(),
                position = put.checkpoint.position,
                bytes = put.bytes,
                "wrote a snapshot"
            ),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::warn!(log = self.log.name(), "no snapshot at the end: {error}"),
            Err(_) => tracing::warn!(log = self.log.name(), "no snapshot at the end: there was no time for it"),
        }
    }

    async fn put_if_further(&self) -> Result<Option<Listed>, ArchiveError> {
        let position = self.store.checkpoint()?.map_or(0, |checkpoint| checkpoint.position);
        if position == 0 {
            return Ok(None);
        }
        for listed in self.snapshots.list(self.owner.partition).await? {
            if listed.name.position >= position && self.compare(&listed.checkpoint).await.is_ok() {
                return Ok(None);
            }
        }
        let put = self.write().await?;
        self.tidy(&[]).await?;
        Ok(Some(put))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const DELAY: Duration = Duration::from_secs(300);

    fn situation() -> Situation {
        Situation {
            position: 100,
            newest: Some(90),
            since: Duration::from_secs(1),
            first: 1,
            last: 100,
            bytes: 10 * MIB,
            max_bytes: Some(100 * MIB),
            max_message: MIB,
        }
    }

    #[test]
    fn a_snapshot_is_due_after_a_minute_of_progress_or_a_quarter_of_the_log() {
        assert!(!situation().is_due());
        assert!(Situation { since: INTERVAL, ..situation() }.is_due());
        assert!(!Situation { since: INTERVAL, newest: Some(100), ..situation() }.is_due(), "no progress");
        assert!(!Situation { newest: None, position: 0, since: INTERVAL, ..situation() }.is_due(), "nothing folded");
        // A tenth of the messages was folded since.
        assert!(!Situation { bytes: 60 * MIB, ..situation() }.is_due());
        assert!(Situation { newest: Some(50), bytes: 60 * MIB, ..situation() }.is_due());
        assert!(Situation { newest: None, bytes: 26 * MIB, ..situation() }.is_due());
        assert!(!Situation { newest: None, max_bytes: None, bytes: 26 * MIB, ..situation() }.is_due());
        // A backlog is not folded yet: a snapshot would not help.
        assert!(!Situation { newest: Some(40), position: 41, last: 100, bytes: 60 * MIB, ..situation() }.is_due());
        // Purged up to the snapshot, it counts what is left.
        assert!(Situation { newest: Some(90), first: 90, bytes: 30 * MIB, ..situation() }.is_due());
    }

    #[test]
    fn a_log_that_runs_full_gets_one_as_soon_as_it_frees_something() {
        assert!(!situation().runs_full());
        let full = Situation { bytes: 80 * MIB, newest: Some(90), position: 91, ..situation() };
        assert!(full.runs_full() && !full.is_due(), "a hundredth of it is not worth it");
        assert!(Situation { position: 98, ..full }.is_due());
        assert!(Situation { newest: Some(99), position: 100, ..full }.is_due(), "nothing more to fold: it has to do");
        // No room for the largest message is as full as it gets.
        assert!(
            Situation { bytes: 2 * MIB, max_bytes: Some(3 * MIB), max_message: 2 * MIB, ..situation() }.runs_full()
        );
        assert!(!Situation { max_bytes: None, bytes: 1 << 50, ..situation() }.runs_full());
    }

    fn written(position: Position, at: Instant) -> Written {
        let checkpoint = Checkpoint { position, ..Checkpoint::start_of(1) };
        Written { name: Name::new(0, position), checkpoint, at }
    }

    #[test]
    fn the_log_is_purged_to_what_has_settled_and_at_once_only_where_it_runs_full() {
        let now = Instant::now() + DELAY * 3;
        let some = [written(10, now - DELAY), written(20, now - DELAY / 2), written(30, now)];
        let purge = |written: &[Written], first, runs_full| -> Option<Position> {
            purge_to(written, now, DELAY, first, runs_full).map(Written::position)
        };
        assert_eq!(purge(&some, 1, false), Some(10));
        assert_eq!(purge(&some, 10, false), None);
        assert_eq!(purge(&some, 10, true), Some(20), "the one before the newest first");
        assert_eq!(purge(&some, 20, true), Some(30));
        assert_eq!(purge(&some, 30, true), None);
        assert_eq!(purge(&[], 1, true), None);
    }

    #[test]
    fn with_a_snapshot_a_minute_one_is_always_on_its_way_to_settle() {
        let began = Instant::now();
        let mut kept = Vec::new();
        let mut purged = 0;
        for minute in 1..60 {
            let now = began + INTERVAL * minute;
            kept.push(written(u64::from(minute), now));
            kept = to_keep(kept, now, DELAY);
            assert!(kept.len() <= KEPT + 2);
            assert!(
                kept.iter().rev().take(2).map(Written::position).eq([u64::from(minute), u64::from(minute.max(2)) - 1])
                    || minute == 1
            );
            purged = purge_to(&kept, now, DELAY, purged, false).map_or(purged, Written::position);
            // Settled after the delay, and then the next has to wait as long.
            assert!(u64::from(minute) - purged <= 12, "{purged} at {minute}");
        }
        assert!(purged > 40);
    }
}
