//! What a process tells by HTTP, where it is asked to: the page of the system, its metrics, and whether it is ready.
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
use metrics_exporter_prometheus::PrometheusHandle;
use page::Source;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port; empty: nothing is told.
    pub listen: String,
}

#[derive(Debug, thiserror::Error)]
pub enum WebError {
    #[error("nobody can be listened to at {address} ({cause}): name another address and port with --http")]
    Listen { address: String, cause: io::Error },
    #[error("what is measured can't be told: {0}")]
    Recorder(#[from] metrics_exporter_prometheus::BuildError),
}

/// An address that is listened on, before anything is measured.
pub struct Web {
    listener: TcpListener,
    pub address: SocketAddr,
    handle: PrometheusHandle,
}

impl Web {
    /// Listens where it is said; `None` where it is not.
    ///
    /// # Errors
    /// If that can't be, or the process has told its metrics to somebody else before.
    pub async fn listen(config: &Config) -> Result<Option<Self>, WebError> {
        let address = &config.listen;
        if address.is_empty() {
            return Ok(None);
        }
        let refuse = |cause| WebError::Listen { address: address.clone(), cause };
        let listener = TcpListener::bind(address).await.map_err(refuse)?;
        let address = listener.local_addr().map_err(refuse)?;
        let handle = http::recorder(ledger::ALL, &[])?;
        Ok(Some(Self { listener, address, handle }))
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
        let own = http::routes(self.handle.clone(), || Ok(()), measure);
        self.serve(own.merge(page))
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
        let own = http::routes(self.handle.clone(), move || of_ready.ready(), measure);
        self.serve(own.merge(page))
    }

    /// Answers until what is returned is dropped: whoever watches the page never hangs up.
    fn serve(self, routes: Router) -> AbortOnDropHandle<()> {
        let Self { listener, .. } = self;
        AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, routes).await {
                tracing::error!(%error, "nobody is answered by HTTP any more");
            }
        }))
    }
}
