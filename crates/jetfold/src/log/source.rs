//! The log source: one partition log, batch by batch, from the position after a checkpoint.
//!
//! Nothing is acked, because the store leads: the durable consumer is deleted and made anew at every opening, and what
//! it knows of its deliveries is worthless. Deleting it is also what tells a previous owner of the same name, whose
//! pull ends at once.
//!
//! A source ends, and has to be opened again, on: a reconnect, a missed heartbeat, any error of the pull, a position
//! that is not the next, and a consumer that has more while nothing arrives.

use crate::checkpoint::Position;
use crate::log::life::{Incarnation, Life};
use crate::log::pull::{Demand, Pull, PullError};
use crate::log::reader::LogReader;
use crate::nats::connect::Connection;
use crate::nats::names::Names;
use crate::nats::read::{self, StoredMessage, Which};
use crate::stamp::STAMP;
use crate::transaction::Batch;
use async_nats::Message;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy, pull};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::context::Context;
use async_nats::jetstream::stream::ConsumerErrorKind;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The most that the pulls of one connection may ask for and have outstanding together. With twice as much, the
/// drain of 16 logs fell to a fortieth: the server queues what the socket can't take, and everything waits behind it.
pub const CONNECTION_BUDGET: usize = 32 << 20;

/// What a pull must exceed the largest message by: the server counts subjects too, and a pull that is too small for
/// the next message waits silently and for ever.
const PULL_HEADROOM: usize = 64 << 10;

/// The most that one pull asks for, however few share a connection. With more, what is folded next has left the processor's
/// cache; with less, the server answers more often.
const MOST_PULLED: usize = 3 << 19;

/// Connections that one worker pulls on, if the budget does not ask for more. Several are read at once, and what a
/// partition folds was just read by the same thread.
const CONNECTIONS: usize = 8;

/// Small messages end a pull by number before they do by bytes.
const MOST_MESSAGES: usize = 10_000;

/// A durable that nobody pulls from is cleared away after this long.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(300);

/// How long it may take to remove one that nobody needs.
const REMOVING: Duration = Duration::from_secs(2);

/// Messages that a source reads one by one at first, so that it gets past one that can't be pulled, and at the most. That one may lie as
/// far ahead as is pulled at once.
pub const ONE_BY_ONE: u32 = 64;
pub const MOST_ONE_BY_ONE: u32 = 4096;

/// The bytes that each of `sources` pulls on one connection may ask for.
pub fn pull_bytes(max_payload: usize, sources: usize) -> usize {
    // The client asks again when half of a pull has arrived: one and a half are outstanding at the most.
    let share = CONNECTION_BUDGET / sources.max(1) * 2 / 3;
    share.clamp(max_payload + PULL_HEADROOM, MOST_PULLED.max(max_payload + PULL_HEADROOM))
}

/// How many of `sources` one connection carries: few, and never more than its budget allows.
pub fn sources_per_connection(max_payload: usize, sources: usize) -> usize {
    let most = CONNECTION_BUDGET / ((max_payload + PULL_HEADROOM) * 3 / 2);
    sources.div_ceil(CONNECTIONS).clamp(1, most.max(1))
}

/// Why a source could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A process of the same name started later and owns the partition now.
    #[error("another process has taken over as worker of the same name")]
    Superseded,
    #[error("{0}")]
    Failed(String),
}

/// Why an open source ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    #[error("the connection was made anew")]
    Reconnected,
    #[error("the consumer was deleted")]
    ConsumerDeleted,
    #[error("the server's heartbeat stayed out")]
    MissedHeartbeat,
    #[error("the pull failed: {0}")]
    PullFailed(String),
    #[error("position {found} came where {expected} was next")]
    OutOfSequence { expected: Position, found: Position },
    #[error("nothing has come after {position}, though there is more")]
    Behind { position: Position },
    #[error("the next few batches were read one by one")]
    EndOfReading,
}

impl Lost {
    /// The position that should have come, if others did or there is more: to be looked for when the log is opened again, whatever
    /// was committed until then.
    pub fn missing(&self) -> Option<Position> {
        match self {
            Self::OutOfSequence { expected, .. } => Some(*expected),
            Self::Behind { position } => {
                Some(position + 1).filter(|_| !crate::planted!("what-does-not-come-is-not-looked-for"))
            }
            _ => None,
        }
    }
}

/// One partition log as one worker reads it.
pub struct Log {
    reader: LogReader,
    names: Names,
    durable: String,
    /// What each pull asks for at least.
    pull_bytes: usize,
    life: Arc<Life>,
    /// This process has seen who was here before it, and has risen above.
    has_risen: bool,
}

/// A freshly opened source.
pub struct Opened {
    pub source: Source,
    /// How far the previous life of this worker had been sent: what lies between the checkpoint and here is folded again.
    pub sent_before: Option<Position>,
}

impl Log {
    pub fn new(
        connection: Connection,
        names: &Names,
        partition: u32,
        worker: &str,
        pull_bytes: usize,
        life: Arc<Life>,
    ) -> Self {
        Self {
            reader: LogReader::new(connection, names, partition),
            names: names.clone(),
            durable: names.durable(worker),
            pull_bytes,
            life,
            has_risen: false,
        }
    }

    /// The same, of a process that has [risen](Self::rise) before.
    pub fn risen(self) -> Self {
        Self { has_risen: true, ..self }
    }

    /// Whether somebody of this name was here before is known.
    pub fn has_risen(&self) -> bool {
        self.has_risen
    }

    /// Removes the durable of this worker, or of another: whoever pulls from it is told.
    pub async fn remove_durable(&self, worker: &str) {
        let durable = self.names.durable(worker);
        let removing =
            async { self.jetstream().get_stream_no_info(self.name()).await.ok()?.delete_consumer(&durable).await.ok() };
        // Nobody needs it: what is left is cleared away in time.
        if tokio::time::timeout(REMOVING, removing).await.is_err() {
            tracing::debug!(log = self.name(), durable, "no answer to the removal of a durable");
        }
    }

    pub fn name(&self) -> &str {
        self.reader.name()
    }

    /// What can be asked of it.
    pub fn reader(&self) -> &LogReader {
        &self.reader
    }

    /// Changes with every reconnect of the connection that the log is read on.
    pub fn connects(&self) -> watch::Receiver<u64> {
        self.reader.connection().connects()
    }

    fn jetstream(&self) -> &Context {
        self.reader.jetstream()
    }

    /// Takes a higher number than any earlier process of this name, before any log is opened. Otherwise a paused process
    /// that wakes up could take over from its successor. If there is no answer, the first opening does it.
    pub async fn rise(&mut self) {
        let Ok(stream) = self.jetstream().get_stream_no_info(self.name()).await else { return };
        match stream.consumer_info(&self.durable).await {
            Ok(info) => {
                if let Some(other) = Incarnation::of(&self.names, &info.config.metadata) {
                    self.life.rise_above(&other);
                }
                self.has_risen = true;
            }
            Err(error) => self.has_risen = error.kind() == ConsumerInfoErrorKind::NotFound,
        }
    }

    /// A source that reads the next `many` messages one by one, past one that the client can't be sent: its headers break
    /// the client's rules, and would end the connection again and again.
    pub fn open_one_by_one(&self, position: Position, many: u32) -> Source {
        let mut connects = self.connects();
        connects.mark_unchanged();
        Source {
            jetstream: self.jetstream().clone(),
            log: self.name().to_owned(),
            messages: Messages::OneByOne { left: many, filter: self.reader.filter().to_owned() },
            connects,
            position,
            pending: 0,
        }
    }

    /// Opens the source at the position after `position`, and ousts whoever pulled under the same name.
    pub async fn open(&mut self, position: Position) -> Result<Opened, OpenError> {
        // Before anything is asked, so that a reconnect in between is seen.
        let mut connects = self.connects();
        connects.mark_unchanged();
        let stream = self.jetstream().get_stream_no_info(self.name()).await.map_err(failed)?;
        let found = match stream.consumer_info(&self.durable).await {
            Ok(info) => Some(info),
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        if let Some(other) = found.as_ref().and_then(|info| Incarnation::of(&self.names, &info.config.metadata))
            && other > self.life.incarnation()
        {
            if self.has_risen && !crate::planted!("who-wakes-ousts-its-successor") {
                return Err(OpenError::Superseded);
            }
            self.life.rise_above(&other);
        }
        self.has_risen = true;
        let incarnation = self.life.incarnation();
        let inactive_threshold =
            read::inactive_threshold(self.jetstream(), self.name(), INACTIVE_THRESHOLD).await.map_err(failed)?;
        if found.is_some() {
            match stream.delete_consumer(&self.durable).await {
                Ok(_) => {}
                Err(error) if is_not_found(&error.kind()) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let config = pull::Config {
            durable_name: Some(self.durable.clone()),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: position + 1 },
            ack_policy: AckPolicy::None,
            replay_policy: ReplayPolicy::Instant,
            inactive_threshold,
            metadata: incarnation.metadata(&self.names),
            ..pull::Config::default()
        };
        // Strict: where another life has made the durable meanwhile, this fails, and the next try reads whose it is.
        let made = stream.create_consumer_strict(config).await.map_err(failed)?;
        // A server that was told to take larger messages since would send none into a pull that has no room for them.
        let largest = self.reader.connection().client.server_info().max_payload + PULL_HEADROOM;
        let each = Demand { messages: MOST_MESSAGES, bytes: self.pull_bytes.max(largest) };
        // A server may bound what one request asks for, and says so in what it makes of the consumer.
        let each = each.within(made.cached_info().config.max_batch);
        let messages = Pull::new(self.reader.connection(), self.name(), &self.durable, each).await.map_err(failed)?;
        let source = Source {
            jetstream: self.jetstream().clone(),
            log: self.name().to_owned(),
            messages: Messages::Pulled(Box::new(messages)),
            connects,
            position,
            pending: 0,
        };
        Ok(Opened { source, sent_before: found.map(|info| info.delivered.stream_sequence) })
    }
}

fn failed(error: impl std::fmt::Display) -> OpenError {
    OpenError::Failed(error.to_string())
}

fn is_not_found(kind: &ConsumerErrorKind) -> bool {
    matches!(kind, ConsumerErrorKind::JetStream(error) if error.code() == 404)
}

/// A partition log being pulled.
pub struct Source {
    jetstream: Context,
    log: String,
    messages: Messages,
    connects: watch::Receiver<u64>,
    /// Of the last batch that came.
    position: Position,
    /// What the log had beyond it when it was sent.
    pending: u64,
}

enum Messages {
    Pulled(Box<Pull>),
    OneByOne { left: u32, filter: String },
}

impl Source {
    /// How many batches the log had beyond the last one when that was sent; 0 if they are read one by one.
    pub fn pending(&self) -> u64 {
        self.pending
    }

    /// The next batch, which is always the one after the last. Cancel-safe.
    pub async fn next(&mut self) -> Result<Batch, Lost> {
        let (batch, pending) = tokio::select! {
            biased;
            changed = self.connects.changed() => {
                changed.ok();
                return Err(Lost::Reconnected);
            }
            batch = next_message(&mut self.messages, &self.jetstream, &self.log, self.position) => batch?,
        };
        let expected = self.position + 1;
        if batch.position != expected {
            return Err(Lost::OutOfSequence { expected, found: batch.position });
        }
        (self.position, self.pending) = (expected, pending);
        Ok(batch)
    }
}

/// The next message of the log, and how many there were beyond it. Cancel-safe.
async fn next_message(
    messages: &mut Messages,
    jetstream: &Context,
    log: &str,
    position: Position,
) -> Result<(Batch, u64), Lost> {
    match messages {
        Messages::Pulled(pulled) => {
            let message = pulled.next().await.map_err(|error| match error {
                PullError::ConsumerDeleted => Lost::ConsumerDeleted,
                PullError::MissedHeartbeat => Lost::MissedHeartbeat,
                PullError::Behind => Lost::Behind { position },
                PullError::Failed(cause) => Lost::PullFailed(cause),
            })?;
            let info = message.info().map_err(|error| Lost::PullFailed(error.to_string()))?;
            let (position, time) = (info.stream_sequence, read::unix_nanos(info.published));
            let pending = info.pending;
            let Message { payload, headers, .. } = message.message;
            let stamp = headers.and_then(|headers| headers.get(STAMP)?.as_str().parse().ok());
            Ok((Batch { position, time, payload, stamp }, pending))
        }
        Messages::OneByOne { left: 0, .. } => Err(Lost::EndOfReading),
        Messages::OneByOne { left, filter } => {
            let found = read::message(jetstream, log, Which::NextOf(position + 1, filter)).await;
            match found.map_err(|cause| Lost::PullFailed(cause.to_string()))? {
                Some(message) => {
                    *left -= 1;
                    let stamp = message.unfolded_header(STAMP).and_then(|stamp| stamp.parse().ok());
                    let StoredMessage { sequence: position, time, payload, .. } = message;
                    Ok((Batch { position, time, payload, stamp }, 0))
                }
                None => Err(Lost::EndOfReading),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_should_have_come_is_looked_for_when_the_log_is_opened_again() {
        assert_eq!(Lost::OutOfSequence { expected: 7, found: 9 }.missing(), Some(7));
        assert_eq!(Lost::Behind { position: 7 }.missing(), Some(8));
        for lost in [Lost::Reconnected, Lost::ConsumerDeleted, Lost::MissedHeartbeat, Lost::EndOfReading] {
            assert_eq!(lost.missing(), None, "{lost}");
        }
    }

    #[test]
    fn pulls_stay_within_the_budget_and_above_the_largest_message() {
        for max_payload in [1 << 20, 2 << 20, 8 << 20] {
            let most = sources_per_connection(max_payload, usize::MAX);
            for sources in 1..=most {
                let bytes = pull_bytes(max_payload, sources);
                assert!(bytes >= max_payload + PULL_HEADROOM);
                assert!(sources * bytes * 3 / 2 <= CONNECTION_BUDGET, "{sources} of {most} at {max_payload}");
            }
        }
        assert_eq!(sources_per_connection(64 << 20, 100), 1);
        assert_eq!([1, 8, 9, 64].map(|sources| sources_per_connection(1 << 20, sources)), [1, 1, 2, 8]);
    }
}
