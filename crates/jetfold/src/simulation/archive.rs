//! What an owner does beside folding: snapshots of its store, and a log purged up to one that has settled.

use super::broker::Snapshot;
use super::turns::turn;
use super::worker::{Again, Asked, Duty, Post};
use super::world::{Fault, World};
use crate::archive::retention::{Entry, Kind, Shelf};
use crate::archive::situation::Situation;
use crate::checkpoint::{Checkpoint, Position};
use crate::identity::{Verdict, judge};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a snapshot takes to settle, in milliseconds.
pub const DELAY: u64 = 2_000;

/// Bytes of any message, and of the log.
const MESSAGE: u64 = 100;
pub const MOST_MESSAGES: u64 = 24;

/// The bucket, as it was listed last.
#[derive(Default)]
struct Bucket {
    held: Vec<(Snapshot, Entry)>,
    listed_at: i64,
    listed_now: u64,
    /// The furthest that there was to go on from.
    newest: Option<Position>,
    whole: BTreeSet<u64>,
    damaged: BTreeSet<u64>,
}

impl Bucket {
    fn shelf(&self, first: Position, now: u64) -> Shelf {
        let now = self.listed_at + i64::try_from((now - self.listed_now) * 1_000_000).expect("not so long");
        let entries = self.held.iter().map(|(_, entry)| *entry).collect();
        Shelf { entries, now, delay: Duration::from_millis(DELAY), first }
    }
}

/// Until the process dies.
pub async fn keep(at: Post) {
    let (mut bucket, began) = (Bucket::default(), at.now());
    loop {
        let pause = 200 + at.world.borrow_mut().dice.below(1000) as u64;
        at.sleep(pause).await;
        if matches!(at.duty.get(), Duty::Own { .. }) && at.refused.get().is_none() {
            turn_of(&at, &mut bucket, began).await.ok();
        }
    }
}

async fn turn_of(at: &Post, bucket: &mut Bucket, began: u64) -> Asked<()> {
    let seen_at = at.world.borrow().snapshots_lost();
    look(at, bucket).await?;
    let mut situation = situation(at, bucket, began).await?;
    let mut written = None;
    if situation.is_due() {
        written = Some(write(at, bucket).await?);
        situation = self::situation(at, bucket, began).await?;
    }
    let shelf = bucket.shelf(situation.first, at.now());
    if let Some(index) = shelf.purge_to(situation.position, situation.runs_full()) {
        let (snapshot, _) = bucket.held[index].clone();
        if written != Some(snapshot.name) && !is_whole(at, bucket, snapshot.name).await? {
            return Ok(());
        }
        let checkpoint = snapshot.disk.checkpoint.expect("it was listed");
        compare(at, &checkpoint).await?;
        let first = checkpoint.position;
        at.ask(|world| world.purge(first, seen_at)).await?;
        at.tell(format_args!("purged the log up to {first}"));
        situation.first = first;
    }
    tidy(at, bucket, &situation).await
}

async fn situation(at: &Post, bucket: &mut Bucket, began: u64) -> Asked<Situation> {
    let state = at.log_state().await?;
    let shelf = bucket.shelf(state.first, at.now());
    let newest = shelf.newest().map(|entry| entry.position);
    bucket.newest = bucket.newest.max(newest);
    let messages = (state.last + 1).saturating_sub(state.first);
    Ok(Situation {
        position: at.disk.borrow().position(),
        newest,
        since: shelf.since_newest().unwrap_or(Duration::from_millis(at.now() - began)),
        lost: newest < bucket.newest,
        first: state.first,
        last: state.last,
        bytes: messages * MESSAGE,
        max_bytes: Some(MOST_MESSAGES * MESSAGE),
        max_message: MESSAGE,
    })
}

/// Lists the snapshots anew.
async fn look(at: &Post, bucket: &mut Bucket) -> Asked<()> {
    let (listed, listed_at) = at.ask(|world| (world.bucket.clone(), world.stamp())).await?;
    let listed_now = at.now();
    let mut held = Vec::new();
    for snapshot in listed {
        let checkpoint = snapshot.disk.checkpoint.expect("what is put away has begun");
        let reading = at.reading(&checkpoint, None).await?;
        let is_ours = matches!(judge(&checkpoint, &reading), Ok(()) | Err(Verdict::LogTruncated { .. }));
        let kind = match is_ours {
            _ if bucket.damaged.contains(&snapshot.name) => Kind::Damaged,
            false => Kind::OtherLog,
            true if snapshot.disk.accepted == at.disk.borrow().accepted => Kind::Own,
            true => Kind::OtherHistory,
        };
        let entry = Entry { position: checkpoint.position, put_at: snapshot.put_at, kind };
        held.push((snapshot, entry));
    }
    held.sort_by_key(|(_, entry)| Reverse((entry.position, entry.put_at)));
    (bucket.held, bucket.listed_at, bucket.listed_now) = (held, listed_at, listed_now);
    Ok(())
}

async fn compare(at: &Post, checkpoint: &Checkpoint) -> Asked<()> {
    let reading = at.reading(checkpoint, None).await?;
    judge(checkpoint, &reading).map_err(|_| Again)
}

async fn write(at: &Post, bucket: &mut Bucket) -> Asked<u64> {
    let view = at.disk.borrow().clone();
    let Some(checkpoint) = view.checkpoint else { return Err(Again) };
    compare(at, &checkpoint).await?;
    turn().await;
    let name = {
        let world = &mut *at.world.borrow_mut();
        let (name, put_at) = (world.name_snapshot(), world.stamp());
        world.bucket.push(Snapshot { name, disk: view, put_at, is_damaged: false });
        name
    };
    look(at, bucket).await?;
    if !is_whole(at, bucket, name).await? {
        at.ask(|world| world.bucket.retain(|snapshot| snapshot.name != name)).await?;
        return Err(Again);
    }
    compare(at, &checkpoint).await?;
    bucket.newest = Some(checkpoint.position);
    at.tell(format_args!("wrote a snapshot at {}", checkpoint.position));
    Ok(name)
}

/// Reads a snapshot to its end.
async fn is_whole(at: &Post, bucket: &mut Bucket, name: u64) -> Asked<bool> {
    let find = |world: &mut World| world.bucket.iter().find(|found| found.name == name).map(|found| found.is_damaged);
    let found = at.ask(find).await?;
    match found {
        Some(false) => {
            let put_at = bucket.held.iter().find(|(held, _)| held.name == name).map_or(0, |(held, _)| held.put_at);
            let now = bucket.shelf(0, at.now()).now;
            if now.saturating_sub(put_at) >= i64::try_from(DELAY * 1_000_000).expect("not so long") {
                bucket.whole.insert(name);
            }
        }
        Some(true) => {
            bucket.damaged.insert(name);
            for (held, entry) in &mut bucket.held {
                if held.name == name {
                    entry.kind = Kind::Damaged;
                }
            }
        }
        None => bucket.held.retain(|(held, _)| held.name != name),
    }
    Ok(found == Some(false))
}

/// Removes what nobody needs any more.
async fn tidy(at: &Post, bucket: &mut Bucket, situation: &Situation) -> Asked<()> {
    let mut shelf = bucket.shelf(situation.first, at.now());
    if shelf.removable().iter().any(|removal| removal.superseded)
        && let Some(furthest) = shelf.furthest_settled()
        && !bucket.whole.contains(&bucket.held[furthest].0.name)
    {
        let name = bucket.held[furthest].0.name;
        if !is_whole(at, bucket, name).await? {
            return Ok(());
        }
        look(at, bucket).await?;
        shelf = bucket.shelf(situation.first, at.now());
    }
    let is_safe = shelf.furthest_settled().is_some_and(|index| bucket.whole.contains(&bucket.held[index].0.name));
    let removals = shelf.removable().into_iter().filter(|removal| is_safe || !removal.superseded);
    let names: Vec<_> = removals.map(|removal| bucket.held[removal.index].0.name).collect();
    for name in names {
        if u128::from(at.now() - bucket.listed_now) >= shelf.good_for().as_millis() {
            break;
        }
        at.ask(|world| world.bucket.retain(|snapshot| snapshot.name != name)).await?;
        bucket.held.retain(|(held, _)| held.name != name);
    }
    Ok(())
}

impl World {
    /// How many snapshots were lost or damaged so far.
    fn snapshots_lost(&self) -> u64 {
        let count = |fault| self.happened.get(&fault).copied().unwrap_or(0);
        count(Fault::SnapshotLost) + count(Fault::SnapshotDamaged)
    }

    /// The log is purged: a snapshot must reach there, unless one was lost since it was looked for.
    fn purge(&mut self, first: Position, seen_at: u64) {
        let log = (self.log.created, self.log.mark(first));
        let reaches = |snapshot: &&Snapshot| {
            let at = snapshot.disk.checkpoint.expect("it has begun");
            !snapshot.is_damaged && at.position >= first
        };
        let is_kept = self.bucket.iter().any(|snapshot| reaches(&snapshot));
        if !is_kept && self.snapshots_lost() == seen_at && first > self.log.first {
            self.breaks("a log is purged only up to a snapshot that is there", format!("to {first} of {log:?}"));
        }
        self.log.purge_before(first);
    }
}
