//! Asking whoever folds a stream how far it is.

use crate::sum::answer::Answered;
use crate::sum::stream_id::StreamId;
use jetfold::nats::connect::Connection;
use jetfold::nats::names::Names;
use jetfold::{AskError, ask};

pub async fn how_far(
    connection: &Connection,
    names: &Names,
    id: StreamId,
    partitions: u32,
) -> Result<Answered, AskError> {
    let partition = id.partition(partitions);
    let answer = ask(connection, names.ask_subject(partition), partition, id.to_string().into()).await?;
    let no_answer = || AskError::Failed(format!("it said {:?}", String::from_utf8_lossy(&answer)));
    serde_json::from_slice(&answer).map_err(|_| no_answer())
}
