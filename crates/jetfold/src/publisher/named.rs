//! A producer with a name: how its next life finds where the last one was.

use super::{Publisher, delivery};
use crate::application::Application;
use crate::nats::connect::Connection;
use crate::nats::read::{self, NoAnswer};
use crate::nats::topology::Topology;
use crate::publisher::delivery::{Delivery, DeliveryError};
use crate::publisher::stamped::{Lost, Stamped, StampedError, last_of};
use crate::stamp::{MOST_NAME_BYTES, Stamp};
use crate::throttle::ThrottleByCause;
use crate::worker::ask::AskError;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often a life begins anew because another process of the same name was quicker, before it gives way.
const MOST_ROUNDS: usize = 5;

/// How long workers are asked for what the logs do not have any more.
const ASKED_FOR: Duration = Duration::from_secs(30);

/// How long one try has for one log.
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
    #[error("the log {log} no longer has the last batch of the producer {producer}, and {cause}")]
    NotTold { log: String, producer: String, cause: AskError },
    #[error(
        "another process publishes as the producer {producer}, and began just now (to the log {log}): end one of them, or give \\
         each a name of its own"
    )]
    Contended { log: String, producer: String },
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
}

/// Where a producer has come in one log.
struct Found {
    stamp: Option<Stamp>,
    sequence: u64,
}

impl<A: Application> Publisher<A> {
    /// For records that have offsets. `told` asks the workers of a partition for the last stamp of this producer that they have
    /// committed: it counts if the log was purged beyond that.
    ///
    /// Whoever publishes under this name, and began earlier, is told so by its next batch.
    pub async fn named(
        connection: &Connection,
        topology: &Topology<A>,
        name: &str,
        told: impl AsyncFn(u32) -> Result<Option<Stamp>, AskError>,
    ) -> Result<Self, NamedError> {
        let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        if name.is_empty() || name.len() > MOST_NAME_BYTES || !is_plain {
            return Err(NamedError::BadName { name: name.to_owned() });
        }
        let complaints = Arc::new(ThrottleByCause::new());
        let ways: Vec<_> = (0..topology.partitions)
            .map(|partition| delivery(connection, &topology.names, partition, name, complaints.clone()))
            .collect();
        let mut found = Vec::new();
        for (partition, way) in (0..).zip(&ways) {
            found.push(find(way, name, partition, &told).await?);
        }
        let lives =
            |found: &[Found]| found.iter().filter_map(|found| Some(found.stamp.as_ref()?.life)).max().unwrap_or(0);
        for _ in 0..MOST_ROUNDS {
            let life = lives(&found) + 1;
            match fence(&ways, name, life, &found).await? {
                Ok(stands) => return Ok(Self::start(connection, topology, name, stands)),
                // What was on its way has arrived, or somebody else has begun: where does that leave this log?
                Err(partition) => {
                    found[partition] = find(&ways[partition], name, partition as u32, &told).await?;
                }
            }
        }
        Err(NamedError::Contended { log: ways[0].log.clone(), producer: name.to_owned() })
    }

    /// The offset through which every log has what there was for it: input is to be read again from the next on.
    pub fn resume_after(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.sent).min().unwrap_or(0)
    }
}

/// The last batch of a producer that a log has, or that was folded and purged.
async fn find(
    way: &Delivery,
    name: &str,
    partition: u32,
    told: &impl AsyncFn(u32) -> Result<Option<Stamp>, AskError>,
) -> Result<Found, NamedError> {
    let no_answer = |cause| NamedError::NoAnswer { log: way.log.clone(), producer: name.to_owned(), cause };
    let info = read::stream(&way.connection.jetstream, &way.log).await.map_err(no_answer)?;
    let Some(info) = info else {
        return Err(NamedError::NoLog { log: way.log.clone(), apply: way.words.apply });
    };
    let last = last_of(&way.connection, &way.log, &way.subject).await.map_err(no_answer)?;
    if let Some(last) = last {
        return Ok(Found { stamp: last.stamp, sequence: last.sequence });
    }
    if info.state.first_sequence <= 1 {
        return Ok(Found { stamp: None, sequence: 0 });
    }
    // The log was purged: what is gone was folded, and put away.
    let deadline = Instant::now() + ASKED_FOR;
    loop {
        match told(partition).await {
            Ok(stamp) => return Ok(Found { stamp, sequence: 0 }),
            Err(cause) if Instant::now() + PAUSE >= deadline => {
                return Err(NamedError::NotTold { log: way.log.clone(), producer: name.to_owned(), cause });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Begins a life in every log. The inner error is the partition whose log has another last batch than was found.
async fn fence(
    ways: &[Delivery],
    name: &str,
    life: u64,
    found: &[Found],
) -> Result<Result<Vec<Stamped>, usize>, NamedError> {
    let mut stands = Vec::with_capacity(ways.len());
    for (partition, (way, Found { stamp, sequence })) in ways.iter().zip(found).enumerate() {
        let mut stamped = match stamp {
            Some(stamp) => Stamped::after(stamp, *sequence, life),
            None => Stamped::new(name.to_owned(), life),
        };
        let deadline = Instant::now() + way.patience.full;
        loop {
            match stamped.fence(&way.connection, &way.log, &way.subject).await {
                Ok(Some(_)) => break,
                Ok(None) => return Ok(Err(partition)),
                Err(StampedError::Lost(Lost { producer, number, sequence })) => {
                    return Err(DeliveryError::Lost { log: way.log.clone(), producer, number, sequence }.into());
                }
                Err(StampedError::Refused(refusal)) if Instant::now() >= deadline => {
                    let cause = NoAnswer::new(format!("{refusal:?}"));
                    return Err(NamedError::NoAnswer { log: way.log.clone(), producer: name.to_owned(), cause });
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        stands.push(stamped);
    }
    Ok(Ok(stands))
}
