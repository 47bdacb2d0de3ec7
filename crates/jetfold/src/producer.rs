//! `Producer`: what a partition knows of one producer, and what becomes of a batch that carries its [stamp](crate::stamp).
//!
//! | the producer has | the batch | outcome |
//! | --- | --- | --- |
//! | no row | number 1 | the row is opened, the batch folded |
//! | no row | number > 1 | rejected `unknown-producer`: it may be sent again long after, and be counted already |
//! | no row, and no room for one | number 1 | rejected `too-many-producers` |
//! | a row | of an earlier life | rejected `fenced` |
//! | a row | of its life, number <= last, and its offset is possible | comes again: dropped and counted |
//! | a row | any other with number <= last | rejected `overlapping`: its records may be counted already, or not |
//! | a row | last + 1 | folded |
//! | a contested row | last + 1 | rejected `overlapping` |
//! | a row | > last + 1 | rejected `producer-gap`: batches are lost |
//!
//! Which offset is possible: that of the row for a batch with its number, and none beyond it for one with a smaller number.
//!
//! A batch without a stamp is rejected as `unstamped`. An expired row is no row: see
//! [`Application::producer_expiry`](crate::application::Application::producer_expiry). Each batch is folded whole or rejected whole.
//!
//! # A later life, and a contested row
//!
//! A process that takes a producer's name begins a life, reads the last batch of the name from the log, and goes on behind it: with
//! the next number, from its offset on. That is right only if this batch is the last one folded. After the log has lost its end, another
//! batch may bear the number of the last one folded. It is refused, but from the log it looks the same. Who goes on behind it
//! has the right number and the wrong offset, so that records would be counted twice, or be left out. Such a row is
//! contested, and nothing more of this producer is folded. All other refused batches bear other numbers, so what goes on behind
//! them is refused as a gap or an overlap.
//!
//! A life belongs to one process: [`Publisher`](crate::publisher::Publisher) draws its lives. A client that counts them may take one
//! again, because a log that has lost its end does not tell which there were. That is why a batch is dropped only if its offset is
//! possible.
//!
//! # After a gap or an overlap
//!
//! The row stays as it is, so whatever follows is rejected too, with its reason: nothing is folded out of order, and nothing is
//! dropped without proof. What is rejected stays in the stream of rejects, whole, for as long as that keeps it. An operator finds out
//! what the log has lost, and starts the producer under another name, behind the offset that its row tells
//! ([`View::producer`](crate::store::View::producer)): up to there everything is folded, and nothing beyond it.
//!
//! The same goes for a producer whose row has expired, and for one whose first batches were accepted as lost before anybody had
//! folded them. Then no row tells an offset.

use crate::application;
use crate::stamp::Stamp;
use crate::time::LogTime;
use std::sync::Arc;

/// The batch has no stamp.
pub const UNSTAMPED: &str = "unstamped";

/// Not the first batch, of a producer that nothing is known of: it may have been folded before its row expired.
pub const UNKNOWN_PRODUCER: &str = "unknown-producer";

/// There is no room for one more producer.
pub const TOO_MANY_PRODUCERS: &str = "too-many-producers";

/// Batches of the producer are missing before this one.
pub const PRODUCER_GAP: &str = "producer-gap";

/// The producer went on behind a batch that is not the last one folded: the log had lost that one.
pub const OVERLAPPING: &str = "overlapping";

/// The producer has a later life.
pub const FENCED: &str = "fenced";

/// What is known of one producer: the last of its batches that was folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    pub life: u64,
    pub number: u64,
    /// Of its own input, what is folded in this partition.
    pub offset: u64,
    /// Another batch with this number was refused: nothing more is folded.
    pub contested: bool,
    pub changed_at: LogTime,
}

/// Producers of one partition at the most that have not expired: about 16 MiB of memory.
pub const MOST_PRODUCERS: usize = 65_536;

/// A producer's name, and its row.
pub type NamedProducer = (Arc<str>, Producer);

/// What has become of a producer since the last transaction: its row, or `None` if it has expired, and leaves the store.
pub type ChangedProducer = (Arc<str>, Option<Producer>);

/// What becomes of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Folded.
    Next,
    /// Was folded before.
    Again,
    /// Rejected.
    Refused(Refusal),
}

/// Why a batch is rejected, and what is lost, in words, if that proves that something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: &'static str,
    pub loss: Option<String>,
}

impl From<&'static str> for Refusal {
    fn from(reason: &'static str) -> Self {
        Self { reason, loss: None }
    }
}

impl Producer {
    /// The row of a producer whose batch `stamp` is folded at `now`.
    pub fn after(stamp: &Stamp, now: LogTime) -> Self {
        let &Stamp { life, number, offset, .. } = stamp;
        Self { life, number, offset, contested: false, changed_at: now }
    }

    /// Whether the row counts as absent at `now`.
    pub fn is_expired(&self, now: LogTime, expiry: LogTime) -> bool {
        now.saturating_sub(self.changed_at) > expiry
    }

    /// What becomes of a batch of this producer.
    pub fn judge(&self, stamp: &Stamp) -> Fate {
        let Stamp { producer, life, number, .. } = stamp;
        let (life, number, last) = (*life, *number, self.number);
        let refused = |reason, loss| Fate::Refused(Refusal { reason, loss: Some(loss) });
        if life < self.life && !crate::planted!("an-earlier-life-goes-on") {
            return Fate::Refused(FENCED.into());
        }
        let is_possible = match number == last && !crate::planted!("offsets-of-one-number-are-not-compared") {
            true => stamp.offset == self.offset,
            false => stamp.offset <= self.offset,
        };
        if number <= last && life == self.life && is_possible {
            return Fate::Again;
        }
        if number <= last {
            let loss = format!(
                "batch {number} of producer {producer} comes once more and is another one, after batch {last} was folded: the log \
                 had lost what was folded, and its records may be counted already, or not"
            );
            return refused(OVERLAPPING, loss);
        }
        if number - 1 > last && !crate::planted!("a-producer-s-gap-is-folded") {
            let loss = format!(
                "batch {number} of producer {producer} follows batch {last}, and {} was expected: batches were lost",
                last + 1
            );
            return refused(PRODUCER_GAP, loss);
        }
        if self.contested {
            let loss = format!(
                "batch {number} of producer {producer} follows two batches {last}, of which one was folded: its records may be \
                 counted already, or others be missing before them"
            );
            return refused(OVERLAPPING, loss);
        }
        Fate::Next
    }

    /// Whether the row is contested by this batch, which is refused.
    pub fn is_contested_by(&self, stamp: &Stamp) -> bool {
        stamp.number == self.number
    }
}

/// A tag is never given another meaning: a change of a row's shape takes a new one.
const PLAIN: u8 = 1;
const CONTESTED: u8 = 2;

/// A tag, then, little-endian: `life`, `number`, `offset` u64, `changed_at` i64.
impl application::Row for Producer {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(if self.contested { CONTESTED } else { PLAIN });
        for number in [self.life, self.number, self.offset] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.changed_at.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (tag, mut rest) = bytes.split_first()?;
        let contested = match *tag {
            PLAIN => false,
            CONTESTED => true,
            _ => return None,
        };
        let mut next = || {
            let (number, after) = rest.split_first_chunk()?;
            rest = after;
            Some(u64::from_le_bytes(*number))
        };
        let (life, number, offset) = (next()?, next()?, next()?);
        let changed_at = LogTime::from_le_bytes(rest.try_into().ok()?);
        Some(Self { life, number, offset, contested, changed_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::Row;

    fn stamp(life: u64, number: u64) -> Stamp {
        Stamp { producer: "p".into(), life, number, offset: number.wrapping_mul(10) }
    }

    #[test]
    fn a_batch_is_folded_known_or_refused_by_its_life_and_number() {
        let row = Producer::after(&stamp(2, 5), 0);
        let contested = Producer { contested: true, ..row };
        let (further, nearer) = (Producer { offset: 51, ..row }, Producer { offset: 39, ..row });
        for (row, life, number, expected, contests) in [
            (row, 2, 6, "next", false),
            (row, 3, 6, "next", false),
            (row, u64::MAX, 6, "next", false),
            (row, 2, 5, "again", false),
            (row, 2, 1, "again", false),
            (row, 2, 7, PRODUCER_GAP, false),
            (row, 3, 7, PRODUCER_GAP, false),
            (row, 2, u64::MAX, PRODUCER_GAP, false),
            (row, 3, 5, OVERLAPPING, true),
            (row, 3, 4, OVERLAPPING, false),
            (row, 3, 1, OVERLAPPING, false),
            (row, 1, 5, FENCED, true),
            (row, 1, 4, FENCED, false),
            (row, 1, 6, FENCED, false),
            (row, 1, 7, FENCED, false),
            (contested, 2, 6, OVERLAPPING, false),
            (contested, 2, 5, "again", false),
            (contested, 3, 6, OVERLAPPING, false),
            (contested, 3, 5, OVERLAPPING, true),
            (contested, 3, 7, PRODUCER_GAP, false),
            (contested, 1, 6, FENCED, false),
            (further, 2, 5, OVERLAPPING, true),
            (further, 2, 4, "again", false),
            (nearer, 2, 5, OVERLAPPING, true),
            (nearer, 2, 4, OVERLAPPING, false),
            (nearer, 2, 3, "again", false),
        ] {
            let stamp = stamp(life, number);
            let what = format!("{} {row:?}", stamp);
            let (found, loss) = match row.judge(&stamp) {
                Fate::Next => ("next", None),
                Fate::Again => ("again", None),
                Fate::Refused(Refusal { reason, loss }) => (reason, loss),
            };
            assert_eq!(found, expected, "{what}");
            assert_eq!(loss.is_some(), [PRODUCER_GAP, OVERLAPPING].contains(&found), "{what}: {loss:?}");
            let is_refused = !["next", "again"].contains(&found);
            assert_eq!(is_refused && row.is_contested_by(&stamp), contests, "{what}");
        }
        let last = Producer::after(&stamp(1, u64::MAX), 0);
        assert_eq!(last.judge(&stamp(1, u64::MAX)), Fate::Again, "no number comes after the last");
    }

    #[test]
    fn a_gap_is_told_by_the_producer_and_both_numbers() {
        let row = Producer::after(&stamp(1, 5), 0);
        let Fate::Refused(Refusal { loss: Some(loss), .. }) = row.judge(&stamp(1, 9)) else { panic!("no gap") };
        assert_eq!(loss, "batch 9 of producer p follows batch 5, and 6 was expected: batches were lost");
    }

    #[test]
    fn a_row_comes_back_from_its_bytes_and_no_other_shape_is_one() {
        let row = Producer { life: 1, number: 2, offset: u64::MAX, contested: true, changed_at: -3 };
        for row in [row, Producer { contested: false, ..row }] {
            let mut bytes = Vec::new();
            row.encode(&mut bytes);
            assert_eq!(Producer::decode(&bytes), Some(row));
            assert_eq!(Producer::decode(&bytes[..bytes.len() - 1]), None);
            bytes.push(0);
            assert_eq!(Producer::decode(&bytes), None);
            bytes[0] = 3;
            assert_eq!(Producer::decode(&bytes[..33]), None);
        }
        let mut bytes = Vec::new();
        row.encode(&mut bytes);
        assert_eq!(hex::encode(bytes), "0201000000000000000200000000000000fffffffffffffffffdffffffffffffff");
    }
}
