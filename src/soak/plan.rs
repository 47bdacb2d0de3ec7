//! `Plan`: which faults come when, drawn from a seed before anything runs, or read from a file, so that a run's faults can be had again.

use crate::soak::fault::Fault;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Before the first fault it is seen how the system is without any.
const LONGEST_QUIET: Duration = Duration::from_secs(15);

/// After a fault, the system gets so long to recover before the next one: the least and the most.
const GAPS: (f64, f64) = (5.0, 9.0);

/// One fault to come. Times are in seconds since the first chunk.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    pub fault: Fault,
    pub at_s: f64,
    pub for_s: f64,
    /// Decides whom it hits, of those that there are.
    pub target: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub faults: Vec<Planned>,
}

#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(
        "it is no plan ({0}): it has `faults`, each with fault, at_s, for_s and target, as a run's report tells them"
    )]
    NotRead(String),
    #[error("fault {number} of the plan, {fault}, comes at {at_s} s: each comes after the one before is over")]
    OutOfOrder { number: usize, fault: Fault, at_s: f64 },
}

impl Plan {
    /// One fault after the other, each of the kinds once before any comes again, with time to recover in between and at both ends.
    pub fn drawn(kinds: &[Fault], seed: u64, duration: Duration) -> Self {
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        let quiet = LONGEST_QUIET.min(duration / 6).as_secs_f64();
        let (mut at_s, until) = (quiet, duration.as_secs_f64() - quiet);
        let (mut faults, mut round) = (Vec::new(), Vec::new());
        while !kinds.is_empty() {
            if round.is_empty() {
                round = kinds.to_vec();
                round.shuffle(&mut dice);
            }
            let fault = round.pop().expect("it was just filled");
            let (least, most) = fault.lasts();
            let for_s = rounded(dice.random_range(least.as_secs_f64()..=most.as_secs_f64()));
            if at_s + for_s > until {
                break;
            }
            faults.push(Planned { fault, at_s: rounded(at_s), for_s, target: u64::from(dice.next_u32()) });
            at_s += for_s + dice.random_range(GAPS.0..=GAPS.1);
        }
        Self { faults }
    }

    /// Of a file: a plan, or a report of a run, whose faults come again.
    pub fn read(text: &str) -> Result<Self, PlanError> {
        #[derive(Deserialize)]
        struct Reported {
            plan: Plan,
        }
        let refuse = |error: serde_json::Error| PlanError::NotRead(error.to_string());
        let plan = match serde_json::from_str::<Reported>(text) {
            Ok(reported) => reported.plan,
            Err(_) => serde_json::from_str::<Self>(text).map_err(refuse)?,
        };
        let mut free = 0.0;
        for (n, Planned { fault, at_s, for_s, .. }) in plan.faults.iter().copied().enumerate() {
            if !(at_s >= free && for_s >= 0.0 && (at_s + for_s).is_finite()) {
                return Err(PlanError::OutOfOrder { number: n + 1, fault, at_s });
            }
            free = at_s + for_s;
        }
        Ok(plan)
    }

    /// The kinds that are in it.
    pub fn has(&self, kind: Fault) -> bool {
        self.faults.iter().any(|planned| planned.fault == kind)
    }
}

/// To the tenth, which is what is told.
fn rounded(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_plan_in_which_each_kind_comes_before_any_comes_again() {
        let kinds = [Fault::SummerKill, Fault::SummerPause, Fault::ServerKill];
        let plan = Plan::drawn(&kinds, 7, Duration::from_secs(300));
        assert_eq!(plan, Plan::drawn(&kinds, 7, Duration::from_secs(300)));
        assert_ne!(plan, Plan::drawn(&kinds, 8, Duration::from_secs(300)));
        assert!(plan.faults.len() > 20, "{plan:?}");
        for round in plan.faults.chunks_exact(3) {
            assert!(kinds.iter().all(|kind| round.iter().any(|planned| planned.fault == *kind)), "{round:?}");
        }
        let mut free = 15.0;
        for planned in &plan.faults {
            assert!(planned.at_s >= free, "{planned:?}");
            free = planned.at_s + planned.for_s + 4.9;
        }
        assert!(free - 4.9 <= 285.0, "time to recover is left at the end");
        assert_eq!(Plan::drawn(&[], 7, Duration::from_secs(300)), Plan::default());
        assert_eq!(Plan::drawn(&kinds, 7, Duration::from_millis(100)), Plan::default());
    }

    #[test]
    fn a_plan_is_read_as_it_was_told_and_nothing_else_is() {
        let plan = Plan::drawn(&Fault::ALL, 3, Duration::from_secs(600));
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(Plan::read(&text).unwrap(), plan);
        assert_eq!(Plan::read(&format!("{{\"plan\": {text}, \"seed\": 3}}")).unwrap(), plan);
        let two = |at_s| {
            format!(
                r#"{{"faults":[{{"fault":"purge","at_s":5,"for_s":2,"target":1}},{{"fault":"summer-kill","at_s":{at_s},"for_s":0,"target":1}}]}}"#
            )
        };
        assert!(Plan::read(&two(7)).is_ok());
        for (text, said) in [
            (two(6), "fault 2 of the plan, summer-kill, comes at 6 s"),
            ("{}".to_owned(), "it is no plan"),
            ("nothing".to_owned(), "it is no plan"),
            (two(7).replace("purge", "flood"), "it is no plan"),
        ] {
            let error = Plan::read(&text).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
