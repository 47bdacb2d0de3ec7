//! Asking workers how far they are: one question, one answer from each worker that is there.
//!
//! Who is there is known to the server: every worker listens on a subject of its own besides, and what is sent to a worker
//! that is not connected comes back at once. So nobody waits for the dead, and whoever is busy gets its time.

use crate::nats::connect::Connection;
use crate::nats::names::Names;
use crate::standing::WorkerStanding;
use async_nats::client::RequestErrorKind;
use async_nats::{Client, StatusCode, SubscribeError};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt, select};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Why nobody could be asked.
#[derive(Debug, thiserror::Error)]
#[error("the workers can't be asked ({0}): see that this user may publish and subscribe")]
pub struct CannotAsk(String);

/// Answers for `worker` with what `told` returns, until the connection is closed for good. Reconnects are survived.
pub async fn answer(
    connection: Connection,
    names: Names,
    worker: &str,
    told: impl Fn() -> WorkerStanding,
) -> Result<(), SubscribeError> {
    let client = connection.client;
    let to_all = client.subscribe(names.standing_subject()).await?;
    let to_this_one = client.subscribe(names.standing_subject_of(worker)).await?;
    let mut questions = select(to_all, to_this_one);
    while let Some(question) = questions.next().await {
        let Some(inbox) = question.reply else { continue };
        let answer = serde_json::to_vec(&told()).expect("a standing has a JSON form");
        // Whoever has asked asks again.
        client.publish(inbox, answer.into()).await.ok();
    }
    Ok(())
}

/// Asks all workers, and waits until each of `expected` that is connected has answered, for `patience` at the most, and then
/// as long as `others` for those that nobody expects.
pub async fn ask(
    connection: &Connection,
    names: &Names,
    mut expected: BTreeSet<String>,
    patience: Duration,
    others: Duration,
) -> Result<Vec<WorkerStanding>, CannotAsk> {
    let client = &connection.client;
    let mut deadline = Instant::now() + patience;
    let cannot = |error: &dyn std::fmt::Display| CannotAsk(error.to_string());
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.map_err(|error| cannot(&error))?;
    let asked = client.publish_with_reply(names.standing_subject(), inbox, Bytes::new());
    asked.await.map_err(|error| cannot(&error))?;
    let mut absent: FuturesUnordered<_> =
        expected.iter().cloned().map(|worker| absent(client, names.standing_subject_of(&worker), worker)).collect();
    let mut told: Vec<WorkerStanding> = Vec::new();
    let mut all = false;
    loop {
        if expected.is_empty() && !all {
            all = true;
            deadline = deadline.min(Instant::now() + others);
        }
        let answer = tokio::select! {
            biased;
            answer = answers.next() => answer,
            Some(absent) = absent.next() => {
                if let Some(worker) = absent {
                    expected.remove(&worker);
                }
                continue;
            }
            () = sleep_until(deadline) => break,
        };
        let Some(answer) = answer else { break };
        if answer.status == Some(StatusCode::NO_RESPONDERS) {
            break;
        }
        // What is no standing comes from somebody else: it is no answer.
        if let Ok(standing) = serde_json::from_slice::<WorkerStanding>(&answer.payload) {
            expected.remove(&standing.worker);
            told.push(standing);
        }
    }
    Ok(told)
}

/// The worker, if it is not connected, as far as the server knows. One of another version may not listen there, and
/// answers like those that nobody expects.
async fn absent(client: &Client, subject: String, worker: String) -> Option<String> {
    let answer = client.request(subject, Bytes::new()).await;
    answer.is_err_and(|error| error.kind() == RequestErrorKind::NoResponders).then_some(worker)
}
