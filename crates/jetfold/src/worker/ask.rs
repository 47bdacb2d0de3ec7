//! Asking for what workers have committed: a question goes to a partition, and whoever folds that answers from its store.
//!
//! Each worker of a partition answers, and the first answer counts: all of them are `fold(log[..=position])`, one maybe further
//! than another. What is not committed is not told, so an answer never takes back what another has said, unless it comes from a
//! worker that is behind.

use crate::application::Application;
use crate::caught::caught;
use crate::checkpoint::Position;
use crate::joined::joined;
use crate::nats::connect::Connection;
use crate::producer::Producer;
use crate::stamp::Stamp;
use crate::store::{Store, StoreError, View};
use async_nats::client::RequestErrorKind;
use async_nats::service::{self, Service, ServiceExt};
use bytes::Bytes;
use futures_util::StreamExt;
use std::sync::Arc;
use tokio::sync::watch;

/// The header of an answer that says why there is none, as NATS services have it.
const FAILED: &str = "Nats-Service-Error";

/// What answers a question, in bytes, from a store at one moment.
pub type Answer<A> = dyn Fn(&View<A>, &[u8]) -> Result<Vec<u8>, StoreError> + Send + Sync;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error(
        "no worker answers for partition {partition} ({subject}): start one that folds it, and that answers questions"
    )]
    Nobody { partition: u32, subject: String },
    #[error("a worker could not answer ({0}): see its log")]
    Failed(String),
    #[error("no answer ({0}): see that NATS is up, and that the worker is not overloaded")]
    NoAnswer(String),
}

/// The NATS service of a worker: `nats micro` lists it, and counts what it is asked. `None` if it can't be: folding does not depend on it.
pub async fn service<A: Application>(connection: &Connection, worker: &str) -> Option<Arc<Service>> {
    let what = format!("what {} {worker} has committed, by partition", A::WORDS.worker);
    // A group of its own: were it one of several, whoever is paused would be asked in the place of those who answer.
    let builder = connection.client.service_builder().description(what).queue_group(worker);
    match builder.start(A::NAME, env!("CARGO_PKG_VERSION")).await {
        Ok(service) => Some(Arc::new(service)),
        Err(error) => {
            tracing::warn!(%error, "nobody can ask this worker for what it has committed");
            None
        }
    }
}

/// Answers what is asked on `subject`, one question after the other, until the connection is closed for good. `stores` has the
/// store of the partition, and the one that takes its place if it is damaged.
pub async fn answer<A: Application>(
    service: Arc<Service>,
    name: String,
    subject: String,
    stores: watch::Receiver<Arc<Store<A>>>,
    answer: Arc<Answer<A>>,
) {
    let mut questions = match service.endpoint_builder().name(name).add(subject).await {
        Ok(questions) => questions,
        Err(error) => return tracing::warn!(%error, "nobody can ask this worker for what it has committed"),
    };
    while let Some(question) = questions.next().await {
        let (store, answer) = (stores.borrow().clone(), answer.clone());
        let asked = question.message.payload.clone();
        // A store reads from a disk. A panic of an application's answer costs that answer, and nothing else.
        let answering = move || caught(|| answer(&store.view()?, &asked));
        let answered = match joined(tokio::task::spawn_blocking(answering).await) {
            Ok(answered) => answered.map_err(|error| error.to_string()),
            Err(said) => Err(format!("it panicked: {said}")),
        };
        let answered = answered.map(Bytes::from).map_err(|error| {
            tracing::error!("a question could not be answered: {error}");
            service::error::Error { status: error.replace(['\r', '\n'], " "), code: 500 }
        });
        // Whoever has asked asks again.
        question.respond(answered).await.ok();
    }
}

/// How far a producer has come, as a worker tells it.
///
/// In bytes: `<position>`, or `<position> <stamp>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// What the worker has committed: it knows nothing of what comes after.
    pub position: Position,
    /// The last stamp of the producer; `None` if there is none.
    pub stamp: Option<Stamp>,
}

impl Told {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Self { position, stamp } = self;
        match stamp {
            None => position.to_string().into_bytes(),
            Some(stamp) => format!("{position} {stamp}").into_bytes(),
        }
    }

    pub(crate) fn decode(told: &[u8]) -> Option<Self> {
        let told = std::str::from_utf8(told).ok()?;
        let (position, stamp) = told.split_once(' ').map_or((told, None), |(position, stamp)| (position, Some(stamp)));
        Some(Self { position: position.parse().ok()?, stamp: stamp.map(str::parse).transpose().ok()? })
    }
}

/// How far a producer has come, by its name, as far as it is committed.
pub(super) fn last_stamp<A: Application>(view: &View<A>, name: &[u8]) -> Result<Vec<u8>, StoreError> {
    let name = String::from_utf8_lossy(name);
    let stamp = view.producer(&name)?.map(|row| {
        let Producer { life, number, offset, .. } = row;
        Stamp { producer: name.into_owned(), life, number, offset }
    });
    let position = view.checkpoint()?.map_or(0, |checkpoint| checkpoint.position);
    Ok(Told { position, stamp }.encode())
}

/// Asks the workers of a partition how far a producer has come.
pub async fn ask_for_producer(
    connection: &Connection,
    subject: String,
    partition: u32,
    name: &str,
) -> Result<Told, AskError> {
    let answer = ask(connection, subject, partition, name.to_owned().into()).await?;
    let told = Told::decode(&answer);
    let told = told.filter(|told| told.stamp.as_ref().is_none_or(|stamp| stamp.producer == name));
    told.ok_or_else(|| AskError::Failed(format!("it said {:?}", String::from_utf8_lossy(&answer))))
}

/// Asks the workers of a partition, and returns the first answer.
pub async fn ask(connection: &Connection, subject: String, partition: u32, question: Bytes) -> Result<Bytes, AskError> {
    match connection.client.request(subject.clone(), question).await {
        Ok(answer) => match answer.headers.as_ref().and_then(|headers| headers.get(FAILED)) {
            Some(why) => Err(AskError::Failed(why.to_string())),
            None => Ok(answer.payload),
        },
        Err(error) if error.kind() == RequestErrorKind::NoResponders => Err(AskError::Nobody { partition, subject }),
        Err(error) => Err(AskError::NoAnswer(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_tells_of_a_producer_comes_back_and_nothing_else_is_taken_for_it() {
        let stamp = Stamp { producer: "p".into(), life: 2, number: 7, offset: 41 };
        for (told, bytes) in
            [(Told { position: 12, stamp: Some(stamp) }, "12 p 2 7 41"), (Told { position: 0, stamp: None }, "0")]
        {
            assert_eq!(told.encode(), bytes.as_bytes());
            assert_eq!(Told::decode(bytes.as_bytes()), Some(told));
        }
        for bytes in [&b""[..], b" ", b"x", b"12 ", b"12 p 2 7", b"p 2 7 41", b"12 p 2 0 41", b"\xff"] {
            assert_eq!(Told::decode(bytes), None);
        }
    }
}
