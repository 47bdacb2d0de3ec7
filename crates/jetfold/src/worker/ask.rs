//! Asking for what workers have committed: a question goes to a partition, and whoever folds that answers from its store.
//!
//! Each worker of a partition answers, and the first answer counts: all of them are `fold(log[..=position])`, one maybe further
//! than another. What is not committed is not told, so an answer never takes back what another has said, unless it comes from a
//! worker that is behind.

use crate::application::Application;
use crate::joined::joined;
use crate::nats::connect::Connection;
use crate::producer::Producer;
use crate::stamp::Stamp;
use crate::store::{Store, StoreError, View};
use async_nats::HeaderMap;
use async_nats::client::RequestErrorKind;
use bytes::Bytes;
use futures_util::StreamExt;
use std::sync::Arc;
use tokio::sync::watch;

/// The header of an answer that says why there is none.
const FAILED: &str = "Jetfold-Failed";

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

/// Answers what is asked on `subject`, one question after the other, until the connection is closed for good. `stores` has the
/// store of the partition, and the one that takes its place if it is damaged.
pub async fn answer<A: Application>(
    connection: Connection,
    subject: String,
    stores: watch::Receiver<Arc<Store<A>>>,
    answer: Arc<Answer<A>>,
) {
    let client = &connection.client;
    let mut questions = match client.subscribe(subject).await {
        Ok(questions) => questions,
        // Folding does not depend on it.
        Err(error) => return tracing::warn!(%error, "nobody can ask this worker for what it has committed"),
    };
    while let Some(question) = questions.next().await {
        let Some(inbox) = question.reply else { continue };
        let (store, answer) = (stores.borrow().clone(), answer.clone());
        // A store reads from a disk.
        let answering = tokio::task::spawn_blocking(move || answer(&store.view()?, &question.payload));
        let published = match joined(answering.await) {
            Ok(answer) => client.publish(inbox, answer.into()).await,
            Err(error) => {
                tracing::error!("a question could not be answered: {error}");
                let mut headers = HeaderMap::new();
                headers.insert(FAILED, error.to_string().replace(['\r', '\n'], " "));
                client.publish_with_headers(inbox, headers, Bytes::new()).await
            }
        };
        // Whoever has asked asks again.
        published.ok();
    }
}

/// The last stamp of a producer, by its name, as far as it is committed; empty if there is none.
pub(super) fn last_stamp<A: Application>(view: &View<A>, name: &[u8]) -> Result<Vec<u8>, StoreError> {
    let name = String::from_utf8_lossy(name);
    let found = view.producer(&name)?;
    Ok(found.map_or_else(Vec::new, |row| {
        let Producer { life, number, offset, .. } = row;
        Stamp { producer: name.into_owned(), life, number, offset }.to_string().into_bytes()
    }))
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
