//! Watching finals: those of one run, as they come in.

use crate::bus::backoff;
use crate::bus::connect::Connection;
use crate::bus::names::Names;
use crate::bus::publish::Throttle;
use crate::bus::pull::{Demand, Pull};
use crate::bus::read::{self, NoAnswer, Which};
use crate::checkpoint::MessageMark;
use crate::codec;
use crate::row::UnixNanos;
use crate::stream_id::{RunPrefix, StreamId};
use crate::sum::Sum;
use crate::verify::Copies;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

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
    /// It may have arrived before: that it comes again says nothing.
    pub replayed: bool,
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
            (_, Some(last)) => Copies::One(codec::decode_final(&last.payload).ok()),
            (_, None) => Copies::None,
        })
    }

    /// The sequence of the first final of the run after a sequence.
    pub async fn next_after(&self, sequence: u64) -> Result<Option<u64>, NoAnswer> {
        let which = Which::NextOf(sequence + 1, &self.filter);
        Ok(read::message(&self.connection.jetstream, &self.sums, which).await?.map(|message| message.sequence))
    }

    /// Watches from the head of `sums` on, which comes first. Ends when the receiver is dropped.
    pub async fn watch(self) -> Result<(u64, mpsc::Receiver<Arrival>), WatchError> {
        let info = read::stream(&self.connection.jetstream, &self.sums).await?.ok_or(WatchError::NoSums)?;
        let (arrivals, receiver) = mpsc::channel(QUEUED);
        let head =
            MessageMark { position: info.state.last_sequence, time: read::unix_nanos(info.state.last_timestamp) };
        let created = read::unix_nanos(info.created);
        let mut watch = Watch {
            finals: self,
            last: head,
            created,
            replayed_through: UnixNanos::MIN,
            arrivals,
            complaints: Throttle::default(),
        };
        // What can't be watched at all is said before anything is sent.
        let messages = watch.open().await?;
        tokio::spawn(watch.run(messages));
        Ok((head.position, receiver))
    }
}

/// Why finals can't be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("{0}")]
    NoAnswer(#[from] NoAnswer),
    #[error("there is no such stream")]
    NoSums,
    #[error("{0}")]
    Failed(String),
    #[error("the connection was made anew")]
    Reconnected,
    #[error("the run has ended")]
    Ended,
}

fn failed(error: impl std::fmt::Display) -> WatchError {
    WatchError::Failed(error.to_string())
}

struct Watch {
    finals: RunFinals,
    /// The last message that was seen.
    last: MessageMark,
    created: UnixNanos,
    /// The time of the last message seen before `sums` was rolled back: what is as old may come a second time.
    replayed_through: UnixNanos,
    arrivals: mpsc::Sender<Arrival>,
    complaints: Throttle,
}

impl Watch {
    async fn run(mut self, messages: Pull) {
        let mut connects = self.finals.connection.connects();
        let mut pauses = backoff::reopening();
        let mut followed = self.follow(messages).await;
        loop {
            let cause = match followed {
                Ok(()) | Err(WatchError::Ended) => return,
                Err(cause) => cause,
            };
            if self.complaints.is_due() {
                tracing::warn!(%cause, "watching the finals anew");
            }
            tokio::select! {
                () = self.arrivals.closed() => return,
                // What failed while NATS was away is tried again as soon as it is back.
                _ = connects.changed() => pauses = backoff::reopening(),
                () = tokio::time::sleep(pauses.next().expect("the pauses never end")) => {}
            }
            connects.mark_unchanged();
            let opened = tokio::select! {
                _ = connects.changed() => Err(WatchError::Reconnected),
                opened = self.open() => opened,
            };
            followed = match opened {
                Ok(messages) => {
                    pauses = backoff::reopening();
                    self.follow(messages).await
                }
                Err(cause) => Err(cause),
            };
        }
    }

    /// The sequence to go on from: after the last message seen, or, where `sums` was made anew or rolled back and gives
    /// sequences again, the first.
    async fn start(&mut self) -> Result<u64, WatchError> {
        let jetstream = &self.finals.connection.jetstream;
        let info = read::stream(jetstream, &self.finals.sums).await?.ok_or(WatchError::NoSums)?;
        let created = read::unix_nanos(info.created);
        let kept = info.state.first_sequence..=info.state.last_sequence;
        let mut same = created == self.created && info.state.last_sequence >= self.last.position;
        if same && self.last.position > 0 && kept.contains(&self.last.position) {
            let which = Which::At(self.last.position);
            let found = read::message(jetstream, &self.finals.sums, which).await?;
            // One that was deleted says nothing.
            same = found.is_none_or(|found| found.mark() == self.last);
        }
        if !same {
            tracing::error!("sums is not what it was: it was made anew or rolled back, and may have forgotten finals");
            self.replayed_through = self.replayed_through.max(self.last.time);
            (self.created, self.last.position) = (created, 0);
        }
        Ok(self.last.position + 1)
    }

    async fn open(&mut self) -> Result<Pull, WatchError> {
        let start_sequence = self.start().await?;
        let stream = self.finals.connection.jetstream.get_stream_no_info(&self.finals.sums).await.map_err(failed)?;
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
            filter_subject: self.finals.filter.clone(),
            ack_policy: AckPolicy::None,
            replay_policy: ReplayPolicy::Instant,
            inactive_threshold: INACTIVE_THRESHOLD,
            num_replicas: 1,
            memory_storage: true,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(failed)?;
        // A final is small: their number is bound enough.
        let each = Demand { messages: MOST_MESSAGES, bytes: 0 };
        let (connection, name) = (&self.finals.connection, &consumer.cached_info().name);
        Pull::new(connection, &self.finals.sums, name, each).await.map_err(failed)
    }

    /// Hands on finals until something goes wrong, or nobody wants them any more.
    async fn follow(&mut self, mut messages: Pull) -> Result<(), WatchError> {
        let mut connects = self.finals.connection.connects();
        connects.mark_unchanged();
        loop {
            let message = tokio::select! {
                biased;
                _ = connects.changed() => return Err(WatchError::Reconnected),
                () = self.arrivals.closed() => return Ok(()),
                message = messages.next() => message.map_err(failed)?,
            };
            let at = Instant::now();
            let info = message.info().map_err(failed)?;
            let mark = MessageMark { position: info.stream_sequence, time: read::unix_nanos(info.published) };
            let subject = message.message.subject.to_string();
            let id = self.finals.names.stream_of_final(&subject);
            // The subject says whose final it is; a payload that says another is a wrong one.
            let sum = codec::decode_final(&message.message.payload).ok().filter(|sum| Some(sum.id) == id);
            let replayed = mark.time <= self.replayed_through;
            let arrival = Arrival { subject, id, sum, sequence: mark.position, replayed, at };
            self.arrivals.send(arrival).await.map_err(|_| WatchError::Ended)?;
            self.last = mark;
        }
    }
}
