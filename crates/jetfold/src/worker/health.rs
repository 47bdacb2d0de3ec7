//! `Health`: how a worker is, for whoever watches its process.

use super::board::Board;
use crate::log::reader::{Behind, LogReader};
use crate::metrics::{
    BLOCKED, COMMIT_AGE, CONNECTS, LAG_BATCHES, LAG_SECONDS, LIVE_ROWS, POSITION, ROWS, STATE, STORE_BYTES,
};
use crate::nats::connect::Connection;
use crate::nats::names::Names;
use crate::standing::{Doing, PartitionStanding, WorkerStanding};
use futures_util::future::join_all;
use metrics::{counter, gauge};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// How long the ends of all logs may take to be read. What has not answered by then has no lag to tell.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone, Default)]
pub struct Health(Arc<Watched>);

#[derive(Default)]
struct Watched {
    worker: OnceLock<Running>,
    /// What was told last: what is not there any more is to be taken back.
    told: Mutex<BTreeMap<u32, Option<&'static str>>>,
}

/// A worker that has started.
struct Running {
    board: Board,
    connection: Connection,
    names: Names,
}

/// What a worker holds, and how far behind the end of its log each partition is, where that is known.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub standing: WorkerStanding,
    pub behind: BTreeMap<u32, Behind>,
}

impl Health {
    pub(super) fn is_of(&self, board: Board, connection: Connection, names: Names) {
        self.0.worker.set(Running { board, connection, names }).ok();
    }

    /// Whether everything that it holds is folded, or followed; or what is not, and why.
    pub fn ready(&self) -> Result<(), String> {
        let Some(Running { board, connection, .. }) = self.0.worker.get() else {
            return Err("it is starting".to_owned());
        };
        if !connection.stands() {
            return Err("the connection to NATS is lost".to_owned());
        }
        if !board.has_begun() {
            return Err("it is starting".to_owned());
        }
        let WorkerStanding { partitions, trouble, .. } = board.told();
        let waiting = partitions.into_iter().filter_map(|PartitionStanding { partition, trouble, .. }| {
            Some(format!("partition {partition}: {}", trouble?))
        });
        let all: Vec<_> = trouble.into_iter().chain(waiting).collect();
        if all.is_empty() { Ok(()) } else { Err(all.join("\n")) }
    }

    /// What it tells of itself now; nothing, before it has started.
    pub fn standing(&self) -> WorkerStanding {
        self.0.worker.get().map(|running| running.board.told()).unwrap_or_default()
    }

    /// What it holds now. The ends of the logs are asked for.
    pub async fn look(&self) -> Seen {
        let Some(Running { board, connection, names }) = self.0.worker.get() else { return Seen::default() };
        let standing = board.told();
        let behind = standing.partitions.iter().map(async |held| {
            let log = LogReader::new(connection.clone(), names, held.partition);
            let behind = timeout(PATIENCE, log.behind(held.position)).await.ok()?.ok()??;
            Some((held.partition, behind))
        });
        let behind = join_all(behind).await.into_iter().flatten().collect();
        Seen { standing, behind }
    }

    /// Tells the recorder of the process what stands now.
    pub async fn measure(&self) {
        let Some(Running { board, connection, .. }) = self.0.worker.get() else { return };
        let Seen { standing, behind } = self.look().await;
        let worker = standing.worker.clone();
        counter!(CONNECTS, "worker" => worker.clone()).absolute(*connection.connects().borrow());
        let verdicts = board.verdicts();
        let mut told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
        let held: BTreeSet<u32> = standing.partitions.iter().map(|held| held.partition).collect();
        // A gauge stays as it was left: of what is another's by now, nothing is to be believed.
        for (gone, verdict) in told.iter().filter(|(partition, _)| !held.contains(partition)) {
            for name in [POSITION, LAG_BATCHES, LAG_SECONDS, COMMIT_AGE, LIVE_ROWS, ROWS, STORE_BYTES] {
                set(name, &worker, *gone, f64::NAN);
            }
            does(&worker, *gone, None);
            blocked(&worker, *gone, *verdict, None);
        }
        told.retain(|partition, _| held.contains(partition));
        for held in &standing.partitions {
            let set = |name, value| set(name, &worker, held.partition, value);
            set(POSITION, held.position as f64);
            set(LIVE_ROWS, held.live_streams as f64);
            set(ROWS, held.rows as f64);
            set(STORE_BYTES, held.store_bytes as f64);
            if let Some(ms) = held.committed_ms_ago {
                set(COMMIT_AGE, ms as f64 / 1e3);
            }
            let behind = behind.get(&held.partition);
            set(LAG_BATCHES, behind.map_or(f64::NAN, |behind| behind.batches as f64));
            set(LAG_SECONDS, behind.map_or(f64::NAN, |behind| behind.oldest.as_secs_f64()));
            does(&worker, held.partition, Some(held.doing()));
            let verdict = verdicts.get(&held.partition).copied();
            let before = told.insert(held.partition, verdict).flatten();
            blocked(&worker, held.partition, before, verdict);
        }
    }
}

fn set(name: &'static str, worker: &str, partition: u32, value: f64) {
    gauge!(name, "worker" => worker.to_owned(), "partition" => partition.to_string()).set(value);
}

/// 1 or 0 for a word of a short list.
fn set_word(name: &'static str, worker: &str, partition: u32, label: &'static str, word: &'static str, is_so: bool) {
    let labels = [("worker", worker.to_owned()), ("partition", partition.to_string()), (label, word.to_owned())];
    gauge!(name, &labels).set(f64::from(u8::from(is_so)));
}

fn does(worker: &str, partition: u32, doing: Option<Doing>) {
    for known in Doing::ALL {
        set_word(STATE, worker, partition, "state", known.name(), doing == Some(known));
    }
}

fn blocked(worker: &str, partition: u32, before: Option<&'static str>, verdict: Option<&'static str>) {
    if let Some(before) = before.filter(|before| Some(*before) != verdict) {
        set_word(BLOCKED, worker, partition, "verdict", before, false);
    }
    if let Some(verdict) = verdict {
        set_word(BLOCKED, worker, partition, "verdict", verdict, true);
    }
}
