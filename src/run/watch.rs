//! Watching finals: those of one run, as they come in.
//!
//! Nothing is handed on twice and nothing is left out: the deliveries of one consumer are dense, and wherever one is missing, or
//! the consumer has delivered more than has come, a new one begins after the last final that was handed on. What breaks the
//! connection again and again, since the client can't read its headers, is read by leader reads.

use crate::run::ledger::Final;
use crate::run::run_finals::RunFinals;
use crate::sum::stream_id::StreamId;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy};
use jetfold::MessageMark;
use jetfold::Throttle;
use jetfold::UnixNanos;
use jetfold::log::pull::{Demand, Pull};
use jetfold::nats::heard::Heard;
use jetfold::nats::read::{self, NoAnswer, Which};
use jetfold::nats::retry::Pauses;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

const INACTIVE_THRESHOLD: Duration = Duration::from_secs(60);
const MOST_MESSAGES: usize = 10_000;

/// Finals that have arrived and were not looked at yet.
const QUEUED: usize = 8192;

/// After this many openings that have handed nothing on, the next few messages are read one by one instead of pulled: one of
/// them may be what ends the connection.
const MOST_FRUITLESS: u32 = 2;

/// Messages that are read one by one, so that the watch gets past one that can't be pulled.
const ONE_BY_ONE: u32 = 64;

/// The longest pause before the next opening: while it can't be opened, the reads before it are all that is heard of NATS.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A message of the run in `sums`.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub subject: String,
    /// The stream that the subject names.
    pub id: Option<StreamId>,
    pub found: Final,
    /// It may have arrived before: that it comes again says nothing.
    pub replayed: bool,
    pub at: Instant,
}

/// The finals of a run, being watched. Ends when it is dropped.
pub struct Watching {
    /// The last sequence of `sums` before the first that may arrive.
    pub head: u64,
    pub arrivals: mpsc::Receiver<Arrival>,
    /// When the watch has last heard of NATS.
    pub heard: Heard,
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
    #[error("delivery {found} came where {expected} was next")]
    OutOfSequence { expected: u64, found: u64 },
    #[error("the connection was made anew")]
    Reconnected,
    #[error("the run has ended")]
    Ended,
}

fn failed(error: impl std::fmt::Display) -> WatchError {
    WatchError::Failed(error.to_string())
}

/// Watches what comes after a message of `sums`; `None`: after its last.
pub async fn watch(finals: RunFinals, after: Option<MessageMark>) -> Result<Watching, WatchError> {
    let info = read::stream(&finals.connection.jetstream, &finals.sums).await?.ok_or(WatchError::NoSums)?;
    let (arrivals, receiver) = mpsc::channel(QUEUED);
    let last = MessageMark { position: info.state.last_sequence, time: read::unix_nanos(info.state.last_timestamp) };
    let head = after.unwrap_or(last);
    let heard = Heard::default();
    let mut connects = finals.connection.connects();
    connects.mark_unchanged();
    let mut watch = Watch {
        finals,
        connects,
        last: head,
        handed_on: 0,
        created: read::unix_nanos(info.created),
        replayed_through: UnixNanos::MIN,
        arrivals,
        heard: heard.clone(),
        complaints: Throttle::default(),
    };
    // What can't be watched at all is said before anything is sent.
    let messages = watch.open().await?;
    tokio::spawn(watch.run(messages));
    Ok(Watching { head: head.position, arrivals: receiver, heard })
}

struct Watch {
    finals: RunFinals,
    /// Changes with every reconnect.
    connects: watch::Receiver<u64>,
    /// The last message that was handed on.
    last: MessageMark,
    /// How many were.
    handed_on: u64,
    created: UnixNanos,
    /// The time of the last message seen before `sums` was rolled back: messages up to this time may be delivered twice.
    replayed_through: UnixNanos,
    arrivals: mpsc::Sender<Arrival>,
    heard: Heard,
    complaints: Throttle,
}

impl Watch {
    async fn run(mut self, messages: Pull) {
        let mut opened = Ok(messages);
        let mut fruitless = 0;
        let mut pauses = Pauses::reopening();
        loop {
            let before = self.handed_on;
            let followed = match opened {
                Ok(messages) => {
                    pauses = Pauses::reopening();
                    self.follow(messages).await
                }
                Err(cause) => Err(cause),
            };
            let cause = match followed {
                Ok(()) | Err(WatchError::Ended) => return,
                Err(cause) => cause,
            };
            fruitless = if self.handed_on > before { 0 } else { fruitless + 1 };
            if let Some(times) = self.complaints.count() {
                tracing::warn!(%cause, times, "watching the finals anew");
            }
            // What failed while NATS was away is tried again as soon as it is back.
            let mut is_back = matches!(cause, WatchError::Reconnected);
            if !is_back {
                let pause = pauses.pause().min(LONGEST_PAUSE);
                tokio::select! {
                    () = self.arrivals.closed() => return,
                    _ = self.connects.changed() => is_back = true,
                    () = tokio::time::sleep(pause) => {}
                }
            }
            if is_back {
                pauses = Pauses::reopening();
            }
            opened = self.open_again(fruitless >= MOST_FRUITLESS).await;
        }
    }

    async fn open_again(&mut self, one_by_one: bool) -> Result<Pull, WatchError> {
        // What happens from here on is seen, here or by whoever follows.
        self.connects.mark_unchanged();
        let mut connects = self.connects.clone();
        let opening = async {
            self.see_that_sums_is_the_same().await?;
            if one_by_one {
                self.read_one_by_one().await?;
            }
            self.open().await
        };
        tokio::select! {
            // What was asked on the old connection is never answered.
            _ = connects.changed() => Err(WatchError::Reconnected),
            opened = opening => opened,
        }
    }

    /// Where `sums` was made anew or rolled back and gives sequences again, the watch goes on from the first.
    async fn see_that_sums_is_the_same(&mut self) -> Result<(), WatchError> {
        let jetstream = &self.finals.connection.jetstream;
        let info = read::stream(jetstream, &self.finals.sums).await?.ok_or(WatchError::NoSums)?;
        self.heard.note(Instant::now());
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
        Ok(())
    }

    /// Gets past a message that the client can't be sent: its headers break the client's rules, and would end the connection
    /// again and again.
    async fn read_one_by_one(&mut self) -> Result<(), WatchError> {
        for _ in 0..ONE_BY_ONE {
            let found = self.finals.message_after(self.last.position).await?;
            self.heard.note(Instant::now());
            let Some(message) = found else { break };
            let mark = message.mark();
            self.hand_on(message.subject, &message.payload, mark).await?;
        }
        Ok(())
    }

    /// A consumer that begins after the last message that was handed on.
    async fn open(&mut self) -> Result<Pull, WatchError> {
        let stream = self.finals.connection.jetstream.get_stream_no_info(&self.finals.sums).await.map_err(failed)?;
        let (jetstream, sums) = (&self.finals.connection.jetstream, &self.finals.sums);
        let inactive_threshold = read::inactive_threshold(jetstream, sums, INACTIVE_THRESHOLD).await?;
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: self.last.position + 1 },
            filter_subject: self.finals.filter.clone(),
            ack_policy: AckPolicy::None,
            replay_policy: ReplayPolicy::Instant,
            inactive_threshold,
            num_replicas: 1,
            memory_storage: true,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(failed)?;
        self.heard.note(Instant::now());
        // A final is small: their number is bound enough.
        let each = Demand { messages: MOST_MESSAGES, bytes: 0 }.within(consumer.cached_info().config.max_batch);
        let (connection, name) = (&self.finals.connection, &consumer.cached_info().name);
        let pull = Pull::new(connection, &self.finals.sums, name, each).await.map_err(failed)?;
        Ok(pull.noting(self.heard.clone()))
    }

    /// Hands on finals until something goes wrong, or nobody wants them any more.
    async fn follow(&mut self, mut messages: Pull) -> Result<(), WatchError> {
        for expected in 1.. {
            let message = tokio::select! {
                biased;
                _ = self.connects.changed() => return Err(WatchError::Reconnected),
                () = self.arrivals.closed() => return Ok(()),
                message = messages.next() => message.map_err(failed)?,
            };
            let info = message.info().map_err(failed)?;
            // What was lost on the way is delivered again by another consumer.
            if info.consumer_sequence != expected {
                return Err(WatchError::OutOfSequence { expected, found: info.consumer_sequence });
            }
            let mark = MessageMark { position: info.stream_sequence, time: read::unix_nanos(info.published) };
            self.hand_on(message.message.subject.to_string(), &message.message.payload, mark).await?;
        }
        unreachable!("deliveries are numbered without end")
    }

    async fn hand_on(&mut self, subject: String, payload: &[u8], mark: MessageMark) -> Result<(), WatchError> {
        let at = Instant::now();
        let (id, found) = self.finals.read(&subject, payload, mark);
        let replayed = mark.time <= self.replayed_through;
        let arrival = Arrival { subject, id, found, replayed, at };
        self.arrivals.send(arrival).await.map_err(|_| WatchError::Ended)?;
        self.last = mark;
        self.handed_on += 1;
        Ok(())
    }
}
