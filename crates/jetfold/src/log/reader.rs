//! What can be asked of a partition log: its state, and the messages that tell whether it is what it was.

use crate::checkpoint::{Checkpoint, Position};
use crate::commit::doubt::Leader;
use crate::identity::{LogReading, LogState, NextMessage};
use crate::nats::connect::Connection;
use crate::nats::names::Names;
use crate::nats::read::{self, NoAnswer, StoredMessage, StreamNow, Which};
use crate::time::{UnixNanos, age};
use async_nats::jetstream::context::Context;
use std::time::Duration;

/// One partition log, as its leader knows it.
#[derive(Clone, Debug)]
pub struct LogReader {
    connection: Connection,
    name: String,
    /// What every message of it matches.
    filter: String,
}

/// What of a log is not folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    pub batches: u64,
    /// How long ago the oldest of them was stored, by the clock of the log's leader.
    pub oldest: Duration,
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

    /// How far a position is behind the end; `None` if the log does not exist, or does not reach as far as the position.
    pub async fn behind(&self, position: Position) -> Result<Option<Behind>, NoAnswer> {
        let Some(StreamNow { info, at }) = read::stream_now(self.jetstream(), &self.name).await? else {
            return Ok(None);
        };
        let state = read::log_state(&info);
        let Some(batches) = state.last.checked_sub(position) else { return Ok(None) };
        let since = if batches == 0 { None } else { self.stored_at(&state, position + 1).await? };
        Ok(Some(Behind { batches, oldest: since.map_or(Duration::ZERO, |since| age(since, at)) }))
    }

    /// When the first message at or after a position was stored. That of the first and of the last message is known.
    pub async fn stored_at(&self, state: &LogState, position: Position) -> Result<Option<UnixNanos>, NoAnswer> {
        if position <= state.first {
            return Ok(Some(state.first_time));
        }
        if position == state.last {
            return Ok(Some(state.last_time));
        }
        let found = read::message(self.jetstream(), &self.name, Which::NextOf(position, &self.filter)).await?;
        Ok(found.map(|found| found.time))
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
