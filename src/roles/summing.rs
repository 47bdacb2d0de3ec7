//! The summer's role: a worker that folds chunks to sums, and says at its end what it has done.

use crate::sum::Summer;
use crate::sum::answer::answer;
use crate::sum::topology_section;
use jetfold::Acceptance;
use jetfold::Counters;
use jetfold::nats::connect;
use jetfold::{Worker, WorkerConfig, WorkerError};
use tokio_util::sync::CancellationToken;

/// A worker that sums.
pub fn worker(config: &WorkerConfig, nats: &connect::Config, topology: &topology_section::Config) -> Worker<Summer> {
    Worker::new(topology.summer(), config.clone(), nats.clone(), topology.machine()).answering(answer)
}

/// Sums until `stop`, or until it can't go on: see [`Worker::run`].
pub async fn run(worker: Worker<Summer>, accept: &[Acceptance], stop: CancellationToken) -> Result<(), WorkerError> {
    let counters = worker.counters();
    let result = worker.accepting(accept.iter().copied()).run(stop).await;
    // What kept it from starting says all there is to say.
    if matches!(result, Ok(()) | Err(WorkerError::Partition(_))) {
        report(&counters);
    }
    result
}

/// One log line with all that was counted.
fn report(counters: &Counters<Summer>) {
    let tally = counters.tally();
    tracing::info!(
        batches = counters.batches.get(),
        opened = counters.opened.get(),
        commits = counters.commits.get(),
        chunks = tally.records,
        bytes = tally.own.bytes,
        completed = tally.own.completed,
        duplicates = tally.own.duplicates,
        rejected = tally.rejected,
        gaps = tally.losses,
        finals_published = counters.outputs_published.get(),
        finals_already_there = counters.outputs_already_there.get(),
        rejects_published = counters.rejects_published.get(),
        rejects_already_there = counters.rejects_already_there.get(),
        rejects_differing = counters.rejects_differing.get(),
        conflicting_finals = counters.conflicting_outputs.get(),
        "stopped"
    );
}
