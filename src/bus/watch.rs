//! Watching finals: those of one run, as they come in.

use crate::bus::backoff;
use crate::bus::connect::Connection;
use crate::bus::names::Names;
use crate::bus::read::{self, NoAnswer, Which};
use crate::codec;
use crate::row::UnixNanos;
use crate::stream_id::{RunPrefix, StreamId};
use crate::sum::Sum;
use crate::verify::Copies;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy};
use futures_util::StreamExt;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

const PULL_EXPIRES: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(3);
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(60);
const MOST_MESSAGES: usize = 10_000;

/// Finals that have arrived and were not looked at yet.
const QUEUED: usize = 8192;

/// A message of the run in `sums`.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub subject: String,
    /// The stream that the subject names.
    pub id: Option<StreamId>,
    /// What it says, where it is a final at all.
    pub sum: Option<Sum>,
    /// Its place in `sums`.
    pub sequence: u64,
    pub at: Instant,
}

/// The finals of one run, in `sums`.
#[derive(Clone)]
pub struct RunFinals {
    connection: Connection,
    names: Names,
    sums: String,
    filter: String,
}

impl RunFinals {
    pub fn new(connection: Connection, names: Names, run: RunPrefix) -> Self {
        let (sums, filter) = (names.sums(), names.finals_of_run(run));
        Self { connection, names, sums, filter }
    }

    /// Whether `sums` holds finals of this run already.
    pub async fn exist(&self) -> Result<bool, NoAnswer> {
        Ok(self.next_after(0).await?.is_some())
    }

    /// The last final of a stream, as its leader has it; what it says is `None` where it is no final at all.
    pub async fn last(&self, id: StreamId) -> Result<Option<Option<Sum>>, NoAnswer> {
        let subject = self.names.final_subject(id);
        let found = read::message(&self.connection.jetstream, &self.sums, Which::LastOf(&subject)).await?;
        Ok(found.map(|message| codec::decode_final(&message.payload).ok()))
    }

    /// How many messages of a stream's subject the leader has.
    pub async fn copies(&self, id: StreamId) -> Result<Copies, NoAnswer> {
        let subject = self.names.final_subject(id);
        let jetstream = &self.connection.jetstream;
        let first = read::message(jetstream, &self.sums, Which::NextOf(1, &subject)).await?;
        let last = read::message(jetstream, &self.sums, Which::LastOf(&subject)).await?;
        Ok(match (first, last) {
            (Some(first), Some(last)) if first.sequence != last.sequence => Copies::Several,
            (_, last) => Copies::One(last.and_then(|message| codec::decode_final(&message.payload).ok())),
        })
    }

    /// The last sequence of `sums`, and when that stream was created.
    async fn head(&self) -> Result<Option<(u64, UnixNanos)>, NoAnswer> {
        let info = read::stream(&self.connection.jetstream, &self.sums).await?;
        Ok(info.map(|info| (info.state.last_sequence, read::unix_nanos(info.created))))
    }

    /// The sequence of the first final of the run after a sequence.
    pub async fn next_after(&self, sequence: u64) -> Result<Option<u64>, NoAnswer> {
        let which = Which::NextOf(sequence + 1, &self.filter);
        Ok(read::message(&self.connection.jetstream, &self.sums, which).await?.map(|message| message.sequence))
    }

    /// Watches from the head of `sums` on, which comes first. Ends when the receiver is dropped.
    pub async fn watch(self) -> Result<(u64, mpsc::Receiver<Arrival>), NoAnswer> {
        let (head, created) = self.head().await?.unwrap_or_default();
        let (arrivals, receiver) = mpsc::channel(QUEUED);
        let watch = Watch { finals: self, last: head, created, arrivals };
        tokio::spawn(watch.run());
        Ok((head, receiver))
    }
}

struct Watch {
    finals: RunFinals,
    /// The last sequence of `sums` that was seen.
    last: u64,
    created: UnixNanos,
    arrivals: mpsc::Sender<Arrival>,
}

impl Watch {
    async fn run(mut self) {
        let mut pauses = backoff::reopening();
        while !self.arrivals.is_closed() {
            let before = self.last;
            if let Err(cause) = self.follow().await {
                tracing::debug!(cause, "watching the finals anew");
            }
            if self.last > before {
                pauses = backoff::reopening();
            }
            let pause = pauses.next().expect("the pauses never end");
            tokio::select! {
                () = self.arrivals.closed() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Hands on finals from the last one seen until something goes wrong.
    async fn follow(&mut self) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let mut connects = self.finals.connection.connects();
        connects.mark_unchanged();
        let head = self.finals.head().await.map_err(|error| text(&error))?;
        let (head, created) = head.ok_or("there is no such stream")?;
        // Made anew, or rolled back: sequences below the last one seen are given again, so it is read from its start.
        if created != self.created || head < self.last {
            (self.last, self.created) = (0, created);
        }
        let stream = self.finals.connection.jetstream.get_stream_no_info(&self.finals.sums).await;
        let consumer = stream
            .map_err(|error| text(&error))?
            .create_consumer(pull::Config {
                deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: self.last + 1 },
                filter_subject: self.finals.filter.clone(),
                ack_policy: AckPolicy::None,
                replay_policy: ReplayPolicy::Instant,
                inactive_threshold: INACTIVE_THRESHOLD,
                num_replicas: 1,
                memory_storage: true,
                ..pull::Config::default()
            })
            .await
            .map_err(|error| text(&error))?;
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(MOST_MESSAGES)
            .expires(PULL_EXPIRES)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(|error| text(&error))?;
        loop {
            let message = tokio::select! {
                biased;
                _ = connects.changed() => return Err("the connection was made anew".to_owned()),
                () = self.arrivals.closed() => return Ok(()),
                message = messages.next() => message.ok_or("the pull has ended")?.map_err(|error| text(&error))?,
            };
            let at = Instant::now();
            let sequence = message.info().map_err(|error| text(&error))?.stream_sequence;
            let subject = message.message.subject.to_string();
            let id = self.finals.names.stream_of_final(&subject);
            // The subject says whose final it is; a payload that says another is a wrong one.
            let sum = codec::decode_final(&message.message.payload).ok().filter(|sum| Some(sum.id) == id);
            if self.arrivals.send(Arrival { subject, id, sum, sequence, at }).await.is_err() {
                return Ok(());
            }
            self.last = sequence;
        }
    }
}
