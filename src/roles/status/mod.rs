//! `status`: how far each partition is, and who works on it.
//!
//! The log's end and who there is come from the server: every worker has a durable consumer on each of its logs. How
//! far a worker is comes from itself; one that does not answer is silent. Where nobody tells a position of the log, the last
//! snapshot does, or the log with all that it holds.
//!
//! **What a lag can be off by.** The logs' ends are read while the workers are asked, so an end and a position are of one
//! moment but for the time that a worker takes for its answer: some milliseconds, and two seconds at the most. What it commits in
//! that time makes its lag too small, and never negative.

mod gathered;
mod log;
mod table;

use crate::sum::names::names;
use crate::sum::topology_section;
use futures_util::future::{join, join_all};
use gathered::Gathered;
use jetfold::nats::connect::Connection;
use jetfold::nats::names::Names;
use jetfold::nats::read::{self, NoAnswer};
use jetfold::nats::standing::{self, CannotAsk};
use jetfold::nats::topology::{PARTITIONS, partitions_said};
use jetfold::{Move, MoveCause, Position, WorkerStanding};
use serde::Serialize;
use std::time::Duration;

/// How long a worker that is connected may take to answer before it is silent.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long to wait for workers without a durable: a worker that cannot open its log has no consumer, and is found only by its answer.
const OTHERS: Duration = Duration::from_millis(200);

/// Moves that are told.
const MOST_MOVES: usize = 10;

#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error("JetStream gives no answer ({0}): see that the server runs with JetStream enabled")]
    NoAnswer(#[from] NoAnswer),
    #[error(transparent)]
    CannotAsk(#[from] CannotAsk),
}

/// The whole table. `--json` prints it as it is declared here, with these names.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    pub partitions: Vec<PartitionStatus>,
    pub workers: Vec<GroupStatus>,
    /// The latest first.
    pub moves: Vec<MoveStatus>,
    pub summary: Summary,
}

/// A worker that can't share partitions with others at the moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupStatus {
    pub worker: String,
    /// Why it can't.
    pub trouble: String,
}

/// A partition that a worker has taken over from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MoveStatus {
    pub partition: u32,
    pub from: String,
    pub to: String,
    pub cause: MoveCause,
    /// Milliseconds since.
    pub ms_ago: u64,
    /// Milliseconds for which nobody folded it.
    pub pause_ms: u64,
}

/// How many partitions are in which state, and how far the folding is behind.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    pub partitions: usize,
    pub folding: usize,
    pub following: usize,
    pub waiting: usize,
    pub refused: usize,
    pub silent: usize,
    pub nobody: usize,
    pub gone: usize,
    pub unanswered: usize,
    /// Chunk batches behind, in all partitions whose lag is known.
    pub lag: u64,
    /// The most that a partition is behind; null where none is known.
    pub lag_seconds: Option<f64>,
}

/// One partition, and every worker that has a durable on its log or says that it folds it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartitionStatus {
    pub partition: u32,
    /// Of its log, or of whichever of its workers is best off.
    pub state: State,
    /// The last sequence of the log; 0 where it has held nothing yet, null where the log is gone or gives no answer.
    pub log_end: Option<Position>,
    /// Bytes of the log.
    pub log_bytes: Option<u64>,
    /// The furthest committed position that is known.
    pub position: Option<Position>,
    /// Who tells that position.
    pub position_of: Option<Source>,
    /// Chunk batches between that position and the log's end.
    pub lag: Option<u64>,
    /// How long ago the oldest of them was stored, by the clock of the log's leader, in seconds; 0 without a lag, and null
    /// where nobody answers.
    pub lag_seconds: Option<f64>,
    /// What is wrong with the log, and the way out.
    pub trouble: Option<String>,
    /// By name; empty where nobody works on the partition.
    pub workers: Vec<WorkerStatus>,
}

/// One worker on one partition. All that it says of itself is null where it is silent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkerStatus {
    pub worker: String,
    pub state: State,
    /// The committed position: a stream sequence of the log.
    pub position: Option<Position>,
    /// Chunk batches between the position and the log's end; null where the position is of another log than this one.
    pub lag: Option<u64>,
    /// Live streams in the worker's store.
    pub live_streams: Option<u64>,
    /// Rows in the worker's store: live, broken and completed streams, expired ones until they are collected.
    pub rows: Option<u64>,
    /// Bytes of the store's file.
    pub store_bytes: Option<u64>,
    /// Milliseconds since the worker's last commit; null before the first of its process.
    pub committed_ms_ago: Option<u64>,
    /// Since when it refuses the log, as RFC 3339; null where it does not.
    pub refused_since: Option<String>,
    /// Why it waits or refuses, where it does.
    pub trouble: Option<String>,
}

/// How a worker is, or a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It pulls from the log.
    Folding,
    /// It folds behind another worker, and publishes nothing.
    Following,
    /// It can't at the moment, and says why.
    Waiting,
    /// It has found that the log is not what it was, and folds nothing of it until somebody has seen to that.
    Refused,
    /// It has a durable on the log, and does not answer.
    Silent,
    /// Of a partition: nobody works on it.
    Nobody,
    /// Of a partition: there is no such log.
    Gone,
    /// Of a partition: nobody answers for its log.
    Unanswered,
}

impl State {
    const ALL: [Self; 8] = [
        Self::Folding,
        Self::Following,
        Self::Waiting,
        Self::Refused,
        Self::Silent,
        Self::Nobody,
        Self::Gone,
        Self::Unanswered,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Folding => "folding",
            Self::Following => "following",
            Self::Waiting => "waiting",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::Nobody => "nobody",
            Self::Gone => "gone",
            Self::Unanswered => "unanswered",
        }
    }
}

/// Who tells how far a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A worker, of what it has committed.
    Worker,
    /// The last snapshot of a store: whoever wrote it has committed as much, and maybe more.
    Snapshot,
    /// Nobody: what lies before the log's first message is folded, and of the rest nothing is known.
    Log,
}

impl Status {
    fn of(partitions: Vec<PartitionStatus>, told: &[WorkerStanding]) -> Self {
        let summary = Summary::of(&partitions);
        let workers = told.iter().filter_map(|told| {
            let (worker, trouble) = (told.worker.clone(), told.trouble.clone()?);
            Some(GroupStatus { worker, trouble })
        });
        let moves = told.iter().flat_map(|told| {
            told.moves.iter().map(|moved| {
                let &Move { partition, ref from, cause, ms_ago, pause_ms } = moved;
                MoveStatus { partition, from: from.clone(), to: told.worker.clone(), cause, ms_ago, pause_ms }
            })
        });
        let mut moves: Vec<_> = moves.collect();
        moves.sort_by_key(|moved| moved.ms_ago);
        moves.truncate(MOST_MOVES);
        Self { partitions, workers: workers.collect(), moves, summary }
    }

    /// Whether somebody folds each partition, but for those that are changing hands at this moment: followed, and not owned. That takes
    /// milliseconds, and whoever asks again is told who has them.
    pub fn is_changing_hands(&self) -> bool {
        self.summary.following > 0 && self.summary.folding + self.summary.following == self.summary.partitions
    }

    /// Whether somebody folds each partition.
    pub fn is_well(&self) -> bool {
        self.summary.folding == self.summary.partitions
    }
}

impl Summary {
    fn of(partitions: &[PartitionStatus]) -> Self {
        let mut summary = Self { partitions: partitions.len(), ..Self::default() };
        for place in partitions {
            *summary.count(place.state) += 1;
            summary.lag += place.lag.unwrap_or(0);
        }
        summary.lag_seconds = partitions.iter().filter_map(|place| place.lag_seconds).reduce(f64::max);
        summary
    }

    fn count(&mut self, state: State) -> &mut usize {
        match state {
            State::Folding => &mut self.folding,
            State::Following => &mut self.following,
            State::Waiting => &mut self.waiting,
            State::Refused => &mut self.refused,
            State::Silent => &mut self.silent,
            State::Nobody => &mut self.nobody,
            State::Gone => &mut self.gone,
            State::Unanswered => &mut self.unanswered,
        }
    }
}

/// How many partitions a system has, by the first of its logs that answers and says so: any of them may be gone. `None` where
/// none of as many as are configured does.
pub async fn partitions(connection: &Connection, config: &topology_section::Config) -> Option<u32> {
    let names = &names(&config.prefix);
    let logs = (0..config.partitions).map(|partition| async move {
        let info = read::stream(&connection.jetstream, &names.log(partition)).await.ok()??;
        partitions_said(info.config.metadata.get(&names.key(PARTITIONS))?)
    });
    join_all(logs).await.into_iter().flatten().next()
}

/// Asks the server and the workers.
pub async fn ask(connection: &Connection, names: &Names, partitions: u32) -> Result<Status, StatusError> {
    let jetstream = &connection.jetstream;
    let durables = join_all((0..partitions).map(|partition| async move {
        let durables = read::consumers(jetstream, &names.log(partition)).await?;
        let workers = durables.iter().filter_map(|durable| names.worker_of_durable(durable)).map(str::to_owned);
        Ok::<_, NoAnswer>(workers.collect())
    }));
    let durables = durables.await;
    let everybody = durables.iter().flatten().flatten().cloned().collect();
    let told = standing::ask(connection, names, everybody, PATIENCE, OTHERS);
    let logs = join_all((0..partitions).map(|partition| async move {
        let log = names.log(partition);
        read::stream_now(jetstream, &log).await
    }));
    // Together: what the silent are waited for must not lie between a position and the end of its log.
    let (told, logs) = join(told, logs).await;
    let told = told?;
    if let Some(Err(cause)) = logs.first()
        && logs.iter().all(Result::is_err)
    {
        return Err(cause.clone().into());
    }
    let gathered = durables
        .into_iter()
        .zip(logs)
        .zip(0..)
        .map(|((durables, log), partition)| Gathered::new(names, partition, durables, log.into(), &told));
    let completed = gathered.map(|gathered| gathered.complete(connection, names));
    Ok(Status::of(join_all(completed).await, &told))
}
