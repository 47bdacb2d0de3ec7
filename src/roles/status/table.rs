//! The table as people read it.

use crate::roles::status::{GroupStatus, MoveStatus, PartitionStatus, Source, State, Status, Summary, WorkerStatus};
use jetfold::MoveCause;
use std::fmt;
use std::time::Duration;

/// A line of the table, before its columns have their widths.
struct Line {
    partition: u32,
    worker: String,
    state: &'static str,
    position: String,
    log_end: String,
    lag: String,
    lag_time: String,
    live_streams: String,
    committed: String,
    /// What there is to say besides, to be read after a colon.
    notes: Vec<String>,
}

fn number(n: Option<u64>) -> String {
    n.map_or_else(|| "-".to_owned(), |n| n.to_string())
}

fn seconds(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1} s"))
}

impl Line {
    fn of(place: &PartitionStatus, worker: &WorkerStatus) -> Self {
        let age = worker.committed_ms_ago.map(Duration::from_millis);
        Self {
            partition: place.partition,
            worker: worker.worker.clone(),
            state: worker.state.name(),
            position: number(worker.position),
            log_end: number(place.log_end),
            lag: number(worker.lag),
            lag_time: "-".to_owned(),
            live_streams: number(worker.live_streams),
            committed: age.map_or_else(|| "-".to_owned(), |age| format!("{:.1} s ago", age.as_secs_f64())),
            notes: worker.trouble.iter().cloned().collect(),
        }
    }

    /// Of a partition that nobody works on.
    fn of_nobody(place: &PartitionStatus) -> Self {
        let nobody = WorkerStatus { state: place.state, ..WorkerStatus::silent("-".to_owned()) };
        Self::of(place, &nobody)
    }
}

/// One line a worker. What is known of the partition stands on the line of whoever has told it, or on the first.
fn lines(place: &PartitionStatus) -> Vec<Line> {
    let told = |worker: &WorkerStatus| worker.lag.is_some() && worker.position == place.position;
    let teller = place.workers.iter().position(told).unwrap_or(0);
    let mut lines: Vec<Line> = place.workers.iter().map(|worker| Line::of(place, worker)).collect();
    if lines.is_empty() {
        lines.push(Line::of_nobody(place));
    }
    let line = &mut lines[teller];
    if let Some(by) = place.position_of {
        (line.lag, line.lag_time) = (number(place.lag), seconds(place.lag_seconds));
        let says = match by {
            Source::Worker => None,
            Source::Snapshot => Some(format!("lag behind the last snapshot, which is at {}", number(place.position))),
            Source::Log => Some("lag is all that the log holds".to_owned()),
        };
        line.notes.extend(says.filter(|_| place.lag != Some(0)));
    }
    if let (Some(trouble), State::Gone | State::Unanswered) = (&place.trouble, place.state) {
        if place.workers.is_empty() {
            line.state = place.state.name();
        }
        line.notes.insert(0, trouble.clone());
    }
    lines
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<Line> = self.partitions.iter().flat_map(lines).collect();
        let width = lines.iter().map(|line| line.worker.len()).max().unwrap_or(0).max("worker".len());
        writeln!(
            f,
            "partition  {:<width$}  {:<10} {:>12} {:>12} {:>10} {:>10} {:>12}  last commit",
            "worker", "state", "position", "log end", "lag", "lag time", "live streams"
        )?;
        for line in lines {
            let Line { partition, worker, state, position, log_end, lag, lag_time, live_streams, .. } = &line;
            write!(
                f,
                "{partition:>9}  {worker:<width$}  {state:<10} {position:>12} {log_end:>12} {lag:>10} {lag_time:>10} {live_streams:>12}  {}",
                line.committed
            )?;
            match line.notes.is_empty() {
                true => writeln!(f)?,
                false => writeln!(f, ": {}", line.notes.join("; "))?,
            }
        }
        for GroupStatus { worker, trouble } in &self.workers {
            writeln!(f, "worker {worker} shares no partitions: {trouble}")?;
        }
        for MoveStatus { partition, from, to, cause, ms_ago, pause_ms } in &self.moves {
            let why = match cause {
                MoveCause::HandedOver => "handed over",
                MoveCause::Left => "has stopped",
                MoveCause::Silent => "was silent",
            };
            let (ago, pause) = (Duration::from_millis(*ms_ago), Duration::from_millis(*pause_ms));
            let (ago, pause) = (ago.as_secs_f64(), pause.as_secs_f64());
            writeln!(
                f,
                "partition {partition} moved {ago:.1} s ago, from {from} ({why}) to {to}: a pause of {pause:.3} s"
            )?;
        }
        writeln!(f, "{}", self.summary)
    }
}

/// `8 partitions: 6 folding, 1 refused, 1 silent; lag 1234 chunk batches, 3.2 s`.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts = self.clone();
        let states = State::ALL.map(|state| (*counts.count(state), state.name()));
        let states: Vec<_> = states.iter().filter(|(n, _)| *n > 0).map(|(n, name)| format!("{n} {name}")).collect();
        let noun = if self.partitions == 1 { "partition" } else { "partitions" };
        write!(f, "{} {noun}: {}; lag {} chunk batches", self.partitions, states.join(", "), self.lag)?;
        match self.lag_seconds {
            Some(seconds) => write!(f, ", {seconds:.1} s"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetfold::{Move, WorkerStanding};

    fn worker(name: &str, state: State, lag: Option<u64>) -> WorkerStatus {
        WorkerStatus {
            state,
            position: Some(90),
            lag,
            live_streams: Some(7),
            rows: Some(12),
            store_bytes: Some(4096),
            committed_ms_ago: Some(1_250),
            ..WorkerStatus::silent(name.to_owned())
        }
    }

    fn place(partition: u32, state: State, by: Source, workers: Vec<WorkerStatus>) -> PartitionStatus {
        PartitionStatus {
            partition,
            state,
            log_end: Some(100),
            log_bytes: Some(9),
            position: Some(90),
            position_of: Some(by),
            lag: Some(10),
            lag_seconds: Some(3.21),
            trouble: None,
            workers,
        }
    }

    #[test]
    fn the_table_says_who_folds_who_does_not_and_where_nobody_is() {
        let refused = WorkerStatus {
            committed_ms_ago: None,
            trouble: Some("refused since then: LogReplaced".to_owned()),
            ..worker("b", State::Refused, None)
        };
        let gone = PartitionStatus {
            log_end: None,
            position: None,
            position_of: None,
            lag: None,
            lag_seconds: None,
            trouble: Some("the log is gone".to_owned()),
            ..place(4, State::Gone, Source::Log, vec![])
        };
        let both = vec![worker("a", State::Folding, Some(10)), WorkerStatus::silent("long-name".to_owned())];
        let moved = |partition, from: &str, cause, ms_ago, pause_ms| Move {
            partition,
            from: from.to_owned(),
            cause,
            ms_ago,
            pause_ms,
        };
        let told = WorkerStanding {
            worker: "a".to_owned(),
            partitions: vec![],
            moves: vec![
                moved(0, "b", MoveCause::Silent, 9_000, 2_750),
                moved(1, "c", MoveCause::HandedOver, 61_500, 41),
            ],
            trouble: Some("the bucket is gone".to_owned()),
        };
        let places = vec![
            place(0, State::Folding, Source::Worker, both),
            place(1, State::Refused, Source::Log, vec![refused]),
            place(2, State::Silent, Source::Snapshot, vec![WorkerStatus::silent("c".to_owned())]),
            place(3, State::Nobody, Source::Log, vec![]),
            gone,
        ];
        let status = Status::of(places, &[told]);
        let text = status.to_string();
        let words: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            words,
            [
                "partition worker state position log end lag lag time live streams last commit",
                "0 a folding 90 100 10 3.2 s 7 1.2 s ago",
                "0 long-name silent - 100 - - - -",
                "1 b refused 90 100 10 3.2 s 7 -: refused since then: LogReplaced; lag is all that the log holds",
                "2 c silent - 100 10 3.2 s - -: lag behind the last snapshot, which is at 90",
                "3 - nobody - 100 10 3.2 s - -: lag is all that the log holds",
                "4 - gone - - - - - -: the log is gone",
                "worker a shares no partitions: the bucket is gone",
                "partition 0 moved 9.0 s ago, from b (was silent) to a: a pause of 2.750 s",
                "partition 1 moved 61.5 s ago, from c (handed over) to a: a pause of 0.041 s",
                "5 partitions: 1 folding, 1 refused, 1 silent, 1 nobody, 1 gone; lag 40 chunk batches, 3.2 s",
            ]
        );
        assert!(!status.is_well() && !status.is_changing_hands());
        let of =
            |states: [State; 2]| Status::of(states.map(|state| place(0, state, Source::Worker, vec![])).to_vec(), &[]);
        let sound = of([State::Folding, State::Folding]);
        assert!(sound.is_well() && !sound.is_changing_hands());
        let moving = of([State::Folding, State::Following]);
        assert!(!moving.is_well() && moving.is_changing_hands());
        assert!(!of([State::Nobody, State::Following]).is_changing_hands());
    }

    #[test]
    fn the_json_has_the_same() {
        let status = Status::of(vec![place(0, State::Silent, Source::Snapshot, vec![])], &[]);
        let json = serde_json::to_value(&status).unwrap();
        let place = &json["partitions"][0];
        assert_eq!((&place["state"], &place["position_of"]), (&"silent".into(), &"snapshot".into()));
        assert_eq!((&place["lag"], &place["lag_seconds"]), (&10.into(), &3.21.into()));
        let summary = &json["summary"];
        assert_eq!(
            (&summary["partitions"], &summary["silent"], &summary["folding"]),
            (&1.into(), &1.into(), &0.into())
        );
        assert_eq!((&summary["lag"], &summary["lag_seconds"]), (&10.into(), &3.21.into()));
    }
}
