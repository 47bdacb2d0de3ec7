//! The producers of one partition: all of them in memory, by name.
//!
//! Those that have expired leave as soon as the log's clock says so, before a batch is judged. So what is held, and what the store
//! has after each commit, is a function of the log alone, and nothing depends on when anybody looks.

use crate::producer::{
    ChangedProducer, Fate, MOST_PRODUCERS, NamedProducer, Producer, TOO_MANY_PRODUCERS, UNKNOWN_PRODUCER, UNSTAMPED,
};
use crate::stamp::Stamp;
use crate::time::LogTime;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The rows of all producers that have not expired.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Producers {
    rows: BTreeMap<Arc<str>, Producer>,
    /// The same by age, so that those which expire are found at once.
    ages: BTreeSet<(LogTime, Arc<str>)>,
    /// Whose row has changed, or expired, since the last transaction.
    changed: BTreeSet<Arc<str>>,
}

impl Producers {
    /// Those that a store has.
    pub fn new(stored: Vec<NamedProducer>) -> Self {
        let ages = stored.iter().map(|(name, row)| (row.changed_at, name.clone())).collect();
        Self { rows: stored.into_iter().collect(), ages, changed: BTreeSet::new() }
    }

    /// Says what becomes of a batch that is folded at `now`, and takes note of it.
    pub fn judge(&mut self, stamp: Option<&Stamp>, now: LogTime, expiry: LogTime) -> Fate {
        self.expire(now, expiry);
        let Some(stamp) = stamp else { return Fate::Refused(UNSTAMPED.into()) };
        let Some((name, row)) = self.rows.get_key_value(stamp.producer.as_str()) else {
            if stamp.number > 1 && !crate::planted!("a-producer-begins-anywhere") {
                return Fate::Refused(UNKNOWN_PRODUCER.into());
            }
            if self.rows.len() >= MOST_PRODUCERS {
                return Fate::Refused(TOO_MANY_PRODUCERS.into());
            }
            self.put(stamp.producer.as_str().into(), Producer::after(stamp, now));
            return Fate::Next;
        };
        let (name, row) = (name.clone(), *row);
        let fate = row.judge(stamp);
        match &fate {
            Fate::Next => self.put(name, Producer::after(stamp, now)),
            Fate::Refused(_)
                if !row.contested && row.is_contested_by(stamp) && !crate::planted!("nobody-contests-a-number") =>
            {
                self.put(name, Producer { contested: true, ..row });
            }
            Fate::Again | Fate::Refused(_) => {}
        }
        fate
    }

    fn put(&mut self, name: Arc<str>, row: Producer) {
        if let Some(before) = self.rows.insert(name.clone(), row) {
            self.ages.remove(&(before.changed_at, name.clone()));
        }
        self.ages.insert((row.changed_at, name.clone()));
        self.changed.insert(name);
    }

    fn expire(&mut self, now: LogTime, expiry: LogTime) {
        while let Some((_, name)) = self.ages.first() {
            if !self.rows[name].is_expired(now, expiry) || crate::planted!("producers-are-remembered-for-ever") {
                return;
            }
            let (_, name) = self.ages.pop_first().expect("it was just looked at");
            self.rows.remove(&name);
            self.changed.insert(name);
        }
    }

    /// What has changed since this was last asked, by name.
    pub fn take_changed(&mut self) -> Vec<ChangedProducer> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|name| (name.clone(), self.rows.get(&name).copied())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::producer::{FENCED, OVERLAPPING, PRODUCER_GAP, Refusal};

    const EXPIRY: LogTime = 100;

    /// What becomes of batch `number` of a producer, with an offset made of the number.
    fn judge(producers: &mut Producers, now: LogTime, name: &str, life: u64, number: u64) -> &'static str {
        let stamp = Stamp { producer: name.into(), life, number, offset: number };
        match producers.judge(Some(&stamp), now, EXPIRY) {
            Fate::Next => "next",
            Fate::Again => "again",
            Fate::Refused(Refusal { reason, .. }) => reason,
        }
    }

    #[test]
    fn batches_of_each_producer_are_folded_in_order_and_once() {
        let mut all = Producers::default();
        for (now, name, life, number, expected, why) in [
            (0, "a", 1, 2, UNKNOWN_PRODUCER, "its first may have been folded long ago"),
            (0, "a", 1, 1, "next", "opened"),
            (0, "b", 9, 1, "next", "each for itself"),
            (1, "a", 1, 1, "again", ""),
            (2, "a", 1, 3, PRODUCER_GAP, ""),
            (2, "a", 1, 4, PRODUCER_GAP, "the row stays, so what follows is no better"),
            (2, "a", 1, 2, "next", "what was expected"),
            (3, "a", 4, 3, "next", "a later life goes on"),
            (3, "a", 1, 4, FENCED, "the earlier one does not"),
            (3, "a", 4, 4, "next", "and holds nobody up"),
            (3, "a", 5, 3, OVERLAPPING, "the log had lost what was folded"),
            (3, "a", 4, 5, "next", "and the row goes on"),
            (3, "a", 6, 5, OVERLAPPING, "the log had lost the last that was folded"),
            (3, "a", 6, 6, OVERLAPPING, "what goes on behind what was refused"),
            (3, "a", 7, 6, OVERLAPPING, "be it another life"),
            (3, "a", 4, 6, OVERLAPPING, "or one that may share the life of the row"),
            (3, "b", 9, 2, "next", "others go on"),
        ] {
            assert_eq!(judge(&mut all, now, name, life, number), expected, "{name} {life} {number} at {now}: {why}");
        }
        assert_eq!(all.judge(None, 5, EXPIRY), Fate::Refused(UNSTAMPED.into()));
    }

    #[test]
    fn only_what_is_folded_renews_a_row() {
        let mut all = Producers::default();
        judge(&mut all, 0, "a", 2, 1);
        judge(&mut all, 50, "a", 2, 2);
        for (life, number) in [(2, 2), (2, 9), (3, 2), (1, 1)] {
            judge(&mut all, 150, "a", life, number);
        }
        assert_eq!(judge(&mut all, 150, "a", 2, 2), "again", "at its last moment");
        assert_eq!(judge(&mut all, 151, "a", 2, 3), UNKNOWN_PRODUCER);
        assert_eq!(judge(&mut all, 151, "a", 1, 1), "next", "it begins anew");
    }

    #[test]
    fn rows_that_have_expired_decide_nothing_whether_they_have_left_the_store_or_not() {
        let mut all = Producers::default();
        judge(&mut all, 0, "old", 1, 1);
        judge(&mut all, 0, "older", 1, 1);
        judge(&mut all, 60, "young", 1, 1);
        let stored: Vec<_> = all.rows.clone().into_iter().collect();
        let kept: Vec<_> = stored.iter().filter(|(name, _)| &**name == "young").cloned().collect();
        let (mut stored, mut kept) = (Producers::new(stored), Producers::new(kept));
        for all in [&mut stored, &mut kept] {
            assert_eq!(judge(all, 101, "old", 1, 2), UNKNOWN_PRODUCER);
            assert_eq!(judge(all, 101, "older", 1, 1), "next", "opened anew");
            assert_eq!(judge(all, 101, "young", 1, 2), "next");
        }
        assert_eq!((&stored.rows, &stored.ages), (&kept.rows, &kept.ages));
    }

    #[test]
    fn there_is_room_for_so_many_producers_and_an_expired_one_makes_room() {
        let mut all = Producers::default();
        judge(&mut all, 0, "first", 1, 1);
        for n in 1..MOST_PRODUCERS {
            assert_eq!(judge(&mut all, 1, &n.to_string(), 1, 1), "next");
        }
        assert_eq!(judge(&mut all, 100, "more", 1, 1), TOO_MANY_PRODUCERS);
        assert_eq!(judge(&mut all, 100, "more", 1, 2), UNKNOWN_PRODUCER);
        assert_eq!(judge(&mut all, 100, "1", 1, 2), "next", "those that are known go on");
        assert_eq!(judge(&mut all, 101, "more", 1, 1), "next", "the first has expired");
        assert_eq!(judge(&mut all, 101, "first", 1, 1), TOO_MANY_PRODUCERS);
    }

    #[test]
    fn what_has_changed_is_told_once_and_by_its_last_state() {
        let mut all = Producers::default();
        for (now, name, number) in [(0, "b", 1), (0, "a", 1), (7, "a", 2), (7, "c", 2)] {
            judge(&mut all, now, name, 1, number);
        }
        let told = |all: &mut Producers| -> Vec<_> {
            let changed = all.take_changed().into_iter();
            changed.map(|(name, row)| (name.to_string(), row.map(|row| row.number))).collect()
        };
        assert_eq!(told(&mut all), [("a".into(), Some(2)), ("b".into(), Some(1))]);
        judge(&mut all, 8, "a", 1, 1);
        assert_eq!(told(&mut all), [], "a batch that comes again changes nothing");
        judge(&mut all, 101, "a", 2, 2);
        assert_eq!(told(&mut all), [("a".into(), Some(2)), ("b".into(), None)], "contested, and expired");
    }
}
