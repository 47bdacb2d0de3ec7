//! `Points`: single streams, for a plot: a fair sample of those that went well, and as many as there is room for of all others.

use crate::run::ledger::Ending;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Serialize, Serializer};
use std::time::Duration;

/// Points of streams that were verified, and of others, at the most.
const MOST_SOUND: usize = 4000;
const MOST_OTHERS: usize = 1000;

/// When a stream was closed, how long its final took, and how it ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    pub t: f64,
    pub took_ms: Option<f64>,
    pub fate: &'static str,
}

impl Serialize for Point {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let thousandth = |number: f64| (number * 1000.0).round() / 1000.0;
        (thousandth(self.t), self.took_ms.map(thousandth), self.fate).serialize(serializer)
    }
}

pub struct Points {
    sound: Vec<Point>,
    seen: u64,
    others: Vec<Point>,
    dice: ChaCha8Rng,
}

impl Points {
    pub fn new(seed: u64) -> Self {
        Self { sound: Vec::new(), seen: 0, others: Vec::new(), dice: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// A final came. Each that ever came is in the sample with the same chance.
    pub fn came(&mut self, at: Duration, took: Duration) {
        let t = at.saturating_sub(took).as_secs_f64();
        let point = Point { t, took_ms: Some(took.as_secs_f64() * 1000.0), fate: "verified" };
        self.seen += 1;
        if self.sound.len() < MOST_SOUND {
            self.sound.push(point);
        } else if let Ok(place) = usize::try_from(self.dice.random_range(0..self.seen))
            && let Some(there) = self.sound.get_mut(place)
        {
            *there = point;
        }
    }

    /// A stream has ended otherwise; this was seen at `now`.
    pub fn ended_badly(&mut self, now: Duration, ending: Ending) {
        let fate = match ending {
            Ending::Verified => "verified",
            Ending::Late => "late",
            Ending::Missing => "missing",
            Ending::Mismatched => "mismatched",
            Ending::Duplicate => "duplicate",
        };
        if self.others.len() < MOST_OTHERS {
            self.others.push(Point { t: now.as_secs_f64(), took_ms: None, fate });
        }
    }

    pub fn all(&self) -> Vec<Point> {
        [&self.sound[..], &self.others].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_bounded_and_fair_and_has_all_that_went_badly() {
        let mut points = Points::new(7);
        for ms in 0..40_000 {
            points.came(Duration::from_millis(ms + 5), Duration::from_millis(5));
        }
        points.ended_badly(Duration::from_secs(40), Ending::Missing);
        let all = points.all();
        assert_eq!(all.len(), MOST_SOUND + 1);
        let early = all.iter().filter(|point| point.t < 20.0).count();
        assert!((1800..2200).contains(&early), "of the first half are {early}");
        assert_eq!(serde_json::to_string(&all[MOST_SOUND]).unwrap(), "[40.0,null,\"missing\"]");
    }
}
