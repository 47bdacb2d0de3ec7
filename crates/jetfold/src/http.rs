//! What a worker tells by HTTP: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever starts and stops processes.
//!
//! | path | says | status |
//! | --- | --- | --- |
//! | `/metrics` | every [metric](crate::metrics) that was measured, in the text format of Prometheus | 200 |
//! | `/healthz` | that the process answers | 200 |
//! | `/readyz` | `ready`; or which partition is not, and why, a line each | 200, or 503 |
//!
//! Whoever is not ready is not to be restarted for it: what it waits for is elsewhere, as a rule. So `/healthz` is of the process alone.

use crate::metrics::{self, COMMIT_SECONDS, Metric};
use ::metrics::{Recorder, set_global_recorder};
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::layers::FanoutBuilder;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// A store syncs within milliseconds, or its disk is what everybody waits for.
pub(crate) const COMMIT_BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// How often what was recorded is summed up.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why a process has no recorder that is told here.
#[derive(Debug, thiserror::Error)]
pub enum RecorderError {
    #[error("the process has a recorder of metrics already")]
    Installed,
    #[error("the buckets of a metric are none ({0})")]
    Buckets(#[from] BuildError),
}

/// The recorder of this process, to which every metric goes from now on: to be made before what is measured. `more` are metrics of the
/// application's own, and `buckets` the upper ends of those that are histograms.
///
/// `beside` is told the same: with the feature `otlp`, `otlp` has such a one.
///
/// What is recorded is summed up now and then, whether or not anybody asks: so it takes a bounded place.
///
/// # Errors
/// If the process has a recorder already.
///
/// # Panics
/// Outside a tokio runtime.
pub fn recorder(
    more: &[Metric],
    buckets: &[(&str, &[f64])],
    beside: Option<impl Recorder + Send + Sync + 'static>,
) -> Result<PrometheusHandle, RecorderError> {
    let mut builder = PrometheusBuilder::new();
    for (name, ends) in buckets.iter().copied().chain([(COMMIT_SECONDS, &COMMIT_BUCKETS[..])]) {
        builder = builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), ends)?;
    }
    let prometheus = builder.build_recorder();
    let handle = prometheus.handle();
    let installed = match beside {
        None => set_global_recorder(prometheus).is_ok(),
        Some(beside) => {
            let both = FanoutBuilder::default().add_recorder(prometheus).add_recorder(beside).build();
            set_global_recorder(both).is_ok()
        }
    };
    if !installed {
        return Err(RecorderError::Installed);
    }
    metrics::describe(metrics::ALL);
    metrics::describe(more);
    let summed_up = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            summed_up.run_upkeep();
        }
    });
    Ok(handle)
}

/// The routes of a process: those of a worker with its [`Health`](crate::Health), as `ready` and `measure`. What is looked at only when it
/// is asked for is measured by `measure`, before each answer with metrics.
pub fn routes<F: Future<Output = ()> + Send>(
    handle: PrometheusHandle,
    ready: impl Fn() -> Result<(), String> + Clone + Send + Sync + 'static,
    measure: impl Fn() -> F + Send + Sync + 'static,
) -> Router {
    let measure = Arc::new(measure);
    let metrics = async move || {
        measure().await;
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render())
    };
    let ready = async move || match ready() {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()).into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
}
