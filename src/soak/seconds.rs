//! `Seconds`: what each second of a run has seen, and how long the system took to be itself again after a fault.

use crate::run::report::Latency;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// An hour, in microseconds: the longest that is told apart.
const LONGEST_US: u64 = 3_600_000_000;

/// A second is as it should be if its worst is not worse than this many times what was usual before the fault, ...
const WORSE: f64 = 3.0;

/// ... or than this: below it, nobody minds.
const UNMINDED: Duration = Duration::from_millis(250);

/// Seconds in a row that have to be as they should, before it counts as recovered.
const SOUND: u64 = 2;

/// How many seconds before a fault tell what was usual.
const USUAL: u64 = 10;

/// What arrived in each second, and how long it had taken. Older seconds than are asked for are dropped by [`forget`](Self::forget).
pub struct Seconds {
    seconds: BTreeMap<u64, Histogram<u64>>,
    whole: Histogram<u64>,
    /// The last second in which something arrived.
    last: Option<u64>,
}

impl Default for Seconds {
    fn default() -> Self {
        Self { seconds: BTreeMap::new(), whole: histogram(3), last: None }
    }
}

fn histogram(digits: u8) -> Histogram<u64> {
    Histogram::new_with_max(LONGEST_US, digits).expect("bounds that a histogram takes")
}

fn percentiles(found: &Histogram<u64>) -> Latency {
    if found.is_empty() {
        return Latency::default();
    }
    let ms = |us: u64| us as f64 / 1000.0;
    let at = |quantile| ms(found.value_at_quantile(quantile));
    Latency { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: ms(found.max()) }
}

impl Seconds {
    /// Something arrived at `at`, and has taken this long from when it was to be sent.
    pub fn record(&mut self, at: Duration, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        self.whole.saturating_record(took);
        self.last = self.last.max(Some(at.as_secs()));
        self.seconds.entry(at.as_secs()).or_insert_with(|| histogram(2)).saturating_record(took);
    }

    pub fn whole(&self) -> Latency {
        percentiles(&self.whole)
    }

    /// How many have arrived in these seconds, and what they have taken; `None` where nothing has arrived.
    pub fn of(&self, from: u64, to: u64) -> (u64, Option<Latency>) {
        let mut all = histogram(2);
        for found in self.seconds.range(from..to).map(|(_, found)| found) {
            all.add(found).expect("of the same bounds");
        }
        (all.len(), (!all.is_empty()).then(|| percentiles(&all)))
    }

    /// How long nothing had arrived by the end of the second before this one, as what is sent all the time would have taken at the least;
    /// `None` before anything has.
    pub fn silence(&self, before: u64) -> Option<Latency> {
        let silent = before.saturating_sub(self.last? + 1) as f64 * 1000.0;
        Some(Latency { p50: silent, p90: silent, p99: silent, p999: silent, max: silent })
    }

    /// What is usual before `at`: the worst of a middling second of the last ones.
    fn usual(&self, at: u64) -> Duration {
        let mut worst: Vec<u64> =
            self.seconds.range(at.saturating_sub(USUAL)..at).map(|(_, found)| found.max()).collect();
        worst.sort_unstable();
        Duration::from_micros(worst.get(worst.len() / 2).copied().unwrap_or(0))
    }

    /// How long after a fault, that began at `at`, every second was as it should be again; `None` if that did not come before `until`, the
    /// next fault or now. A second in which nothing arrives is not as it should be.
    pub fn recovered(&self, at: Duration, until: Duration) -> Option<Duration> {
        let bound = self.usual(at.as_secs()).mul_f64(WORSE).max(UNMINDED);
        let is_sound = |second: u64| {
            let worst = self.seconds.get(&second).map(|found| Duration::from_micros(found.max()));
            worst.is_some_and(|worst| worst <= bound)
        };
        let (first, last) = (at.as_secs(), until.as_secs());
        let bad = (first..last).rev().find(|second| !is_sound(*second));
        match bad {
            None => Some(Duration::ZERO),
            Some(bad) if bad + SOUND < last => Some(Duration::from_secs(bad + 1).saturating_sub(at)),
            Some(_) => None,
        }
    }

    /// Drops all seconds before this one, of which nothing will be asked any more.
    pub fn forget(&mut self, before: u64) {
        self.seconds = self.seconds.split_off(&before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// Ten a second, each of 20 ms, but for what is told of single seconds: how long those took; `None`: nothing came.
    fn run(odd: &[(u64, Option<f64>)], length: u64) -> Seconds {
        let mut seconds = Seconds::default();
        for second in 0..length {
            let took = odd.iter().find(|(at, _)| *at == second).map_or(Some(0.02), |(_, took)| *took);
            for tenth in 0..10 {
                if let Some(took) = took {
                    seconds.record(s(second as f64 + f64::from(tenth) / 10.0), s(took));
                }
            }
        }
        seconds
    }

    #[test]
    fn recovered_is_when_every_second_is_as_it_should_be_again() {
        let sound = run(&[], 40);
        assert_eq!(sound.recovered(s(20.4), s(30.0)), Some(Duration::ZERO));
        let silent = run(&[(21, None), (22, None), (23, Some(2.5))], 40);
        assert_eq!(silent.recovered(s(20.5), s(30.0)), Some(s(3.5)), "what was held up came in second 23");
        assert_eq!(silent.recovered(s(20.5), s(25.0)), None, "two seconds in a row have to be sound");
        assert_eq!(run(&[(21, None)], 22).recovered(s(20.5), s(22.0)), None);
        // What is slow anyway is no trouble, and what nobody minds is none either.
        let slow: Vec<_> = (0..40).map(|second| (second, Some(1.0))).collect();
        assert_eq!(run(&slow, 40).recovered(s(20.0), s(30.0)), Some(Duration::ZERO));
        assert_eq!(run(&[(21, Some(0.2))], 40).recovered(s(20.0), s(30.0)), Some(Duration::ZERO));
    }

    #[test]
    fn a_silence_is_as_long_as_nothing_has_come() {
        assert_eq!(Seconds::default().silence(9), None);
        let seconds = run(&[], 5);
        let silent = |before| seconds.silence(before).map(|silence| silence.max);
        assert_eq!((silent(5), silent(8)), (Some(0.0), Some(3000.0)));
    }

    #[test]
    fn what_was_forgotten_is_in_the_whole_still() {
        let mut seconds = run(&[], 40);
        seconds.forget(30);
        assert_eq!((seconds.of(0, 30), seconds.of(30, 32).0), ((0, None), 20));
        let whole = seconds.whole();
        assert!((whole.p50 - 20.0).abs() < 0.5 && whole.max < 21.0, "{whole:?}");
    }
}
