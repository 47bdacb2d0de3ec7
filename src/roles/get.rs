//! `get`: the final of one stream.

use crate::sum::codec::{self, Undecodable};
use crate::sum::names::FinalNames;
use crate::sum::stream_id::StreamId;
use jetfold::nats::connect::{self, ConnectError, Connection};
use jetfold::nats::names::Names;
use jetfold::nats::read::{self, NoAnswer, Which};
use jetfold::rfc3339;

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
    #[error("what sums holds for stream {id} is no final: {cause}")]
    NoFinal { id: StreamId, cause: Undecodable },
}

/// One line: digest, ID, sequence number of the closing chunk, and when the final was stored.
pub async fn run(id: StreamId, nats: &connect::Config, names: &Names) -> Result<String, GetError> {
    let connection = connect::connect(nats, "stream-sum get").await?;
    connection.unless_denied(find(&connection, id, nats, names)).await?
}

async fn find(
    connection: &Connection,
    id: StreamId,
    nats: &connect::Config,
    names: &Names,
) -> Result<String, GetError> {
    let subject = names.final_subject(id);
    if read::stream(&connection.jetstream, &names.outputs()).await?.is_none() {
        return Err(GetError::NoSums { name: names.outputs(), servers: nats.shown_addresses() });
    }
    let found = read::message(&connection.jetstream, &names.outputs(), Which::LastOf(&subject)).await?;
    let message = found.ok_or(GetError::None(id))?;
    let sum = codec::decode_final(&message.payload).map_err(|cause| GetError::NoFinal { id, cause })?;
    let at = rfc3339(message.time);
    Ok(format!("{}  {}  seq_no={}  {at}", sum.value, sum.id, sum.seq_no))
}
