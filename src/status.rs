//! `status`: how far each partition is, and who works on it.
//!
//! The log's end and who there is come from the server: every worker has a durable consumer on each of its logs. How
//! far a worker is comes from itself; one that does not answer is silent.

use crate::bus::connect::Connection;
use crate::bus::names::Names;
use crate::bus::read::{self, NoAnswer};
use crate::bus::standing::{self, CannotAsk};
use crate::checkpoint::Position;
use crate::standing::PartitionStanding;
use futures_util::future::try_join_all;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// How long a worker may take to answer before it is silent.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long to wait for workers without a durable: one that can't open its log has none.
const OTHERS: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error("JetStream gives no answer ({0}): see that the server runs with JetStream enabled")]
    NoAnswer(#[from] NoAnswer),
    #[error(transparent)]
    CannotAsk(#[from] CannotAsk),
    #[error("the log {0} is gone: run `stream-sum topology show` to see what is there")]
    LogGone(String),
}

/// The whole table. `--json` prints it as it is declared here, with these names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    pub partitions: Vec<PartitionStatus>,
}

/// One partition, and every worker that has a durable on its log or says that it folds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionStatus {
    pub partition: u32,
    /// The last sequence of the log; 0 where it has held nothing yet.
    pub log_end: Position,
    /// Bytes of the log.
    pub log_bytes: u64,
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
    /// Chunk batches between the position and the log's end.
    pub lag: Option<u64>,
    /// Live streams in the worker's store.
    pub live_streams: Option<u64>,
    /// Rows in the worker's store: live, broken and completed streams, expired ones until they are collected.
    pub rows: Option<u64>,
    /// Bytes of the store's file.
    pub store_bytes: Option<u64>,
    /// Milliseconds since the worker's last commit; null before the first of its process.
    pub committed_ms_ago: Option<u64>,
    /// Why it waits, where it does.
    pub trouble: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It pulls from the log.
    Folding,
    /// It can't at the moment, and says why.
    Waiting,
    /// It has a durable on the log, and does not answer.
    Silent,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Folding => "folding",
            Self::Waiting => "waiting",
            Self::Silent => "silent",
        }
    }
}

/// Asks the server and the workers.
pub async fn ask(connection: &Connection, names: &Names, partitions: u32) -> Result<Status, StatusError> {
    let logs = try_join_all((0..partitions).map(|partition| async move {
        let log = names.log(partition);
        let durables = read::consumers(&connection.jetstream, &log).await?;
        let workers = durables.iter().filter_map(|durable| names.worker_of_durable(durable)).map(str::to_owned);
        Ok::<_, StatusError>((partition, workers.collect::<BTreeSet<_>>()))
    }))
    .await?;
    let everybody = logs.iter().flat_map(|(_, workers)| workers.iter().cloned()).collect();
    let told = standing::ask(connection, names, everybody, PATIENCE, OTHERS).await?;
    let mut by_place: BTreeMap<(u32, String), Vec<PartitionStanding>> = BTreeMap::new();
    for worker in told {
        for standing in worker.partitions {
            by_place.entry((standing.partition, worker.worker.clone())).or_default().push(standing);
        }
    }
    for (partition, workers) in logs {
        for worker in workers {
            by_place.entry((partition, worker)).or_default();
        }
    }
    // After the workers have answered: nobody is further than the log.
    let partitions = try_join_all((0..partitions).map(|partition| {
        let log = names.log(partition);
        async move {
            let info = read::stream(&connection.jetstream, &log).await?.ok_or(StatusError::LogGone(log))?;
            Ok::<_, StatusError>(PartitionStatus {
                partition,
                log_end: info.state.last_sequence,
                log_bytes: info.state.bytes,
                workers: Vec::new(),
            })
        }
    }));
    let mut partitions = partitions.await?;
    for ((partition, worker), standings) in by_place {
        let Some(place) = partitions.get_mut(partition as usize) else { continue };
        let log_end = place.log_end;
        if standings.is_empty() {
            place.workers.push(WorkerStatus::silent(worker));
        } else {
            let told = standings.into_iter().map(|standing| WorkerStatus::told(worker.clone(), standing, log_end));
            place.workers.extend(told);
        }
    }
    Ok(Status { partitions })
}

impl WorkerStatus {
    fn silent(worker: String) -> Self {
        let (position, lag, live_streams, rows, store_bytes) = (None, None, None, None, None);
        let (committed_ms_ago, trouble) = (None, None);
        Self { worker, state: State::Silent, position, lag, live_streams, rows, store_bytes, committed_ms_ago, trouble }
    }

    fn told(worker: String, standing: PartitionStanding, log_end: Position) -> Self {
        let PartitionStanding { position, live_streams, rows, store_bytes, committed_ms_ago, trouble, .. } = standing;
        Self {
            worker,
            state: if trouble.is_some() { State::Waiting } else { State::Folding },
            position: Some(position),
            lag: Some(log_end.saturating_sub(position)),
            live_streams: Some(live_streams),
            rows: Some(rows),
            store_bytes: Some(store_bytes),
            committed_ms_ago,
            trouble,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let longest = self.partitions.iter().flat_map(|place| &place.workers).map(|worker| worker.worker.len()).max();
        let width = longest.unwrap_or(0).max("worker".len());
        writeln!(
            f,
            "partition  {:<width$}  state    {:>12} {:>12} {:>10} {:>12}  last commit",
            "worker", "position", "log end", "lag", "live streams"
        )?;
        for PartitionStatus { partition, log_end, workers, .. } in &self.partitions {
            if workers.is_empty() {
                let nobody = format!("{partition:>9}  {:<width$}  nobody   {:>12} {log_end:>12}", "-", "-");
                writeln!(f, "{nobody} {:>10} {:>12}  -", log_end, "-")?;
            }
            for worker in workers {
                let age = worker.committed_ms_ago.map(Duration::from_millis);
                let age = age.map_or_else(|| "-".to_owned(), |age| format!("{:.1} s ago", age.as_secs_f64()));
                let trouble = worker.trouble.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
                writeln!(
                    f,
                    "{partition:>9}  {:<width$}  {:<7}  {:>12} {log_end:>12} {:>10} {:>12}  {age}{trouble}",
                    worker.worker,
                    worker.state.name(),
                    number(worker.position),
                    number(worker.lag),
                    number(worker.live_streams),
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_who_folds_who_waits_who_is_silent_and_where_nobody_is() {
        let standing = PartitionStanding {
            partition: 0,
            position: 90,
            live_streams: 7,
            rows: 12,
            store_bytes: 4096,
            committed_ms_ago: Some(1_250),
            trouble: None,
        };
        let waiting =
            PartitionStanding { committed_ms_ago: None, trouble: Some("no answer".into()), ..standing.clone() };
        let status = Status {
            partitions: vec![
                PartitionStatus {
                    partition: 0,
                    log_end: 100,
                    log_bytes: 9,
                    workers: vec![
                        WorkerStatus::told("a".into(), standing, 100),
                        WorkerStatus::told("b".into(), waiting, 100),
                        WorkerStatus::silent("long-name".into()),
                    ],
                },
                PartitionStatus { partition: 1, log_end: 5, log_bytes: 9, workers: vec![] },
            ],
        };
        let text = status.to_string();
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[1], ["0", "a", "folding", "90", "100", "10", "7", "1.2", "s", "ago"]);
        assert_eq!(words[2], ["0", "b", "waiting", "90", "100", "10", "7", "-:", "no", "answer"]);
        assert_eq!(words[3], ["0", "long-name", "silent", "-", "100", "-", "-", "-"]);
        assert_eq!(words[4], ["1", "-", "nobody", "-", "5", "5", "-", "-"]);
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["partitions"][0]["workers"][0]["lag"], 10);
        assert_eq!(json["partitions"][0]["workers"][2]["state"], "silent");
        assert!(json["partitions"][0]["workers"][2]["position"].is_null());
    }
}
