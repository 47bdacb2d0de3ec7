//! `Stamped`: where one producer stands in one log, and how its next batch comes to stand there once.
//!
//! A producer has a subject of its own in each log. Each batch says at which sequence the one before stands there, and the
//! server stores it only if that is the last of the subject. So a batch that is sent again is refused if it was stored, and
//! then its stamp is read back; and of two processes that publish as one producer, one is refused. That is decided by the log
//! alone, whenever anything arrives.
//!
//! | the last of the subject | is | then |
//! | --- | --- | --- |
//! | has this batch's stamp | an earlier try of it | it is stored |
//! | stands where the one before was stored | that one: a server that is not ready yet | it is sent again |
//! | has another stamp, further on | of another process | this one is fenced |
//! | is gone, and so is the log's beginning beyond it | folded, put away and purged | whoever has folded it is asked |
//! | is gone, or older | lost, after it was acknowledged | that is an error with a name |
//!
//! | the last batch that was folded | is | then |
//! | --- | --- | --- |
//! | has this batch's stamp | an earlier try of it | it is stored |
//! | is of a later life | of another process | this one is fenced |
//! | is any other | the one before | it is sent behind what is left |
//!
//! Nobody is asked for a producer whose name was drawn: nobody else has it. A batch of it that was stored and purged before its
//! sender has learned of it is sent again. It is then in the log once more, and the fold [drops it](crate::producer).
//!
//! A stamp belongs to one process, because a life does: it is drawn.

use crate::checkpoint::Position;
use crate::nats::connect::Connection;
use crate::nats::publish::{Refusal, publish};
use crate::nats::read::{self, NoAnswer, Which};
use crate::stamp::{STAMP, Stamp};
use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use bytes::Bytes;

/// Where a producer stands in one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped {
    producer: String,
    life: u64,
    /// Of the last batch, and its offset; 0 before the first.
    number: u64,
    offset: u64,
    /// Where it stands; 0 if the log has none.
    sequence: Position,
}

/// A batch that was acknowledged, and is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub producer: String,
    pub number: u64,
    pub sequence: Position,
}

/// Why a batch is not stored, or not yet.
#[derive(Debug)]
pub enum StampedError {
    Refused(Refusal),
    Fenced {
        producer: String,
    },
    Lost(Lost),
    /// The one before was purged: the log begins at `first`, and has `left` as the last of the subject, 0 for nothing.
    Purged {
        first: Position,
        left: Position,
    },
    /// There are no more numbers.
    Spent {
        producer: String,
    },
}

/// What the leader shows of a producer's subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastOfSubject {
    pub sequence: Position,
    /// `None` if somebody has published there who is not this producer.
    pub stamp: Option<Stamp>,
}

/// What follows from what the leader shows after it has refused a batch.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    Stored(Position),
    Again,
    /// The one before was purged: this is what is there, 0 for nothing.
    Purged(Position),
    Fenced,
    Lost,
}

/// What follows if the batch before was purged.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Purged {
    GoesOn,
    Stored,
    Fenced,
}

impl Stamped {
    /// A producer that has sent nothing to this log.
    pub fn new(producer: String, life: u64) -> Self {
        Self { producer, life, number: 0, offset: 0, sequence: 0 }
    }

    /// One that goes on in another life, after this batch of an earlier one; `sequence` is 0 if the log does not have it any more.
    pub fn after(stamp: Stamp, sequence: Position, life: u64) -> Self {
        let Stamp { producer, number, offset, .. } = stamp;
        Self { producer, life, number, offset, sequence }
    }

    /// How far the producer's input has come in this log.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The stamp of the next batch; `None` if the last one had the last number.
    fn next(&self, offset: u64) -> Option<Stamp> {
        let number = self.number.checked_add(1)?;
        Some(Stamp { producer: self.producer.clone(), life: self.life, number, offset })
    }

    /// The next batch is stored.
    pub(super) fn stored(&mut self, sequence: Position, offset: u64) {
        (self.sequence, self.offset) = (sequence, offset);
        self.number += 1;
    }

    /// The one before was purged, and `left` is the last of the subject. `folded` is the last batch of the producer that was folded.
    pub(super) fn purged(&mut self, folded: Option<&Stamp>, left: Position) -> Purged {
        match folded {
            Some(folded) if folded.life > self.life => Purged::Fenced,
            Some(folded) if folded.life == self.life && folded.number > self.number => Purged::Stored,
            _ => {
                self.sequence = left;
                Purged::GoesOn
            }
        }
    }

    pub fn producer(&self) -> &str {
        &self.producer
    }

    /// Publishes the next batch once.
    pub(super) async fn publish(
        &self,
        connection: &Connection,
        log: &str,
        subject: &str,
        offset: u64,
        payload: Bytes,
    ) -> Result<Position, StampedError> {
        let Some(stamp) = self.next(offset) else {
            return Err(StampedError::Spent { producer: self.producer.clone() });
        };
        let mut headers = HeaderMap::new();
        headers.insert(STAMP, stamp.to_string());
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, self.sequence.to_string());
        match publish(connection, log, subject, Some(headers), payload).await {
            Ok(sequence) => Ok(sequence),
            Err(Refusal::WrongLast) => {
                let unknown = |cause: NoAnswer| StampedError::Refused(Refusal::Unknown(cause.to_string()));
                // The message first: if it was purged, the log's beginning shows that afterwards.
                let last = last_of(connection, log, subject).await.map_err(unknown)?;
                let info = read::stream(&connection.jetstream, log).await.map_err(unknown)?;
                let Some(info) = info else {
                    return Err(StampedError::Refused(Refusal::Unknown("there is no such stream".to_owned())));
                };
                match self.find(&stamp, last, info.state.first_sequence) {
                    Finding::Stored(sequence) => Ok(sequence),
                    Finding::Again => Err(StampedError::Refused(Refusal::WrongLast)),
                    Finding::Purged(left) => Err(StampedError::Purged { first: info.state.first_sequence, left }),
                    Finding::Fenced => Err(StampedError::Fenced { producer: stamp.producer }),
                    Finding::Lost => {
                        let Self { number, sequence, .. } = *self;
                        Err(StampedError::Lost(Lost { producer: stamp.producer, number, sequence }))
                    }
                }
            }
            Err(refusal) => Err(StampedError::Refused(refusal)),
        }
    }

    /// What a refusal means. `last` is the last of the subject, and `first` the first sequence that the log holds.
    fn find(&self, ours: &Stamp, last: Option<LastOfSubject>, first: Position) -> Finding {
        let found = last.as_ref().map_or(0, |last| last.sequence);
        match last {
            Some(LastOfSubject { sequence, stamp: Some(stamp) }) if stamp == *ours => Finding::Stored(sequence),
            _ if found == self.sequence => Finding::Again,
            _ if found > self.sequence => Finding::Fenced,
            _ if first > self.sequence => Finding::Purged(found),
            _ => Finding::Lost,
        }
    }
}

/// The last message of a producer's subject.
pub async fn last_of(connection: &Connection, log: &str, subject: &str) -> Result<Option<LastOfSubject>, NoAnswer> {
    let found = read::message(&connection.jetstream, log, Which::LastOf(subject)).await?;
    Ok(found.map(|message| {
        let stamp = message.unfolded_header(STAMP).and_then(|stamp| stamp.parse::<Stamp>().ok());
        let stamp = stamp.filter(|stamp| subject.rsplit('.').next() == Some(&stamp.producer));
        LastOfSubject { sequence: message.sequence, stamp }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_leader_shows_tells_what_a_refusal_means() {
        let stamp = |life, number| Stamp { producer: "p".into(), life, number, offset: 9 };
        // Batch 4 is to follow batch 3, which is at 30.
        let at = Stamped::after(stamp(1, 3), 30, 2);
        let ours = at.next(9).unwrap();
        assert_eq!(ours, stamp(2, 4));
        let last = |sequence, life, number| Some(LastOfSubject { sequence, stamp: Some(stamp(life, number)) });
        let foreign = Some(LastOfSubject { sequence: 40, stamp: None });
        for (what, last, first, finding) in [
            ("an earlier try", last(40, 2, 4), 1, Finding::Stored(40)),
            ("the one before", last(30, 1, 3), 1, Finding::Again),
            ("a later life", last(40, 3, 4), 1, Finding::Fenced),
            ("another process of the same life", last(40, 2, 5), 1, Finding::Fenced),
            ("an earlier life that was on its way, which a fence would have told", last(40, 1, 4), 1, Finding::Fenced),
            ("somebody without a stamp", foreign, 1, Finding::Fenced),
            ("purged", None, 31, Finding::Purged(0)),
            ("lost", None, 30, Finding::Lost),
            ("lost, and an older one is left", last(20, 1, 2), 1, Finding::Lost),
            ("lost with the whole log", None, 0, Finding::Lost),
        ] {
            assert_eq!(at.find(&ours, last, first), finding, "{what}");
        }
    }

    #[test]
    fn what_was_folded_tells_what_a_purge_has_taken_away() {
        let stamp = |life, number| Stamp { producer: "p".into(), life, number, offset: 9 };
        for (folded, left, purged, sequence) in [
            (None, 0, Purged::GoesOn, 0),
            (Some(stamp(2, 3)), 0, Purged::GoesOn, 0),
            (Some(stamp(1, 9)), 20, Purged::GoesOn, 20),
            (Some(stamp(2, 4)), 0, Purged::Stored, 30),
            (Some(stamp(3, 4)), 0, Purged::Fenced, 30),
            (Some(stamp(3, 1)), 0, Purged::Fenced, 30),
        ] {
            let mut at = Stamped::after(stamp(2, 3), 30, 2);
            assert_eq!((at.purged(folded.as_ref(), left), at.sequence), (purged, sequence), "{folded:?}");
        }
    }
}
