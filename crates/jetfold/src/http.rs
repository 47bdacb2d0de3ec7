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
use crate::worker::health::Health;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use std::future::Future;
use std::sync::Arc;

/// A store syncs within milliseconds, or its disk is what everybody waits for.
const COMMIT_BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// The recorder of this process, to which every metric goes from now on: to be made before what is measured. `more` are metrics of the
/// application's own, and `buckets` the upper ends of those that are histograms.
///
/// # Errors
/// If the process has a recorder already.
pub fn recorder(more: &[Metric], buckets: &[(&str, &[f64])]) -> Result<PrometheusHandle, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for (name, ends) in buckets.iter().copied().chain([(COMMIT_SECONDS, &COMMIT_BUCKETS[..])]) {
        builder = builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), ends)?;
    }
    let handle = builder.install_recorder()?;
    metrics::describe(metrics::ALL);
    metrics::describe(more);
    Ok(handle)
}

/// The routes of a worker. `measure` is called before each answer with metrics, for what is looked at only then.
pub fn routes<F: Future<Output = ()> + Send>(
    handle: PrometheusHandle,
    health: &Health,
    measure: impl Fn() -> F + Send + Sync + 'static,
) -> Router {
    let (of_metrics, of_ready, measure) = (health.clone(), health.clone(), Arc::new(measure));
    let metrics = async move || {
        of_metrics.measure().await;
        measure().await;
        handle.run_upkeep();
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render())
    };
    let ready = async move || match of_ready.ready() {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()).into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
}
