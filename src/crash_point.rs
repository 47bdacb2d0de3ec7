//! Crash points: named places at which a test can have the process die, without a word and without clean-up.
//!
//! `STREAM_SUM_CRASH_AT=before-commit:3` ends the process as it reaches `before-commit` for the third time. Nothing
//! else in the program knows of this, so what is tested is what is shipped.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const VARIABLE: &str = "STREAM_SUM_CRASH_AT";

struct Plan {
    point: String,
    left: AtomicU64,
}

fn plan() -> Option<&'static Plan> {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    PLAN.get_or_init(|| {
        let text = std::env::var(VARIABLE).ok()?;
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
