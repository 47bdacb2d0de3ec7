//! What the report of a soak holds: JSON, which `page/report.html` draws. Times are in seconds since the first chunk.

use crate::run::report::{Counts, Latency};
use crate::soak::fault::Fault;
use crate::soak::judgement::{Judgement, Whose};
use crate::soak::overheard::Forgot;
use crate::soak::plan::Plan;
use crate::soak::points::Point;
use crate::soak::replicas::Replicas;
use crate::soak::sample::{Sample, Slope};
use serde::Serialize;
use serde_json::Value;

#[derive(Clone, Debug, Serialize)]
pub struct Document {
    #[serde(flatten)]
    pub head: Head,
    /// RFC 3339; `ended` is not there while the run goes on.
    pub written: String,
    pub ended: Option<String>,
    pub verdict: Judgement,
    pub ledger: Ledger,
    pub latency_ms: Latency,
    pub baseline_ms: Latency,
    pub samples: Vec<Sample>,
    pub faults: Vec<Told>,
    pub streams: Vec<Point>,
    pub slopes: Vec<Slope>,
    pub replicas: Option<Replicas>,
    pub forgot: Vec<Forgot>,
    /// Findings that are not listed, because there are too many.
    pub forgot_more: u64,
    pub not_tested: Vec<String>,
}

/// What stays the same all through a run.
#[derive(Clone, Debug, Serialize)]
pub struct Head {
    pub version: &'static str,
    pub started: String,
    /// The command line, as it can be given again.
    pub command: String,
    pub seed: u64,
    pub duration_s: f64,
    pub rate: u64,
    pub max_p99_ms: Option<f64>,
    pub target: Target,
    pub config: Value,
    /// The faults, as `--plan` takes them.
    pub plan: Plan,
}

/// What was soaked.
#[derive(Clone, Debug, Serialize)]
pub struct Target {
    pub kind: &'static str,
    pub servers: Vec<Server>,
    /// As the servers were told; not known of others' servers.
    pub sync_interval: Option<String>,
    pub replicas: usize,
    pub partitions: u32,
    pub summers: u32,
}

#[derive(Clone, Debug, Serialize)]
pub struct Server {
    pub name: String,
    pub version: String,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Ledger {
    #[serde(flatten)]
    pub counts: Counts,
    /// Streams that were closed, and of which nobody could tell how they have ended.
    pub unknown: u64,
}

/// A fault that was injected.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    pub id: usize,
    pub kind: Fault,
    pub target: String,
    pub at: f64,
    /// When it was undone; `None` while it lasts.
    pub until: Option<f64>,
    pub effect: Option<String>,
    pub had_effect: bool,
    /// From its beginning until the system, and the servers alone, were as before, to the second.
    pub recovered_s: Option<f64>,
    pub baseline_recovered_s: Option<f64>,
    pub whose: Option<Whose>,
}
