//! What was gathered of one partition: its log, who is there, and what they say. From that follow its state and its lag.

use crate::roles::status::log::{Log, LogNow};
use crate::roles::status::{PartitionStatus, Source, State, WorkerStatus};
use jetfold::Position;

use jetfold::archive::bucket::Snapshots;
use jetfold::log::reader::LogReader;
use jetfold::nats::connect::Connection;
use jetfold::nats::names::Names;
use jetfold::nats::read::NoAnswer;
use jetfold::{Doing, PartitionStanding, WorkerStanding};
use jetfold::{Verdict, judge, rfc3339};
use std::collections::{BTreeMap, BTreeSet};

/// Snapshots that are compared with the log before it has to do with its own figures.
const MOST_SNAPSHOTS: usize = 4;

/// One partition, as far as what was read of all tells.
pub struct Gathered {
    status: PartitionStatus,
    log: Option<LogNow>,
}

impl Gathered {
    /// `durables` are the workers that have a durable on the log, and `told` is what all workers have said.
    pub fn new(
        names: &Names,
        partition: u32,
        durables: Result<BTreeSet<String>, NoAnswer>,
        log: Log,
        told: &[WorkerStanding],
    ) -> Self {
        let name = names.log(partition);
        let (found, is_known) = (log.now(), durables.is_ok());
        let mut by_name: BTreeMap<String, Vec<&PartitionStanding>> = BTreeMap::new();
        for WorkerStanding { worker, partitions, .. } in told {
            for standing in partitions.iter().filter(|standing| standing.partition == partition) {
                by_name.entry(worker.clone()).or_default().push(standing);
            }
        }
        for worker in durables.unwrap_or_default() {
            by_name.entry(worker).or_default();
        }
        let mut workers = Vec::new();
        for (worker, standings) in by_name {
            if standings.is_empty() {
                workers.push(WorkerStatus::silent(worker));
            } else {
                let told = standings.into_iter();
                workers.extend(told.map(|standing| WorkerStatus::told(worker.clone(), standing, found.as_ref())));
            }
        }
        let absence = log.absence(&name, partition).or_else(|| {
            let unknown = workers.is_empty() && !is_known;
            unknown.then(|| (State::Unanswered, format!("nobody answers for the consumers of the log {name}")))
        });
        let (state, trouble) = match absence {
            Some((state, trouble)) => (state, Some(trouble)),
            None => (best(&workers), None),
        };
        let furthest = workers.iter().filter(|worker| worker.lag.is_some()).max_by_key(|worker| worker.position);
        let (position, lag) = furthest.map_or((None, None), |worker| (worker.position, worker.lag));
        let status = PartitionStatus {
            partition,
            state,
            log_end: found.map(|log| log.state.last),
            log_bytes: found.map(|log| log.bytes),
            position,
            position_of: position.map(|_| Source::Worker),
            lag,
            lag_seconds: None,
            trouble,
            workers,
        };
        Self { status, log: found }
    }

    /// Reads what is still missing: a position where nobody has told one, and how old the oldest message behind it is.
    pub async fn complete(self, connection: &Connection, names: &Names) -> PartitionStatus {
        let Self { mut status, log } = self;
        let Some(log) = log else { return status };
        let reader = LogReader::new(connection.clone(), names, status.partition);
        if status.position.is_none() {
            let (position, source) = match put_away(connection, names, &reader, status.partition).await {
                Some(position) => (position, Source::Snapshot),
                None => (log.least(), Source::Log),
            };
            (status.position, status.position_of) = (Some(position), Some(source));
            status.lag = Some(log.behind(position));
        }
        status.lag_seconds = match (status.position, status.lag) {
            (Some(position), Some(1..)) => {
                let stored_at = reader.stored_at(&log.state, position + 1).await.ok().flatten();
                stored_at.map(|time| log.seconds_since(time))
            }
            _ => Some(0.0),
        };
        status
    }
}

/// The state of a partition whose log is there: that of whichever worker is best off.
fn best(workers: &[WorkerStatus]) -> State {
    let order = [State::Folding, State::Refused, State::Waiting, State::Following, State::Silent];
    let found = order.into_iter().find(|state| workers.iter().any(|worker| worker.state == *state));
    found.unwrap_or(State::Nobody)
}

/// The position of the furthest snapshot that is of this log.
async fn put_away(connection: &Connection, names: &Names, log: &LogReader, partition: u32) -> Option<Position> {
    let snapshots = Snapshots::new(connection.clone(), names).look(partition).await.ok()?.listed;
    for snapshot in snapshots.iter().take(MOST_SNAPSHOTS) {
        let reading = log.reading(&snapshot.checkpoint, None).await.ok()??;
        // A log may have been purged beyond it, and is the same all the same.
        if matches!(judge(&snapshot.checkpoint, &reading), Ok(()) | Err(Verdict::LogTruncated { .. })) {
            return Some(snapshot.checkpoint.position);
        }
    }
    None
}

impl WorkerStatus {
    pub(super) fn silent(worker: String) -> Self {
        Self {
            worker,
            state: State::Silent,
            position: None,
            lag: None,
            live_streams: None,
            rows: None,
            store_bytes: None,
            committed_ms_ago: None,
            refused_since: None,
            trouble: None,
        }
    }

    fn told(worker: String, standing: &PartitionStanding, log: Option<&LogNow>) -> Self {
        let state = match standing.doing() {
            Doing::Folding => State::Folding,
            Doing::Following => State::Following,
            Doing::Waiting => State::Waiting,
            Doing::Refused => State::Refused,
        };
        Self {
            worker,
            state,
            position: Some(standing.position),
            lag: log.and_then(|log| log.lag(standing)),
            live_streams: Some(standing.live_streams),
            rows: Some(standing.rows),
            store_bytes: Some(standing.store_bytes),
            committed_ms_ago: standing.committed_ms_ago,
            refused_since: standing.refused_since.map(rfc3339),
            trouble: standing.trouble.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sum::names::names;
    use jetfold::{LogState, UnixNanos};

    const SECOND: UnixNanos = 1_000_000_000;

    /// A log created at 1 that holds messages 11 to 100.
    fn log() -> LogNow {
        let state = LogState { created: 1, first: 11, first_time: SECOND, last: 100, last_time: 2 * SECOND };
        LogNow { state, bytes: 9, at: 5 * SECOND }
    }

    fn standing(position: Position) -> PartitionStanding {
        PartitionStanding { position, log_created: Some(1), ..PartitionStanding::default() }
    }

    fn waiting(position: Position) -> PartitionStanding {
        PartitionStanding { trouble: Some("no answer".to_owned()), ..standing(position) }
    }

    fn refused(position: Position) -> PartitionStanding {
        PartitionStanding { refused_since: Some(0), ..waiting(position) }
    }

    /// Of partition 0, where `durables` are there and `told` has come.
    fn gathered(durables: &[&str], log: Log, told: &[(&str, PartitionStanding)]) -> PartitionStatus {
        let durables = durables.iter().map(|worker| (*worker).to_owned()).collect();
        let told = told.iter().map(|(worker, standing)| {
            let other = PartitionStanding { partition: 1, ..standing.clone() };
            WorkerStanding {
                worker: (*worker).to_owned(),
                partitions: vec![standing.clone(), other],
                ..WorkerStanding::default()
            }
        });
        Gathered::new(&names(""), 0, Ok(durables), log, &told.collect::<Vec<_>>()).status
    }

    #[test]
    fn a_partition_is_as_whichever_worker_is_best_off_and_as_far_as_the_furthest() {
        use State::*;
        for (what, durables, told, state, position, lag) in [
            ("one folds", &["a"][..], vec![("a", standing(90))], Folding, Some(90), Some(10)),
            ("one folds, one is silent", &["a", "b"], vec![("b", standing(90))], Folding, Some(90), Some(10)),
            (
                "of two the further",
                &["a", "b"],
                vec![("a", standing(90)), ("b", standing(95))],
                Folding,
                Some(95),
                Some(5),
            ),
            ("it has come on since the end was read", &["a"], vec![("a", standing(103))], Folding, Some(103), Some(0)),
            ("it waits, and has its durable no more", &[], vec![("a", waiting(90))], Waiting, Some(90), Some(10)),
            ("it is refused", &["a"], vec![("a", refused(90))], Refused, Some(90), Some(10)),
            ("it is silent", &["a"], vec![], Silent, None, None),
            ("nobody is there", &[], vec![], Nobody, None, None),
        ] {
            let status = gathered(durables, Log::There(log()), &told);
            assert_eq!((status.state, status.position, status.lag), (state, position, lag), "{what}");
        }
    }

    #[test]
    fn a_position_in_another_log_says_nothing_of_the_lag_in_this_one() {
        let anew = PartitionStanding { log_created: Some(0), ..refused(50) };
        for (what, standing, lag) in [
            ("made anew", anew, None),
            ("rolled back", refused(101), None),
            ("a worker that does not say", PartitionStanding { log_created: None, ..standing(50) }, Some(50)),
        ] {
            let status = gathered(&["a"], Log::There(log()), &[("a", standing.clone())]);
            assert_eq!((status.workers[0].lag, status.lag), (lag, lag), "{what}");
            assert_eq!(status.workers[0].position, Some(standing.position), "{what}");
        }
    }

    #[test]
    fn a_log_that_is_gone_or_gives_no_answer_says_so_whoever_is_there() {
        let told = [("a", waiting(90))];
        let gone = gathered(&[], Log::Gone, &told);
        assert_eq!((gone.state, gone.log_end, gone.lag, gone.workers.len()), (State::Gone, None, None, 1));
        assert!(gone.trouble.unwrap().contains("the log chunks-0 is gone: bring it back"));
        let unanswered = gathered(&["a"], Log::Unanswered("timed out".to_owned()), &[("a", standing(90))]);
        assert_eq!((unanswered.state, unanswered.log_end), (State::Unanswered, None));
        assert!(unanswered.trouble.unwrap().contains("nobody answers for the log chunks-0 (timed out)"));
        let no_answer = Err(NoAnswer::new("timed out".to_owned()));
        let unknown = Gathered::new(&names(""), 0, no_answer, Log::There(log()), &[]).status;
        assert_eq!(unknown.state, State::Unanswered, "whether nobody is there is not known");
    }
}
