//! What a process tells by HTTP, where it is asked to: the page of the system, its metrics, and whether it is ready. The metrics are pushed
//! as well, if there is a collector.
//!
//! | path | of | says |
//! | --- | --- | --- |
//! | `/` | all | the live [`page`] |
//! | `/metrics`, `/healthz`, `/readyz` | all | see [`jetfold::http`]; a chunker measures its [`ledger`] |

pub mod ledger;
pub mod page;

use crate::run::report::Report;
use crate::sum::topology_section;
use axum::Router;
use jetfold::Health;
use jetfold::http;
use jetfold::nats::connect;
use jetfold::values::Span;
use metrics_exporter_prometheus::PrometheusHandle;
use page::Source;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port; empty: nothing is told.
    pub listen: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpConfig {
    /// The collector's address; empty: nothing is pushed.
    pub endpoint: String,
    pub interval: Span,
}

impl Default for OtlpConfig {
    fn default() -> Self {
        Self { endpoint: String::new(), interval: Span(Duration::from_secs(10)) }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum WebError {
    #[error("nobody can be listened to at {address} ({cause}): name another address and port with --http")]
    Listen { address: String, cause: io::Error },
    #[error("what is measured can't be told: {0}")]
    Recorder(#[from] http::RecorderError),
    #[cfg(feature = "otlp")]
    #[error("{0}: set otlp.endpoint")]
    Otlp(#[from] jetfold::otlp::OtlpError),
    #[cfg(not(feature = "otlp"))]
    #[error(
        "this program was built without OTLP, and otlp.endpoint is set: build it with `cargo build --release --features otlp`, or unset that"
    )]
    WithoutOtlp,
}

impl WebError {
    /// Whether it is what somebody has said that can't be.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Listen { .. } | Self::Recorder(_) => false,
            #[cfg(feature = "otlp")]
            Self::Otlp(_) => true,
            #[cfg(not(feature = "otlp"))]
            Self::WithoutOtlp => true,
        }
    }
}

/// Who is to be told, before anything is measured.
pub struct Web {
    listening: Option<TcpListener>,
    pub address: Option<SocketAddr>,
    pushing: Option<Pushing>,
    handle: PrometheusHandle,
}

/// What pushes metrics, and how often.
#[cfg(feature = "otlp")]
type Pushing = (jetfold::otlp::Otlp, Duration);
#[cfg(not(feature = "otlp"))]
type Pushing = std::convert::Infallible;

impl Web {
    /// Listens where it is said, and pushes where it is said; `None` if nobody is to be told.
    ///
    /// # Errors
    /// If that can't be, or the process has told its metrics to somebody else before.
    pub async fn open(config: &Config, otlp: &OtlpConfig) -> Result<Option<Self>, WebError> {
        let address = &config.listen;
        let refuse = |cause| WebError::Listen { address: address.clone(), cause };
        let (listening, address) = match address.as_str() {
            "" => (None, None),
            address => {
                let listener = TcpListener::bind(address).await.map_err(refuse)?;
                let address = listener.local_addr().map_err(refuse)?;
                (Some(listener), Some(address))
            }
        };
        let pushing = pushing(otlp)?;
        if listening.is_none() && pushing.is_none() {
            return Ok(None);
        }
        #[cfg(feature = "otlp")]
        let beside = pushing.as_ref().map(|(otlp, _)| otlp.recorder());
        #[cfg(not(feature = "otlp"))]
        let beside = None::<metrics::NoopRecorder>;
        let handle = http::recorder(ledger::ALL, &[], beside)?;
        Ok(Some(Self { listening, address, pushing, handle }))
    }

    /// Answers for a run: its ledger, and the page with it. There is nothing that it is not ready for.
    pub fn serve_run(
        self,
        nats: watch::Receiver<Option<connect::Config>>,
        topology: &topology_section::Config,
        report: watch::Receiver<Report>,
    ) -> AbortOnDropHandle<()> {
        let page = page::routes(Source { nats, topology: topology.clone(), report: Some(report.clone()) });
        let measure = move || {
            ledger::measure(&report.borrow());
            std::future::ready(())
        };
        let own = http::routes(self.handle.clone(), || Ok(()), measure.clone());
        self.serve(own.merge(page), measure)
    }

    /// Answers for a worker: whether it is ready, what it does, and the page of its system.
    pub fn serve_worker(
        self,
        nats: &connect::Config,
        topology: &topology_section::Config,
        health: Health,
    ) -> AbortOnDropHandle<()> {
        let nats = watch::Sender::new(Some(nats.clone())).subscribe();
        let page = page::routes(Source { nats, topology: topology.clone(), report: None });
        let of_ready = health.clone();
        let measure = move || {
            let health = health.clone();
            async move { health.measure().await }
        };
        let own = http::routes(self.handle.clone(), move || of_ready.ready(), measure.clone());
        self.serve(own.merge(page), measure)
    }

    /// Answers until what is returned is dropped: whoever watches the page never hangs up.
    fn serve<F>(self, routes: Router, measure: impl Fn() -> F + Send + Sync + 'static) -> AbortOnDropHandle<()>
    where
        F: Future<Output = ()> + Send,
    {
        let Self { listening, pushing, .. } = self;
        let answering = async move {
            let Some(listener) = listening else { return };
            if let Err(error) = axum::serve(listener, routes).await {
                tracing::error!(%error, "nobody is answered by HTTP any more");
            }
        };
        let pushing = async move {
            #[cfg(feature = "otlp")]
            if let Some((otlp, interval)) = pushing {
                otlp.push(interval, measure).await;
            }
            #[cfg(not(feature = "otlp"))]
            drop((pushing, measure));
        };
        AbortOnDropHandle::new(tokio::spawn(async move { _ = tokio::join!(answering, pushing) }))
    }
}

#[cfg(feature = "otlp")]
fn pushing(config: &OtlpConfig) -> Result<Option<Pushing>, WebError> {
    if config.endpoint.is_empty() {
        return Ok(None);
    }
    Ok(Some((jetfold::otlp::Otlp::new(&config.endpoint, "stream-sum")?, config.interval.0)))
}

#[cfg(not(feature = "otlp"))]
fn pushing(config: &OtlpConfig) -> Result<Option<Pushing>, WebError> {
    if config.endpoint.is_empty() { Ok(None) } else { Err(WebError::WithoutOtlp) }
}
