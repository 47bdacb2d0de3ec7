//! `get`: the final of one stream; or how far it is, by whoever folds it.

use crate::roles::{asking, status};
use crate::sum::answer::{Answered, Found};
use crate::sum::codec::{self, Undecodable};
use crate::sum::names::{FinalNames, names};
use crate::sum::stream_id::StreamId;
use crate::sum::topology_section;
use futures_util::StreamExt;
use jetfold::nats::connect::{self, ConnectError, Connection};
use jetfold::nats::names::Names;
use jetfold::nats::read::{self, NoAnswer, Which};
use jetfold::{AskError, Position, rfc3339};
use std::time::Duration;
use tokio::time::timeout;

/// How long whoever waits relies on being told.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum GetError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("sums gives no answer ({0}): see that NATS is up and `stream-sum topology apply` was run")]
    NoAnswer(#[from] NoAnswer),
    #[error("there is no stream {name} at {servers}: run `stream-sum topology apply` first")]
    NoSums { name: String, servers: String },
    #[error("there is no final of stream {0}: it has not ended, or its final is older than sums keeps")]
    None(StreamId),
    #[error("there is no final of stream {id}, and how far it is can't be asked: {cause}")]
    NotAsked { id: StreamId, cause: AskError },
    #[error(
        "stream {id} gets no final: a chunk after chunk {seq_no} is missing, by position {position}. See `rejects`, and send it again under another ID"
    )]
    Broken { id: StreamId, seq_no: u64, position: Position },
    #[error("what sums holds for stream {id} is no final: {cause}")]
    NoFinal { id: StreamId, cause: Undecodable },
}

/// One line: digest, ID, sequence number of the closing chunk, and when the final was stored. Of a stream that has none yet: the digest so
/// far, the chunk that it goes through, and the position by which that is committed; or, with `wait`, the final once it comes.
pub async fn run(
    id: StreamId,
    wait: bool,
    nats: &connect::Config,
    topology: &topology_section::Config,
) -> Result<String, GetError> {
    let connection = connect::connect(nats, "stream-sum get").await?;
    let names = names(&topology.prefix);
    connection.unless_denied(find(&connection, id, wait, nats, topology, &names)).await?
}

async fn find(
    connection: &Connection,
    id: StreamId,
    wait: bool,
    nats: &connect::Config,
    topology: &topology_section::Config,
    names: &Names,
) -> Result<String, GetError> {
    if read::stream(&connection.jetstream, &names.outputs()).await?.is_none() {
        return Err(GetError::NoSums { name: names.outputs(), servers: nats.shown_addresses() });
    }
    // What comes between a look and a wait is heard.
    let subject = names.final_subject(id);
    let mut comes = match wait {
        true => connection.client.subscribe(subject).await.ok(),
        false => None,
    };
    loop {
        if let Some(line) = stored(connection, id, names).await? {
            return Ok(line);
        }
        match (how_far(connection, id, topology, names).await, &mut comes) {
            (Err(error @ GetError::Broken { .. }), _) | (Err(error), None) => return Err(error),
            (Ok(line), None) => return Ok(line),
            (_, Some(comes)) => _ = timeout(LOOK_AGAIN, comes.next()).await,
        }
    }
}

/// The line of its final, if `sums` has it.
async fn stored(connection: &Connection, id: StreamId, names: &Names) -> Result<Option<String>, GetError> {
    let subject = names.final_subject(id);
    let found = read::message(&connection.jetstream, &names.outputs(), Which::LastOf(&subject)).await?;
    let Some(message) = found else { return Ok(None) };
    let sum = codec::decode_final(&message.payload).map_err(|cause| GetError::NoFinal { id, cause })?;
    let at = rfc3339(message.time);
    Ok(Some(format!("{}  {}  seq_no={}  {at}", sum.value, sum.id, sum.seq_no)))
}

/// Asks whoever folds its partition.
async fn how_far(
    connection: &Connection,
    id: StreamId,
    topology: &topology_section::Config,
    names: &Names,
) -> Result<String, GetError> {
    let partitions = status::partitions(connection, topology).await.ok_or(GetError::None(id))?;
    let asked = asking::how_far(connection, names, id, partitions).await;
    let Answered { position, stream } = asked.map_err(|cause| GetError::NotAsked { id, cause })?;
    match stream {
        Found::Live { seq_no, sum } => Ok(format!("{sum}  {id}  seq_no={seq_no}  under way at position {position}")),
        Found::Completed { seq_no, sum } => {
            Ok(format!("{sum}  {id}  seq_no={seq_no}  ended; sums keeps its final no more, or not yet"))
        }
        Found::Broken { seq_no } => Err(GetError::Broken { id, seq_no, position }),
        Found::Unknown | Found::Refused => Err(GetError::None(id)),
    }
}
