//! Metrics pushed by OTLP, over HTTP, to a collector of OpenTelemetry's: the same ones, by the same names, as [`http`](crate::http)
//! serves for Prometheus.
//!
//! A collector that is away costs what was to be told meanwhile, and nothing else: counters go on where they are.

use crate::metrics::COMMIT_SECONDS;
use crate::throttle::ThrottleByCause;
use metrics::{KeyName, Recorder};
use metrics_exporter_otel::OpenTelemetryRecorder;
use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_otlp::{ExporterBuildError, MetricExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use std::future::Future;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// How long a collector may take to answer. A worker that ends waits for the last one.
const PATIENCE: Duration = Duration::from_secs(2);

/// The reader has a clock of its own, which must not tell what was not measured: it is asked instead.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

static COMPLAINTS: ThrottleByCause = ThrottleByCause::new();

/// Why nothing can be pushed.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    #[error("metrics can't be pushed to {endpoint}: it is no address as http://127.0.0.1:4318")]
    NoAddress { endpoint: String },
    #[error("metrics can't be pushed to {endpoint} ({cause})")]
    NotBuilt { endpoint: String, cause: ExporterBuildError },
}

/// What pushes the metrics of this process.
pub struct Otlp {
    provider: SdkMeterProvider,
    recorder: OpenTelemetryRecorder,
    endpoint: String,
}

impl Otlp {
    /// `endpoint` is the collector's address, as `http://127.0.0.1:4318`; `service` what the process is called there. Nothing is sent yet.
    ///
    /// # Errors
    /// If the address is none. Whether anybody listens there is not looked at.
    pub fn new(endpoint: &str, service: &'static str) -> Result<Self, OtlpError> {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let is_address = endpoint.strip_prefix("http://").is_some_and(|rest| !rest.is_empty());
        if !is_address || endpoint.contains(char::is_whitespace) {
            return Err(OtlpError::NoAddress { endpoint });
        }
        let exporter = MetricExporter::builder().with_http().with_endpoint(format!("{endpoint}/v1/metrics"));
        let exporter = exporter.with_timeout(PATIENCE).build();
        let exporter = exporter.map_err(|cause| OtlpError::NotBuilt { endpoint: endpoint.clone(), cause })?;
        let host = gethostname::gethostname().to_string_lossy().into_owned();
        let instance = KeyValue::new("service.instance.id", format!("{host}-{}", std::process::id()));
        let resource = Resource::builder().with_service_name(service).with_attribute(instance).build();
        let reader = PeriodicReader::builder(exporter).with_interval(NEVER).build();
        let provider = SdkMeterProvider::builder().with_reader(reader).with_resource(resource).build();
        let recorder = OpenTelemetryRecorder::new(provider.meter(service));
        recorder.set_histogram_bounds(&KeyName::from_const_str(COMMIT_SECONDS), crate::http::COMMIT_BUCKETS.to_vec());
        Ok(Self { provider, recorder, endpoint })
    }

    /// To be given to [`http::recorder`](crate::http::recorder).
    pub fn recorder(&self) -> impl Recorder + Send + Sync + 'static {
        self.recorder.clone()
    }

    /// Pushes what there is, again and again. What is looked at only when it is asked for is measured by `measure`, before each time. The
    /// last time is when this is dropped.
    pub async fn push<F: Future<Output = ()>>(self, every: Duration, measure: impl Fn() -> F) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            measure().await;
            let provider = self.provider.clone();
            let pushed = crate::joined(tokio::task::spawn_blocking(move || provider.force_flush()).await);
            let cause = pushed.err().map(|error| error.to_string());
            if let Some((cause, times)) = cause.and_then(|cause| COMPLAINTS.count(&cause).map(|times| (cause, times))) {
                tracing::warn!(endpoint = self.endpoint, cause, times, "metrics were not pushed");
            }
        }
    }
}
