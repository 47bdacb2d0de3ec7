//! `Latencies`: how long finals took, in the whole run and in its last seconds.

use crate::run::presence::Moment;
use crate::run::report::{Interval, Latency};
use hdrhistogram::Histogram;
use std::time::Duration;

/// The longest that is told apart: an hour.
const LONGEST_US: u64 = 3_600_000_000;

/// Of the whole run, to three digits.
const DIGITS: u8 = 3;

/// Of its last seconds, which cost a histogram each, to two.
const FEWER_DIGITS: u8 = 2;

/// The seconds of the last interval, the one under way included.
const SECONDS: u64 = 5;

pub struct Latencies {
    whole: Histogram<u64>,
    /// One a second, each at its place by the second's number.
    seconds: [Second; SECONDS as usize],
}

struct Second {
    number: u64,
    finals: Histogram<u64>,
}

fn histogram(digits: u8) -> Histogram<u64> {
    Histogram::new_with_max(LONGEST_US, digits).expect("bounds that a histogram takes")
}

impl Default for Latencies {
    fn default() -> Self {
        let second = |number| Second { number, finals: histogram(FEWER_DIGITS) };
        Self { whole: histogram(DIGITS), seconds: [0, 1, 2, 3, 4].map(second) }
    }
}

impl Latencies {
    /// A final came at `at` and has taken this long.
    pub fn record(&mut self, at: Moment, latency: Duration) {
        let latency = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
        self.whole.saturating_record(latency);
        let number = at.as_secs();
        let second = &mut self.seconds[(number % SECONDS) as usize];
        if number > second.number {
            second.number = number;
            second.finals.reset();
        }
        second.finals.saturating_record(latency);
    }

    /// Of all finals.
    pub fn whole(&self) -> Latency {
        percentiles(&self.whole)
    }

    /// Of the last whole seconds and the one under way.
    pub fn interval(&self, now: Moment) -> Interval {
        let first = (now.as_secs() + 1).saturating_sub(SECONDS);
        let mut finals = histogram(FEWER_DIGITS);
        for second in self.seconds.iter().filter(|second| (first..=now.as_secs()).contains(&second.number)) {
            finals.add(&second.finals).expect("of the same bounds");
        }
        let seconds = now.saturating_sub(Duration::from_secs(first)).as_secs_f64();
        Interval { seconds, finals: finals.len(), latency_ms: percentiles(&finals) }
    }
}

fn percentiles(finals: &Histogram<u64>) -> Latency {
    if finals.is_empty() {
        return Latency::default();
    }
    let ms = |us: u64| us as f64 / 1000.0;
    let at = |quantile| ms(finals.value_at_quantile(quantile));
    Latency { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: ms(finals.max()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: f64) -> Moment {
        Duration::from_secs_f64(seconds)
    }

    /// Whether a figure is what it should be, to two digits.
    fn about(found: f64, ms: f64) -> bool {
        (found - ms).abs() <= ms / 50.0
    }

    #[test]
    fn the_interval_forgets_what_is_older_and_the_whole_does_not() {
        let mut latencies = Latencies::default();
        assert_eq!((latencies.whole(), latencies.interval(s(0.5)).finals), (Latency::default(), 0));
        for tenth in 0..100 {
            let (at, latency) = (f64::from(tenth) / 10.0, if tenth < 50 { 1.0 } else { 0.01 });
            latencies.record(s(at), s(latency));
        }
        let whole = latencies.whole();
        assert!(about(whole.max, 1000.0) && about(whole.p50, 10.0), "{whole:?}");
        // When it is looked at; how many seconds it spans, and how many finals and how long a one there is in them.
        for (now, seconds, finals, max) in [(9.9, 4.9, 50, 10.0), (10.5, 4.5, 40, 10.0), (13.9, 4.9, 10, 10.0)] {
            let interval = latencies.interval(s(now));
            assert!((interval.seconds - seconds).abs() < 1e-6, "{interval:?}");
            assert_eq!(interval.finals, finals, "{now}");
            assert!(about(interval.latency_ms.max, max) && about(interval.latency_ms.p50, max), "{interval:?}");
        }
        assert_eq!(latencies.interval(s(15.0)).finals, 0);
    }

    #[test]
    fn a_run_that_is_young_has_a_short_interval() {
        let mut latencies = Latencies::default();
        latencies.record(s(0.1), s(0.05));
        latencies.record(s(2.2), s(2.0));
        let interval = latencies.interval(s(2.5));
        assert_eq!((interval.seconds, interval.finals), (2.5, 2));
        assert!(about(interval.latency_ms.max, 2000.0), "{interval:?}");
    }
}
