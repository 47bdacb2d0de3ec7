//! How far a run is, for people: a bar or a line on a terminal, plain lines elsewhere.

use crate::run::report::{Report, Waiting};
use crate::telemetry;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};

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
