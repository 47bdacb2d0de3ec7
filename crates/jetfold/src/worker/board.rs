//! What a worker tells of itself to whoever asks.

use super::accepting::Accepting;
use crate::identity::accept::{Acceptance, Loss};
use crate::metrics::MOVES;
use crate::nats::connect::Connection;
use crate::standing::{Move, MoveCause, Standing, WorkerStanding};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};

/// Moves that are remembered.
const MOST_MOVES: usize = 16;

/// What is told of one partition.
pub struct Shown {
    pub standing: watch::Receiver<Standing>,
    /// Where it is told what the operator accepts.
    pub accepts: mpsc::Sender<Loss>,
    /// What it is pulled on: the server tells of what it refuses beside all answers.
    pub pulling: Connection,
}

/// A partition that was taken over.
#[derive(Clone, Debug)]
pub struct Taken {
    pub partition: u32,
    pub from: String,
    pub cause: MoveCause,
    pub pause: Duration,
}

#[derive(Clone)]
pub struct Board(Arc<Mutex<Entries>>);

struct Entries {
    worker: String,
    publishing: Connection,
    partitions: BTreeMap<u32, Shown>,
    moves: VecDeque<(Instant, Taken)>,
    trouble: Option<String>,
    /// Whether it has taken what it was to take first.
    has_begun: bool,
}

impl Board {
    pub fn new(worker: String, publishing: Connection) -> Self {
        let (partitions, moves, trouble) = (BTreeMap::new(), VecDeque::new(), None);
        let has_begun = false;
        Self(Arc::new(Mutex::new(Entries { worker, publishing, partitions, moves, trouble, has_begun })))
    }

    pub fn show(&self, partition: u32, shown: Shown) {
        self.lock().partitions.insert(partition, shown);
    }

    pub fn hide(&self, partition: u32) {
        self.lock().partitions.remove(&partition);
    }

    pub fn taken(&self, taken: Taken) {
        let mut entries = self.lock();
        let (worker, cause) = (entries.worker.clone(), taken.cause.said());
        metrics::counter!(MOVES, &[("worker", worker), ("cause", cause.to_owned())]).increment(1);
        entries.moves.truncate(MOST_MOVES - 1);
        entries.moves.push_front((Instant::now(), taken));
    }

    /// What keeps the worker from sharing partitions; `None`: nothing.
    pub fn trouble(&self, trouble: Option<String>) {
        self.lock().trouble = trouble;
    }

    /// It knows who else is there, and has opened what it is to hold.
    pub fn begun(&self) {
        self.lock().has_begun = true;
    }

    pub fn has_begun(&self) -> bool {
        self.lock().has_begun
    }

    /// By which verdict each partition's log is refused that is.
    pub fn verdicts(&self) -> BTreeMap<u32, &'static str> {
        let entries = self.lock();
        let verdict = |shown: &Shown| shown.standing.borrow().verdict;
        entries.partitions.iter().filter_map(|(partition, shown)| Some((*partition, verdict(shown)?))).collect()
    }

    /// Accepts a loss, if that is in question; `None` if the partition is not held.
    pub fn accept(&self, Acceptance { loss, partition }: Acceptance) -> Option<Accepting> {
        let entries = self.lock();
        let shown = entries.partitions.get(&partition)?;
        let standing = shown.standing.borrow();
        let is_in_question = standing.in_question == Some(loss);
        // It has room for one word, and one is enough.
        let taken = is_in_question && !matches!(shown.accepts.try_send(loss), Err(TrySendError::Closed(_)));
        let told = standing.told(partition, Instant::now());
        let stands =
            told.trouble.clone().unwrap_or_else(|| format!("{} at position {}", told.doing().name(), told.position));
        Some(Accepting { worker: entries.worker.clone(), taken, stands })
    }

    /// What is told now.
    pub fn told(&self) -> WorkerStanding {
        let entries = self.lock();
        let now = Instant::now();
        let partitions = entries.partitions.iter().map(|(partition, shown)| {
            let mut told = shown.standing.borrow().told(*partition, now);
            let refused = entries.publishing.trouble().or_else(|| shown.pulling.trouble());
            told.trouble = match (told.trouble, refused) {
                (Some(trouble), Some(refused)) => Some(format!("{trouble}; {refused}")),
                (trouble, refused) => trouble.or(refused),
            };
            told
        });
        let moves = entries.moves.iter().map(|(at, taken)| {
            let Taken { partition, from, cause, pause } = taken.clone();
            Move { partition, from, cause, ms_ago: millis(now.saturating_duration_since(*at)), pause_ms: millis(pause) }
        });
        WorkerStanding {
            worker: entries.worker.clone(),
            partitions: partitions.collect(),
            moves: moves.collect(),
            trouble: entries.trouble.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().expect("nothing panics while it holds this")
    }
}

pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
