//! What can be asked of a partition log: its state, and the messages that tell whether it is what it was.

use crate::checkpoint::{Checkpoint, Position};
use crate::commit::doubt::Leader;
use crate::identity::{LogReading, LogState, NextMessage};
use crate::nats::connect::Connection;
use crate::nats::names::Names;
use crate::nats::read::{self, NoAnswer, StoredMessage, Which};
use async_nats::jetstream::context::Context;

/// One partition log, as its leader knows it.
#[derive(Clone, Debug)]
pub struct LogReader {
    connection: Connection,
    name: String,
    /// What every message of it matches.
    filter: String,
}

impl LogReader {
    pub fn new(connection: Connection, names: &Names, partition: u32) -> Self {
        Self { connection, name: names.log(partition), filter: names.log_filter(partition) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What every message of it matches.
    pub fn filter(&self) -> &str {
        &self.filter
    }

    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    pub fn jetstream(&self) -> &Context {
        &self.connection.jetstream
    }

    /// `None` if the log does not exist.
    pub async fn state(&self) -> Result<Option<LogState>, NoAnswer> {
        Ok(read::stream(self.jetstream(), &self.name).await?.as_ref().map(read::log_state))
    }

    /// Who leads the log; `None` if it does not exist.
    pub async fn leader(&self) -> Result<Option<Leader>, NoAnswer> {
        Ok(read::stream(self.jetstream(), &self.name).await?.as_ref().map(read::leader))
    }

    /// All that a judgement needs; `None` if the log does not exist. `expected` is the position that should come
    /// next: whether it is there is looked up too.
    pub async fn reading(
        &self,
        checkpoint: &Checkpoint,
        expected: Option<Position>,
    ) -> Result<Option<LogReading>, NoAnswer> {
        let Some(state) = self.state().await? else { return Ok(None) };
        let position = checkpoint.position;
        let at_position = if position > 0 && state.first <= position && position <= state.last {
            let found = read::message(self.jetstream(), &self.name, Which::At(position)).await?;
            found.as_ref().map(StoredMessage::mark)
        } else {
            None
        };
        let next = match expected {
            Some(expected) => {
                let which = Which::NextOf(expected, &self.filter);
                let found = read::message(self.jetstream(), &self.name, which).await?;
                Some(NextMessage { expected, found: found.as_ref().map(StoredMessage::mark) })
            }
            None => None,
        };
        Ok(Some(LogReading { state, at_position, next }))
    }
}
