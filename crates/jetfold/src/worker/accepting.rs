//! Accepting a loss while workers run: the operator says it once, to all of them, and whoever has that very loss in question takes it.
//!
//! What is taken is good for that one finding. It is recorded in the store once the finding has stood for long enough, and forgotten
//! if it turns out that nothing was lost: no later loss is accepted by it.

use super::board::Board;
use crate::identity::accept::{Acceptance, Loss};
use crate::nats::connect::Connection;
use crate::nats::names::Names;
use async_nats::{StatusCode, SubscribeError};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long workers may take to answer. Of the answers, one that takes the loss ends the waiting.
const PATIENCE: Duration = Duration::from_secs(3);

/// What one worker answers that holds the partition. Travels as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepting {
    pub worker: String,
    /// Whether the loss is in question there, and is accepted from now on.
    pub taken: bool,
    /// How the partition stands there, in words.
    pub stands: String,
}

/// Why nobody was told.
#[derive(Debug, thiserror::Error)]
#[error("the workers can't be told ({0}): see that NATS is up, and that this user may publish and subscribe")]
pub struct CannotTell(String);

/// Takes what the operator accepts, until the connection is closed for good. Reconnects are survived.
pub(super) async fn hear(connection: Connection, names: Names, board: Board) -> Result<(), SubscribeError> {
    let client = connection.client;
    let mut said = client.subscribe(names.accept_subject_of_all()).await?;
    while let Some(message) = said.next().await {
        let partition = message.subject.rsplit('.').next().and_then(|partition| partition.parse().ok());
        let loss = std::str::from_utf8(&message.payload).ok().and_then(|loss| loss.parse::<Loss>().ok());
        // What is neither comes from somebody else.
        let (Some(partition), Some(loss)) = (partition, loss) else { continue };
        let Some(answer) = board.accept(Acceptance { loss, partition }) else { continue };
        if answer.taken {
            tracing::info!(%loss, partition, "told to accept a loss: it is accepted, and recorded, once it has stood");
        }
        let answer = serde_json::to_vec(&answer).expect("an answer has a JSON form");
        // Whoever has said it says it again.
        client.publish(names.accepted_subject(partition), answer.into()).await.ok();
    }
    Ok(())
}

/// Tells all workers that a loss is accepted: the answers of those that hold the partition, up to the first that takes it.
pub async fn tell(
    connection: &Connection,
    names: &Names,
    Acceptance { loss, partition }: Acceptance,
) -> Result<Vec<Accepting>, CannotTell> {
    let client = &connection.client;
    let cannot = |error: &dyn std::fmt::Display| CannotTell(error.to_string());
    let answered = names.accepted_subject(partition);
    let mut answers = client.subscribe(answered.clone()).await.map_err(|error| cannot(&error))?;
    let said = client.publish_with_reply(names.accept_subject(partition), answered, loss.to_string().into());
    said.await.map_err(|error| cannot(&error))?;
    let deadline = Instant::now() + PATIENCE;
    let mut told: Vec<Accepting> = Vec::new();
    while !told.last().is_some_and(|answer| answer.taken)
        && let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await
        && answer.status != Some(StatusCode::NO_RESPONDERS)
    {
        // What is no answer comes from somebody else.
        told.extend(serde_json::from_slice::<Accepting>(&answer.payload));
    }
    Ok(told)
}
