//! The live page of a system: one file of HTML, and what it shows, sent once a second for as long as somebody looks.
//!
//! What it shows is what [`status`] asks of the server and the workers, and the report of this process, if it is a
//! chunker. Several viewers are told the same: the system is asked once.

use crate::roles::status::{self, Status};
use crate::run::report::Report;
use crate::sum::names::names;
use crate::sum::topology_section;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use futures_util::future::join;
use futures_util::stream::{self, Stream};
use jetfold::nats::connect::{self, Connection};
use jetfold::nats::read;
use serde::Serialize;
use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

const PAGE: &str = include_str!("page.html");

/// How often the system is asked.
const EVERY: Duration = Duration::from_secs(1);

/// Viewers at once: each holds a connection.
const MOST_VIEWERS: usize = 64;

/// Where what the page shows comes from.
#[derive(Clone)]
pub struct Source {
    /// How NATS is reached; `None` until that is known.
    pub nats: watch::Receiver<Option<connect::Config>>,
    pub topology: topology_section::Config,
    /// How the run of this process stands, if it has one.
    pub report: Option<watch::Receiver<Report>>,
}

/// What is sent.
#[derive(Serialize)]
struct Told<'a> {
    program: &'static str,
    version: &'static str,
    status: Option<&'a Status>,
    /// Why there is no status.
    trouble: Option<String>,
    /// Batches of which something was rejected, as long as they are kept.
    rejects: Option<u64>,
    report: Option<Report>,
}

/// Asks while somebody looks, and tells all who do.
struct Asking {
    told: watch::Receiver<String>,
    _task: AbortOnDropHandle<()>,
}

struct Page {
    source: Source,
    asking: Mutex<Weak<Asking>>,
}

/// The page at `/`, and what it shows at `/events`.
pub fn routes(source: Source) -> Router {
    let page = Arc::new(Page { source, asking: Mutex::default() });
    Router::new().route("/", get(async || Html(PAGE))).route("/events", get(events)).with_state(page)
}

async fn events(State(page): State<Arc<Page>>) -> Response {
    let mut current = page.asking.lock().await;
    let asking = match current.upgrade() {
        Some(asking) if Arc::strong_count(&asking) > MOST_VIEWERS => {
            return (StatusCode::SERVICE_UNAVAILABLE, "as many look at this already as can be told\n").into_response();
        }
        Some(asking) => asking,
        None => {
            let asking = Arc::new(Asking::of(page.source.clone()));
            *current = Arc::downgrade(&asking);
            asking
        }
    };
    drop(current);
    Sse::new(told(asking)).keep_alive(KeepAlive::default()).into_response()
}

fn told(asking: Arc<Asking>) -> impl Stream<Item = Result<Event, Infallible>> {
    let mut told = asking.told.clone();
    told.mark_changed();
    stream::unfold((told, asking), async |(mut told, asking)| {
        loop {
            told.changed().await.ok()?;
            let text = told.borrow_and_update().clone();
            // Nothing yet.
            if !text.is_empty() {
                return Some((Ok(Event::default().data(text)), (told, asking)));
            }
        }
    })
}

impl Asking {
    fn of(source: Source) -> Self {
        let (tell, told) = watch::channel(String::new());
        let task = async move {
            let mut connection = None;
            loop {
                let asked = ask(&source, &mut connection).await;
                let (status, rejects, trouble) = match &asked {
                    Ok((status, rejects)) => (Some(status), *rejects, None),
                    Err(trouble) => (None, None, Some(trouble.clone())),
                };
                let report = source.report.as_ref().map(|report| report.borrow().clone());
                let (program, version) = (env!("CARGO_PKG_NAME"), crate::VERSION);
                let said = Told { program, version, status, trouble, rejects, report };
                tell.send_replace(serde_json::to_string(&said).expect("a status and a report have a JSON form"));
                sleep(EVERY).await;
            }
        };
        Self { told, _task: AbortOnDropHandle::new(tokio::spawn(task)) }
    }
}

/// Asks the system, on a connection that is made at the first question.
async fn ask(source: &Source, connection: &mut Option<(Connection, u32)>) -> Result<(Status, Option<u64>), String> {
    let names = names(&source.topology.prefix);
    let (connection, partitions) = match connection {
        Some(known) => known,
        None => {
            let nats = source.nats.borrow().clone().ok_or_else(|| "the system is starting".to_owned())?;
            let made = connect::connect(&nats, "stream-sum page").await.map_err(|error| error.to_string())?;
            let found = made.unless_denied(status::partitions(&made, &source.topology)).await;
            let found = found.map_err(|error| error.to_string())?;
            let partitions = found.ok_or_else(|| "no log of this system answers".to_owned())?;
            connection.insert((made, partitions))
        }
    };
    let asked = async {
        let rejects = async { Some(read::stream(&connection.jetstream, &names.rejects()).await.ok()??.state.messages) };
        join(status::ask(connection, &names, *partitions), rejects).await
    };
    let (status, rejects) = connection.unless_denied(asked).await.map_err(|error| error.to_string())?;
    Ok((status.map_err(|error| error.to_string())?, rejects))
}
