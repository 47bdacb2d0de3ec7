//! Asking workers how far they are: one request, one answer from each worker that is there.

use crate::bus::connect::Connection;
use crate::bus::names::Names;
use crate::standing::WorkerStanding;
use async_nats::{StatusCode, SubscribeError};
use futures_util::StreamExt;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Why nobody could be asked.
#[derive(Debug, thiserror::Error)]
#[error("the workers can't be asked ({0}): see that this user may publish and subscribe")]
pub struct CannotAsk(String);

/// Answers with what `told` returns, until the connection is closed for good. Reconnects are survived.
pub async fn answer(
    connection: Connection,
    names: Names,
    told: impl Fn() -> WorkerStanding,
) -> Result<(), SubscribeError> {
    let client = connection.client;
    let mut questions = client.subscribe(names.standing_subject()).await?;
    while let Some(question) = questions.next().await {
        let Some(inbox) = question.reply else { continue };
        let answer = serde_json::to_vec(&told()).expect("a standing has a JSON form");
        // Whoever has asked asks again.
        client.publish(inbox, answer.into()).await.ok();
    }
    Ok(())
}

/// Asks all workers, and waits until each of `expected` has answered, for `patience` at the most, and then as long as
/// `others` for those that nobody expects.
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
    let asked = client.publish_with_reply(names.standing_subject(), inbox, Default::default());
    asked.await.map_err(|error| cannot(&error))?;
    let mut told: Vec<WorkerStanding> = Vec::new();
    let mut all = false;
    loop {
        if expected.is_empty() && !all {
            all = true;
            deadline = deadline.min(Instant::now() + others);
        }
        let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await else { break };
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
