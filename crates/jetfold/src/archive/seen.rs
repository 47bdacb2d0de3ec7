//! One partition's snapshots in the bucket, as a worker sees them: listed, compared with the log, and read to their ends.

use crate::application::Application;
use crate::archive::bucket::{FetchError, Listed, Name, PutError, Snapshots, Unreadable};
use crate::archive::retention::{Entry, Kind, Shelf};
use crate::checkpoint::Position;
use crate::crash_point;
use crate::identity::accept::Accepted;
use crate::identity::{Verdict, judge};
use crate::log::reader::LogReader;
use crate::nats::read::NoAnswer;
use crate::store::snapshot::{self, SnapshotError};
use crate::store::{Owner, StoreError, View};
use crate::time::{UnixNanos, age};
use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::time::Duration;
use tokio::time::Instant;

/// How long a snapshot is known to be of the log after it was compared with it. What follows from that is compared once
/// more before the log is purged; and comparing takes reading a whole batch.
const COMPARED_FOR: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum LookError {
    #[error("{0}")]
    NoAnswer(#[from] NoAnswer),
    #[error("the log is gone")]
    LogGone,
}

/// What came of reading a snapshot to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Whole,
    /// Why it can't be restored.
    Damaged(String),
    /// It is in the bucket no more.
    Gone,
}

/// A snapshot that the bucket holds.
enum Held {
    Readable(Listed),
    Unreadable(Unreadable),
}

impl Held {
    fn name(&self) -> &Name {
        match self {
            Self::Readable(listed) => &listed.name,
            Self::Unreadable(unreadable) => &unreadable.name,
        }
    }
}

pub struct Bucket {
    owner: Owner,
    log: LogReader,
    snapshots: Snapshots,
    /// How long a snapshot takes to settle.
    delay: Duration,
    /// When it was listed, by the bucket's clock and by this machine's; `None` before the first time.
    listed_at: Option<(UnixNanos, Instant)>,
    /// The furthest first.
    held: Vec<(Held, Entry)>,
    /// The furthest that [`Shelf::newest`] was, since the worker has last put one.
    newest: Option<Position>,
    /// The furthest that was lost, once that was told.
    gone: Option<Position>,
    /// Whether each was found to be of the log, and when.
    compared: HashMap<Name, (bool, Instant)>,
    /// Those that were found to be damaged. There is no way back.
    damaged: HashSet<Name>,
    /// Those that were read to their ends when they had settled.
    whole: HashSet<Name>,
}

impl Bucket {
    pub fn new(owner: Owner, log: LogReader, snapshots: Snapshots, delay: Duration) -> Self {
        Self {
            owner,
            log,
            snapshots,
            delay,
            listed_at: None,
            held: Vec::new(),
            newest: None,
            gone: None,
            compared: HashMap::new(),
            damaged: HashSet::new(),
            whole: HashSet::new(),
        }
    }

    /// Lists the snapshots anew. `accepted` is the history of the worker's own store.
    pub async fn look(&mut self, accepted: &[Accepted]) -> Result<(), LookError> {
        let listed_at = Instant::now();
        let look = self.snapshots.look(self.owner.partition).await?;
        let mut held = Vec::new();
        for listed in look.listed {
            let kind = match self.is_of_this_log(&listed).await? {
                _ if self.damaged.contains(&listed.name) => Kind::Damaged,
                false => Kind::OtherLog,
                true if listed.accepted == accepted => Kind::Own,
                true => Kind::OtherHistory,
            };
            let entry = Entry { position: listed.checkpoint.position, put_at: listed.put_at, kind };
            held.push((Held::Readable(listed), entry));
        }
        for unreadable in look.unreadable {
            let (position, put_at) = (unreadable.name.position, unreadable.put_at);
            held.push((Held::Unreadable(unreadable), Entry { position, put_at, kind: Kind::OtherFormat }));
        }
        held.sort_by_key(|(_, entry)| std::cmp::Reverse((entry.position, entry.put_at)));
        let names: HashSet<&Name> = held.iter().map(|(held, _)| held.name()).collect();
        self.compared.retain(|name, _| names.contains(name));
        self.damaged.retain(|name| names.contains(name));
        self.whole.retain(|name| names.contains(name));
        (self.held, self.listed_at) = (held, Some((look.at, listed_at)));
        Ok(())
    }

    /// Whether the log holds what a snapshot was folded from, or was purged beyond it.
    async fn is_of_this_log(&mut self, listed: &Listed) -> Result<bool, LookError> {
        if let Some((found, at)) = self.compared.get(&listed.name)
            && at.elapsed() < COMPARED_FOR
        {
            return Ok(*found);
        }
        let reading = self.log.reading(&listed.checkpoint, None).await?.ok_or(LookError::LogGone)?;
        let found = matches!(judge(&listed.checkpoint, &reading), Ok(()) | Err(Verdict::LogTruncated { .. }));
        self.compared.insert(listed.name.clone(), (found, Instant::now()));
        Ok(found)
    }

    /// How long ago it was listed.
    pub fn age(&self) -> Option<Duration> {
        self.listed_at.map(|(_, at)| at.elapsed())
    }

    /// What was listed, at this moment by the bucket's clock. `first` is the first sequence that the log holds.
    pub fn shelf(&self, first: Position) -> Shelf {
        let (listed_at, age) = self.listed_at.map_or((0, Duration::ZERO), |(listed_at, at)| (listed_at, at.elapsed()));
        let now = listed_at.saturating_add(UnixNanos::try_from(age.as_nanos()).unwrap_or(UnixNanos::MAX));
        Shelf { entries: self.held.iter().map(|(_, entry)| *entry).collect(), now, delay: self.delay, first }
    }

    /// Whether the bucket held one beyond `newest`, the furthest to go on from, and has lost it.
    pub fn has_lost(&mut self, newest: Option<Position>) -> bool {
        self.newest = self.newest.max(newest);
        newest < self.newest
    }

    /// The position of the furthest that was lost, if the bucket holds nothing of that position any more. Told once.
    pub fn newly_gone(&mut self) -> Option<Position> {
        let holds = |position| self.held.iter().any(|(_, entry)| entry.position == position);
        let gone = self.newest.filter(|position| !holds(*position));
        let is_new = gone != self.gone;
        self.gone = gone;
        gone.filter(|_| is_new)
    }

    /// A snapshot of the worker's own store was put at `position`: nothing is lost any more.
    pub fn replaced(&mut self, position: Position) {
        self.newest = Some(position);
    }

    /// The name of an entry of the [shelf](Self::shelf).
    pub fn name(&self, index: usize) -> &Name {
        self.held[index].0.name()
    }

    /// An entry of the [shelf](Self::shelf) that is this version's own.
    pub fn readable(&self, index: usize) -> &Listed {
        match &self.held[index].0 {
            Held::Readable(listed) => listed,
            Held::Unreadable(unreadable) => unreachable!("{} is of another format", unreadable.name),
        }
    }

    pub fn find(&self, name: &Name) -> Option<&Listed> {
        self.held.iter().find_map(|(held, _)| match held {
            Held::Readable(listed) if listed.name == *name => Some(listed),
            _ => None,
        })
    }

    /// Whether a snapshot was read to its end after it had settled.
    pub fn is_whole(&self, name: &Name) -> bool {
        self.whole.contains(name)
    }

    /// Reads a snapshot to its end.
    pub async fn see<A: Application>(&mut self, name: &Name) -> Result<Seen, NoAnswer> {
        let Some(listed) = self.find(name).cloned() else { return Ok(Seen::Gone) };
        let has_settled = age(listed.put_at, self.shelf(0).now) >= self.delay;
        let (owner, checkpoint) = (self.owner.clone(), listed.checkpoint);
        let read = move |input: &mut dyn Read| {
            snapshot::read::<_, A>(input, &owner, &checkpoint)?.try_for_each(|row| row.map(|_| ()))
        };
        let why = match self.snapshots.fetch(&listed, read).await {
            Ok(()) => {
                if has_settled {
                    self.whole.insert(name.clone());
                }
                return Ok(Seen::Whole);
            }
            Err(FetchError::NoAnswer(cause)) => return Err(NoAnswer::new(cause)),
            Err(error) => error.to_string(),
        };
        // What is removed while it is read lacks pieces as well.
        let look = self.snapshots.look(self.owner.partition).await?;
        if !look.listed.iter().any(|listed| listed.name == *name) {
            self.held.retain(|(held, _)| held.name() != name);
            return Ok(Seen::Gone);
        }
        self.damaged.insert(name.clone());
        for (held, entry) in &mut self.held {
            if held.name() == name {
                entry.kind = Kind::Damaged;
            }
        }
        Ok(Seen::Damaged(why))
    }

    /// Puts a store away as `view` shows it.
    pub async fn put<A: Application>(&self, view: View<A>) -> Result<Name, PutError<SnapshotError>> {
        let failed = |error: StoreError| PutError::Write(error.into());
        let checkpoint = view.checkpoint().map_err(failed)?.ok_or(PutError::Write(SnapshotError::NothingFolded))?;
        let accepted = view.accepted().map_err(failed)?;
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

    pub async fn remove(&mut self, name: &Name) -> Result<(), NoAnswer> {
        let Some(index) = self.held.iter().position(|(held, _)| held.name() == name) else { return Ok(()) };
        match &self.held[index].0 {
            Held::Readable(listed) => self.snapshots.remove(listed).await?,
            Held::Unreadable(unreadable) => self.snapshots.remove_unreadable(unreadable).await?,
        }
        self.held.remove(index);
        Ok(())
    }
}
