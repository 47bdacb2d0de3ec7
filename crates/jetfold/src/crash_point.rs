//! Crash points: named places at which a test can have the process die, without a word and without clean-up.
//!
//! `JETFOLD_CRASH_AT=before-commit:3` ends the process as it reaches `before-commit` for the third time. Nothing
//! else in the program knows of this, so what is tested is what is shipped.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The variable, unless the program [names](name) another.
pub const VARIABLE: &str = "JETFOLD_CRASH_AT";

static NAMED: OnceLock<&str> = OnceLock::new();

/// What a program calls the variable: to be said before anything else.
pub fn name(variable: &'static str) {
    NAMED.set(variable).expect("it is named once");
}

struct Plan {
    point: String,
    left: AtomicU64,
}

fn plan() -> Option<&'static Plan> {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    PLAN.get_or_init(|| {
        let text = std::env::var(NAMED.get().copied().unwrap_or(VARIABLE)).ok()?;
        let (point, times) = text.split_once(':').unwrap_or((&text, "1"));
        Some(Plan { point: point.to_owned(), left: AtomicU64::new(times.parse().ok()?) })
    })
    .as_ref()
}

/// Dies here, if this is the place and the time.
pub fn reached(point: &str) {
    if let Some(plan) = plan()
        && plan.point == point
        && plan.left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        std::process::abort();
    }
}
