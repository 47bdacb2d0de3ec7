//! A producer with a name: how its next life finds where the last one was.

use super::{Alone, Publisher, delivery};
use crate::application::Application;
use crate::checkpoint::Position;
use crate::nats::connect::Connection;
use crate::nats::read::{self, NoAnswer};
use crate::nats::topology::Topology;
use crate::publisher::delivery::{Delivery, DeliveryError, Tells};
use crate::publisher::stamped::{LastOfSubject, Stamped, last_of};
use crate::stamp::{MOST_NAME_BYTES, Stamp};
use crate::throttle::ThrottleByCause;
use crate::worker::ask::{AskError, Told};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How much higher than the one before a life is at the most: there is room for more of them than anybody begins.
const LONGEST_STEP: u64 = 1 << 32;

/// How long a life tries to come behind the last batch of another that goes on sending, log by log.
const FENCED_FOR: Duration = Duration::from_secs(30);

/// How long workers are asked for what the logs do not have any more.
const ASKED_FOR: Duration = Duration::from_secs(30);

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(250);

/// Why a producer can't begin under its name.
#[derive(Debug, thiserror::Error)]
pub enum NamedError {
    #[error("a producer's name has 1 to {MOST_NAME_BYTES} characters of A-Z a-z 0-9 _ -, which {name:?} has not")]
    BadName { name: String },
    #[error(
        "the log {log} can't be asked for the last batch of the producer {producer} ({cause}): see that NATS is up"
    )]
    NoAnswer { log: String, producer: String, cause: NoAnswer },
    #[error("there is no stream {log}: run `{apply}` first")]
    NoLog { log: String, apply: &'static str },
    #[error("the log {log} was purged, so that a worker must tell where the producer {producer} was, but {cause}")]
    NotTold { log: String, producer: String, cause: NotToldYet },
    #[error(
        "message {sequence} of the log {log} is on the subject {subject}, but has no stamp of the producer {producer}: remove it, \
         and see that nobody else publishes there"
    )]
    Foreign { log: String, producer: String, sequence: Position, subject: String },
    #[error("the producer {producer} has no more lives: give it another name")]
    Spent { producer: String },
    #[error(
        "another process publishes as the producer {producer} (to the log {log}): end one of them, or give each a name of its own"
    )]
    Contended { log: String, producer: String },
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
}

/// Why nobody has told how far a producer has come.
#[derive(Debug)]
pub enum NotToldYet {
    Ask(AskError),
    /// The worker has not committed all that was purged.
    Behind {
        position: Position,
        first: Position,
    },
}

impl fmt::Display for NotToldYet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ask(error) => error.fmt(f),
            Self::Behind { position, first } => {
                write!(f, "the one that answers is at {position}, before the log's first message, {first}: wait for it")
            }
        }
    }
}

/// Where a producer has come in one log.
struct Found {
    stamp: Option<Stamp>,
    sequence: Position,
}

/// A producer that begins a life.
struct Beginning<'a> {
    ways: &'a [Delivery],
    name: &'a str,
}

impl<A: Application> Publisher<A> {
    /// For records that have offsets. `told` asks the workers of a partition for the last stamp of this producer that they have
    /// committed: it counts if the log was purged beyond that.
    ///
    /// Whoever publishes under this name already is told so by its next batch. Of two processes that begin at once, one gives
    /// way here, or is told so later.
    pub async fn named(
        connection: &Connection,
        topology: &Topology<A>,
        name: &str,
        told: impl Fn(u32) -> BoxFuture<'static, Result<Told, AskError>> + Send + Sync + 'static,
    ) -> Result<Self, NamedError> {
        let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        if name.is_empty() || name.len() > MOST_NAME_BYTES || !is_plain {
            return Err(NamedError::BadName { name: name.to_owned() });
        }
        let (complaints, told) = (Arc::new(ThrottleByCause::new()), Arc::new(told));
        let ways: Vec<_> = (0..topology.partitions)
            .map(|partition| {
                let told = told.clone();
                let told: Tells = Arc::new(move || told(partition));
                delivery(connection, &topology.names, partition, name, complaints.clone(), Some(told))
            })
            .collect();
        let beginning = Beginning { ways: &ways, name };
        let mut found = Vec::with_capacity(ways.len());
        for partition in 0..topology.partitions {
            found.push(beginning.find(partition).await?);
        }
        let lives = found.iter().filter_map(|found| Some(found.stamp.as_ref()?.life));
        let life =
            life_after(lives.max().unwrap_or(0)).ok_or_else(|| NamedError::Spent { producer: name.to_owned() })?;
        let mut stands = Vec::with_capacity(ways.len());
        for (partition, found) in (0..).zip(found) {
            stands.push(beginning.fence(partition, found, life).await?);
        }
        Ok(Self::start(connection, topology, ways.into_iter().zip(stands).collect()))
    }

    /// The offset through which every log has what there was for it: input is to be read again from the next on.
    pub fn resume_after(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.sent).min().unwrap_or(0)
    }
}

/// The life of a process that has found this one to be the highest. It is drawn, so that two processes which begin at once have
/// two lives: a stamp then tells which of them has sent a batch.
fn life_after(highest: u64) -> Option<u64> {
    highest.checked_add(rand::random_range(1..=LONGEST_STEP))
}

impl Beginning<'_> {
    /// Begins this life in one log. The empty batch that does so has the offset of the one before it, and whatever others have
    /// on their way to the log is refused from then on.
    async fn fence(&self, partition: u32, mut found: Found, life: u64) -> Result<Stamped, NamedError> {
        let way = &self.ways[partition as usize];
        let deadline = Instant::now() + FENCED_FOR;
        loop {
            let mut stamped = match found.stamp {
                Some(stamp) if stamp.life >= life => return Err(self.contended(way)),
                Some(stamp) => Stamped::after(stamp, found.sequence, life),
                None => Stamped::new(self.name.to_owned(), life),
            };
            let offset = stamped.offset();
            match way.send_stamped(&mut stamped, offset, Bytes::new(), &mut Alone(std::time::Instant::now())).await {
                Ok(_) => return Ok(stamped),
                // Somebody else is at it: what was on its way, or whoever is to be fenced.
                Err(DeliveryError::Fenced { .. }) if Instant::now() < deadline => found = self.find(partition).await?,
                Err(DeliveryError::Fenced { .. }) => return Err(self.contended(way)),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn contended(&self, way: &Delivery) -> NamedError {
        NamedError::Contended { log: way.log.clone(), producer: self.name.to_owned() }
    }

    /// The last batch of the producer that a log has, or that was folded and purged.
    async fn find(&self, partition: u32) -> Result<Found, NamedError> {
        let way = &self.ways[partition as usize];
        let (log, producer) = (way.log.clone(), self.name.to_owned());
        let (connection, jetstream) = (&way.connection, &way.connection.jetstream);
        // The message first: if it was purged, the log's beginning shows that afterwards.
        let looked = async || {
            let last = last_of(connection, &way.log, &way.subject).await?;
            Ok((last, read::stream(jetstream, &way.log).await?))
        };
        let looked = connection.ask_at_start(looked, |_: &NoAnswer| true).await;
        let (last, info) = match looked {
            Ok((last, Some(info))) => (last, info),
            Ok((_, None)) => return Err(NamedError::NoLog { log, apply: way.words.apply }),
            Err(cause) => return Err(NamedError::NoAnswer { log, producer, cause }),
        };
        match last {
            Some(LastOfSubject { stamp: None, sequence }) => {
                return Err(NamedError::Foreign { log, producer, sequence, subject: way.subject.clone() });
            }
            Some(LastOfSubject { stamp, sequence }) => return Ok(Found { stamp, sequence }),
            None if info.state.first_sequence <= 1 => return Ok(Found { stamp: None, sequence: 0 }),
            None => {}
        }
        // The log was purged: what is gone was folded, and whoever has folded all of it knows.
        let deadline = Instant::now() + ASKED_FOR;
        loop {
            let cause = match way.folded(info.state.first_sequence).await {
                Ok(stamp) => return Ok(Found { stamp, sequence: 0 }),
                Err(cause) => cause,
            };
            if Instant::now() + PAUSE >= deadline {
                return Err(NamedError::NotTold { log, producer, cause });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_higher_than_the_one_before_and_drawn() {
        for highest in [0, 7, u64::MAX - LONGEST_STEP] {
            let lives = [(); 4].map(|()| life_after(highest).unwrap());
            assert!(lives.iter().all(|life| *life > highest && *life - highest <= LONGEST_STEP), "{lives:?}");
            assert!(lives.iter().any(|life| *life != lives[0]), "{lives:?}");
        }
        assert_eq!(life_after(u64::MAX), None);
    }
}
