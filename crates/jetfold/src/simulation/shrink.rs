//! A schedule that fails, made shorter: choices are left out, and made calm, for as long as the same still breaks.

use super::schedule::{Outcome, Schedule};

/// Schedules that are tried.
const MOST: usize = 4_000;

/// The shortest that was found, told step by step.
pub fn shorter(seed: u64, failed: Outcome) -> Outcome {
    let what = failed.broken.as_ref().expect("it has failed").what;
    let (mut list, mut left) = (failed.list, MOST);
    let mut fails = |list: &[u16]| {
        left = left.saturating_sub(1);
        (left > 0)
            .then(|| Schedule::played(list.to_vec()).run())
            .filter(|outcome| outcome.broken.as_ref().is_some_and(|broken| broken.what == what))
    };
    let mut width = list.len() / 2;
    while width > 0 {
        let mut from = list.len().saturating_sub(width);
        loop {
            let until = (from + width).min(list.len());
            let without: Vec<_> = list[..from].iter().chain(&list[until..]).copied().collect();
            let mut calm = list.clone();
            calm[from..until].fill(0);
            if let Some(outcome) = fails(&without) {
                list = outcome.list;
            } else if calm != list
                && let Some(outcome) = fails(&calm)
            {
                list = outcome.list;
            }
            if from == 0 {
                break;
            }
            from = from.saturating_sub(width).min(list.len());
        }
        width /= 2;
    }
    eprintln!("seed {seed} fails with {} choices", list.len());
    Schedule::played(list).told().run()
}
