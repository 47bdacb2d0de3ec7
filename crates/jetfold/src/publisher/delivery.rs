//! `Delivery`: one batch after the other to one log, each sent again and again until it is stored.

use crate::checkpoint::Position;
use crate::identity::doubt::STANDS;
use crate::nats::connect::Connection;
use crate::nats::publish::{Refusal, publish};
use crate::nats::retry::Pauses;
use crate::publisher::named::NotToldYet;
use crate::publisher::stamped::{Lost, Purged, Stamped, StampedError};
use crate::stamp::Stamp;
use crate::throttle::ThrottleByCause;
use crate::words::Words;
use crate::worker::ask::{AskError, Told};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// Why a log stores nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// It takes no more bytes until what is folded is purged.
    LogFull,
    /// Nobody has acknowledged the batch: it may be stored or not.
    NoAnswer,
}

/// How long a batch is sent again.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// While its log is full.
    pub full: Duration,
    /// While the outcome is unknown; `None`: for as long as NATS is away.
    pub unknown: Option<Duration>,
}

/// Why a batch could not be delivered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DeliveryError {
    #[error(
        "the log {log} has been full for {} ({cause}): start {}s, raise topology.log_max_bytes, or purge what is folded",
        humantime::format_duration(*waited), words.worker
    )]
    LogFull { log: String, waited: Duration, cause: String, words: &'static Words },
    #[error("a batch of {bytes} bytes for the log {log} is more than the server takes: lower {}", words.batch_bytes)]
    TooLarge { log: String, bytes: usize, words: &'static Words },
    #[error(
        "no {} was acknowledged by the log {log} for {} ({cause}): see that NATS is up",
        words.record, humantime::format_duration(*waited)
    )]
    Stuck { log: String, waited: Duration, cause: String, words: &'static Words },
    #[error(
        "another process publishes as the producer {producer} (to the log {log}): end one of them, or give each a name of its own"
    )]
    Fenced { log: String, producer: String },
    #[error(
        "the log {log} has lost batch {number} of the producer {producer}, which it had acknowledged at {sequence}: bring it back \
         from a replica or a backup; or go on under another name, behind what workers have folded of it"
    )]
    Lost { log: String, producer: String, number: u64, sequence: u64 },
    #[error("the producer {producer} has no more numbers for its batches to the log {log}: give it another name")]
    Spent { log: String, producer: String },
}

/// What becomes of a batch on its way, for whoever keeps account of it. Moments are by a clock of its own.
pub trait Account: Send {
    fn now(&self) -> Duration;

    /// It is about to be sent, for the first time or again.
    fn sending(&mut self, _now: Duration) {}

    /// It is stored.
    fn stored(&mut self, _position: Position) {}

    /// It was not stored when it was sent at `now`, and has not been since.
    fn stands_still(&mut self, _halt: Halt, _since: Duration, _now: Duration, _cause: &str) {}

    /// How much of that time counts as waiting.
    fn waited(&self, _halt: Halt, since: Duration, now: Duration) -> Duration {
        now.saturating_sub(since)
    }
}

/// The way to one log.
pub struct Delivery {
    pub connection: Connection,
    pub log: String,
    pub subject: String,
    pub patience: Patience,
    /// For all logs: one server is what all of them wait for.
    pub complaints: Arc<ThrottleByCause>,
    pub words: &'static Words,
    /// Who tells how far the producer was folded; `None` if nobody else can publish as it.
    pub told: Option<Tells>,
}

/// How far a producer was folded, by a worker's word.
pub type Tells = Arc<dyn Fn() -> BoxFuture<'static, Result<Told, AskError>> + Send + Sync>;

impl Delivery {
    /// Sends a batch of records that number themselves until it is stored.
    pub async fn send(&self, payload: Bytes, account: &mut impl Account) -> Result<Position, DeliveryError> {
        self.until_stored(None, payload, account).await
    }

    /// Sends the next batch of a producer, whose last record has this offset, until it is stored, once.
    pub async fn send_stamped(
        &self,
        producer: &mut Stamped,
        offset: u64,
        payload: Bytes,
        account: &mut impl Account,
    ) -> Result<Position, DeliveryError> {
        let stored = self.until_stored(Some((producer, offset)), payload, account).await?;
        producer.stored(stored, offset);
        Ok(stored)
    }

    /// The last batch of the producer that was folded, by whoever has folded all before the log's first message.
    pub(super) async fn folded(&self, first: Position) -> Result<Option<Stamp>, NotToldYet> {
        let Some(told) = &self.told else { return Ok(None) };
        match told().await {
            Ok(Told { position, stamp }) if position.saturating_add(1) >= first => Ok(stamp),
            Ok(Told { position, .. }) => Err(NotToldYet::Behind { position, first }),
            Err(cause) => Err(NotToldYet::Ask(cause)),
        }
    }

    async fn attempt(
        &self,
        stamped: &mut Option<(&mut Stamped, u64)>,
        payload: Bytes,
    ) -> Result<Position, StampedError> {
        let (connection, log, subject) = (&self.connection, &self.log, &self.subject);
        match stamped {
            None => publish(connection, log, subject, None, payload).await.map_err(StampedError::Refused),
            Some((producer, offset)) => producer.publish(connection, log, subject, *offset, payload).await,
        }
    }

    async fn until_stored(
        &self,
        mut stamped: Option<(&mut Stamped, u64)>,
        payload: Bytes,
        account: &mut impl Account,
    ) -> Result<Position, DeliveryError> {
        let first = account.now();
        let (mut full_since, mut lost_since) = (None, None);
        let mut pauses = Pauses::republishing();
        loop {
            // Patience ends with a try that was sent when it was over: what became of one may be unknown only because this
            // process was paused meanwhile.
            let now = account.now();
            account.sending(now);
            let refusal = match self.attempt(&mut stamped, payload.clone()).await {
                Ok(position) => {
                    account.stored(position);
                    return Ok(position);
                }
                Err(StampedError::Refused(refusal)) => refusal,
                Err(StampedError::Fenced { producer }) => {
                    return Err(DeliveryError::Fenced { log: self.log.clone(), producer });
                }
                // A leader without its peers goes on answering for a while: what it shows must stand.
                Err(StampedError::Lost(Lost { producer, number, sequence })) => {
                    if now.saturating_sub(*lost_since.get_or_insert(now)) >= STANDS {
                        return Err(DeliveryError::Lost { log: self.log.clone(), producer, number, sequence });
                    }
                    pauses.wait().await;
                    continue;
                }
                Err(StampedError::Purged { first, left }) => {
                    let (producer, _) = stamped.as_mut().expect("nothing else is looked for");
                    match self.folded(first).await {
                        Ok(folded) => match producer.purged(folded.as_ref(), left) {
                            Purged::GoesOn => continue,
                            Purged::Stored => {
                                account.stored(left);
                                return Ok(left);
                            }
                            Purged::Fenced => {
                                let producer = producer.producer().to_owned();
                                return Err(DeliveryError::Fenced { log: self.log.clone(), producer });
                            }
                        },
                        Err(cause) => Refusal::Unknown(format!("the log was purged, and {cause}")),
                    }
                }
                Err(StampedError::Spent { producer }) => {
                    return Err(DeliveryError::Spent { log: self.log.clone(), producer });
                }
            };
            lost_since = None;
            match refusal {
                Refusal::Full(cause) => {
                    let since = *full_since.get_or_insert_with(|| account.now());
                    account.stands_still(Halt::LogFull, since, now, &cause);
                    if account.waited(Halt::LogFull, since, now) >= self.patience.full {
                        let (log, waited) = (self.log.clone(), self.patience.full);
                        return Err(DeliveryError::LogFull { log, waited, cause, words: self.words });
                    }
                }
                Refusal::TooLarge => {
                    let (log, bytes) = (self.log.clone(), payload.len());
                    return Err(DeliveryError::TooLarge { log, bytes, words: self.words });
                }
                Refusal::Unknown(_) | Refusal::SubjectTaken | Refusal::WrongLast => {
                    full_since = None;
                    let cause = match refusal {
                        Refusal::Unknown(cause) => cause,
                        Refusal::WrongLast => "it does not show yet what it has stored".to_owned(),
                        _ => "it takes one message only".to_owned(),
                    };
                    account.stands_still(Halt::NoAnswer, first, now, &cause);
                    if let Some(times) = self.complaints.count(&cause) {
                        tracing::warn!(log = self.log, cause, times, "no acknowledgement: sending the batch again");
                    }
                    if let Some(waited) = self.patience.unknown
                        && account.waited(Halt::NoAnswer, first, now) >= waited
                    {
                        return Err(DeliveryError::Stuck { log: self.log.clone(), waited, cause, words: self.words });
                    }
                }
            }
            pauses.wait().await;
        }
    }
}
