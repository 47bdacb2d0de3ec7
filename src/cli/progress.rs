//! How far a run is, for people: a bar or a line on a terminal, plain lines elsewhere.

use crate::run::report::{Report, Waiting};
use crate::telemetry;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use jetfold::{Doing, Health, WorkerStanding};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often a line is printed where nothing can be rewritten.
const LINES: Duration = Duration::from_secs(1);

/// How often a run that nobody watches is logged.
const LOG: Duration = Duration::from_secs(10);

/// How often a terminal is rewritten.
const FRAMES: Duration = Duration::from_millis(200);

/// Logs how the run stands now and then, until it is over.
pub async fn log(mut reports: watch::Receiver<Report>) {
    let mut ticks = ticks(LOG);
    ticks.tick().await;
    while next(&mut ticks, &mut reports).await {
        let Report { counts, elapsed_s, away_s, interval, waiting, .. } = reports.borrow().clone();
        tracing::info!(
            elapsed_s,
            away_s,
            streams = counts.streams,
            chunks = counts.chunks,
            verified = counts.verified,
            p50_ms = interval.latency_ms.p50,
            p99_ms = interval.latency_ms.p99,
            waiting_partitions = waiting.len(),
            "under way"
        );
    }
}

/// Shows a bar of the `streams` verified, until the run is over.
pub async fn bar(mut reports: watch::Receiver<Report>, streams: u64) {
    let bar = telemetry::bars()
        .add(ProgressBar::new(streams).with_style(style(
            "{elapsed_precise} {wide_bar} {human_pos} of {human_len} streams verified, {eta} to go",
        )));
    let mut ticks = ticks(FRAMES);
    while next(&mut ticks, &mut reports).await {
        bar.set_position(reports.borrow().counts.verified);
    }
    bar.finish_and_clear();
}

/// Shows what a worker does, on a terminal alone, until this is dropped: what it folds; what it waits for, restores or tries again; and, once
/// it is told to stop, what is not committed yet.
pub async fn worker(health: Health, stop: CancellationToken) {
    let bars = telemetry::bars();
    if bars.is_hidden() {
        return;
    }
    let bar = bars.add(ProgressBar::no_length().with_style(style("{elapsed_precise} {wide_msg}")));
    let _cleared = Cleared(bar.clone());
    let mut ticks = ticks(FRAMES);
    loop {
        ticks.tick().await;
        bar.set_message(standing(&health.standing(), stop.is_cancelled()));
        bar.tick();
    }
}

/// A bar that goes with whoever shows it.
struct Cleared(ProgressBar);

impl Drop for Cleared {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn standing(told: &WorkerStanding, is_stopping: bool) -> String {
    let partitions = &told.partitions;
    let count = |doing| partitions.iter().filter(|partition| partition.doing() == doing).count();
    let counted = Doing::ALL.into_iter().filter_map(|doing| match count(doing) {
        0 => None,
        count => Some(format!("{count} {}", doing.name())),
    });
    let counted = counted.collect::<Vec<_>>().join(", ");
    let live = HumanCount(partitions.iter().map(|partition| partition.live_streams).sum());
    let troubled = partitions.iter().find_map(|partition| Some((partition.partition, partition.trouble.as_ref()?)));
    match (is_stopping, partitions.len()) {
        (true, left) => format!("stopping: {left} partitions are to be committed or handed over"),
        (false, 0) => "starting".to_owned(),
        (false, _) => match troubled {
            None => format!("partitions: {counted}; {live} streams live"),
            Some((partition, trouble)) => format!("partitions: {counted}; partition {partition}: {trouble}"),
        },
    }
}

/// A bar of bytes, for whoever reads files; what comes from elsewhere has no length.
pub fn bytes(total: u64) -> ProgressBar {
    let bar = match total {
        0 => ProgressBar::no_length().with_style(style("{elapsed_precise} {binary_bytes}, {binary_bytes_per_sec}")),
        _ => ProgressBar::new(total).with_style(style(
            "{elapsed_precise} {wide_bar} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}",
        )),
    };
    telemetry::bars().add(bar)
}

/// One line a second, until the run is over: rewritten on a terminal, one below the other elsewhere.
pub async fn line(mut reports: watch::Receiver<Report>) {
    let bar = telemetry::bars().add(ProgressBar::no_length().with_style(style("{wide_msg}")));
    let mut ticks = ticks(LINES);
    ticks.tick().await;
    let mut before = reports.borrow().clone();
    while next(&mut ticks, &mut reports).await {
        let now = reports.borrow().clone();
        if now.counts.chunks == 0 {
            continue;
        }
        let line = shown(&before, &now);
        before = now;
        if bar.is_hidden() {
            telemetry::say(&line);
        } else {
            bar.set_message(line);
        }
    }
    bar.finish_and_clear();
}

fn shown(before: &Report, now: &Report) -> String {
    let seconds = (now.elapsed_s - before.elapsed_s).max(f64::EPSILON);
    let rate = |of: fn(&Report) -> u64| HumanCount((of(now).saturating_sub(of(before)) as f64 / seconds) as u64);
    let (counts, latency_ms) = (&now.counts, &now.interval.latency_ms);
    let waiting = match &*now.waiting {
        [] => String::new(),
        [Waiting { partition, reason, streams, .. }] => {
            format!("  partition {partition} takes nothing ({reason}): {streams} streams wait")
        }
        several => {
            let streams = several.iter().map(|waiting| waiting.streams).sum();
            format!("  {} partitions take nothing: {} streams wait", several.len(), HumanCount(streams))
        }
    };
    format!(
        "{:>6.1} s  {} chunks/s  {} finals/s  {} verified  {} in flight  p50 {:.1} ms  p99 {:.1} ms{waiting}",
        now.elapsed_s,
        rate(|report| report.counts.chunks),
        rate(|report| report.counts.verified),
        HumanCount(counts.verified),
        HumanCount(counts.unfinished),
        latency_ms.p50,
        latency_ms.p99,
    )
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a template of this file")
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Waits for the next tick; false once the run is over.
async fn next(ticks: &mut Interval, reports: &mut watch::Receiver<Report>) -> bool {
    loop {
        tokio::select! {
            _ = ticks.tick() => return true,
            changed = reports.changed() => if changed.is_err() { return false },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::report::{Counts, Interval, Latency, Reason};
    use jetfold::PartitionStanding;

    #[test]
    fn a_worker_s_line_tells_what_it_does_and_what_keeps_it() {
        let held = |partition, live_streams, trouble: Option<&str>| PartitionStanding {
            partition,
            live_streams,
            trouble: trouble.map(str::to_owned),
            ..PartitionStanding::default()
        };
        let of = |partitions| WorkerStanding { partitions, ..WorkerStanding::default() };
        assert_eq!(standing(&of(vec![]), false), "starting");
        let sound = of(vec![held(0, 1200, None), held(3, 34, None)]);
        assert_eq!(standing(&sound, false), "partitions: 2 folding; 1,234 streams live");
        let restoring = of(vec![held(0, 0, None), held(3, 0, Some("restoring a snapshot: 5 of 9 rows"))]);
        let line = "partitions: 1 folding, 1 waiting; partition 3: restoring a snapshot: 5 of 9 rows";
        assert_eq!(standing(&restoring, false), line);
        assert_eq!(standing(&sound, true), "stopping: 2 partitions are to be committed or handed over");
    }

    #[test]
    fn a_line_tells_rates_since_the_last_and_totals_and_what_waits() {
        let before = Report { elapsed_s: 1.0, ..Report::default() };
        let recent = Latency { p50: 1.04, p99: 3.85, ..Latency::default() };
        let mut now = Report {
            counts: Counts { chunks: 3_000_000, verified: 30_000, unfinished: 400, ..Counts::default() },
            elapsed_s: 3.0,
            interval: Interval { latency_ms: recent, ..Interval::default() },
            ..Report::default()
        };
        let line =
            "   3.0 s  1,500,000 chunks/s  15,000 finals/s  30,000 verified  400 in flight  p50 1.0 ms  p99 3.9 ms";
        assert_eq!(shown(&before, &now), line);
        now.waiting.push(Waiting { partition: 1, reason: Reason::LogFull, waited_s: 2.0, streams: 37 });
        let one = "  partition 1 takes nothing (log full): 37 streams wait";
        assert_eq!(shown(&before, &now), format!("{line}{one}"));
        now.waiting.push(Waiting { partition: 3, reason: Reason::NoAnswer, waited_s: 2.0, streams: 3000 });
        assert_eq!(shown(&before, &now), format!("{line}  2 partitions take nothing: 3,037 streams wait"));
    }
}
