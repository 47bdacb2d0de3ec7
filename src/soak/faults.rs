//! The faults of a run as they come: which is under way, and what became of each.

use crate::local::up::children::ChildError;
use crate::soak::document::Told;
use crate::soak::injector::{Done, Injector};
use crate::soak::plan::Plan;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// A fault that took longer than was planned leaves so much time to the next one.
const GAP: Duration = Duration::from_secs(3);

#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<Vec<Told>>>);

impl Faults {
    pub fn all(&self) -> Vec<Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what is known of them.
    pub fn change(&self, change: impl FnOnce(&mut Vec<Told>)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Injects all faults of a plan, each when it is due.
pub async fn inject_all(
    injector: Arc<Injector>,
    plan: Plan,
    began: Instant,
    faults: Faults,
    say: impl Fn(&str),
) -> Result<(), ChildError> {
    let mut free_at = began;
    for (n, planned) in plan.faults.iter().enumerate() {
        sleep_until((began + Duration::from_secs_f64(planned.at_s)).max(free_at)).await;
        let at = began.elapsed().as_secs_f64();
        let (kind, id) = (planned.fault, n + 1);
        let told = Told {
            id,
            kind,
            target: String::new(),
            at,
            until: None,
            effect: None,
            had_effect: false,
            recovered_s: None,
            baseline_recovered_s: None,
            whose: None,
        };
        faults.change(|all| all.push(told));
        let Done { target, effect } = injector.inject(planned).await?;
        let until = began.elapsed().as_secs_f64();
        let seen = effect.as_deref().unwrap_or("no effect was seen");
        say(&format!("{at:>7.1} s  {kind} {target}: {seen}"));
        faults.change(|all| {
            if let Some(told) = all.last_mut() {
                (told.target, told.until, told.had_effect, told.effect) =
                    (target, Some(until), effect.is_some(), effect);
            }
        });
        free_at = Instant::now() + GAP;
    }
    Ok(())
}
