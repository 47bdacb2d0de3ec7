//! `Unopened`: the streams of a run that were not opened yet, in order but for those of partitions that fell behind.
//!
//! Streams are numbered, and opened by their numbers. Where the next one belongs to a partition that takes no streams, its
//! partition falls behind: the others go on, and it begins there again once it takes streams. So one number a partition is
//! remembered, however many streams wait, and none is left out. Streams that have their finals from an earlier life of the run are
//! passed over.

use crate::run::done::Done;
use crate::sum::stream_id::{RunPrefix, StreamId};
use std::collections::BTreeMap;
use std::ops::Bound;

/// Numbers that one draw looks at, ahead and behind each. Whoever draws holds a lock meanwhile: some 50 µs.
const MOST_LOOKS: u32 = 512;

/// What a draw has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawn {
    /// To be opened.
    Stream(StreamId),
    /// There are more, but none was found for a partition that takes streams.
    Later,
    /// All are opened.
    Never,
}

#[derive(Debug)]
pub struct Unopened {
    run: RunPrefix,
    partitions: u32,
    /// As many streams as there are.
    end: u64,
    /// The first number that nobody has looked at.
    next: u64,
    /// For each partition that fell behind, the number from which on none of its streams is opened.
    behind: BTreeMap<u32, u64>,
    /// The partition behind that was drawn from last.
    last_behind: u32,
    behind_is_next: bool,
    /// Streams that are done without having been opened here.
    done: Done,
}

impl Unopened {
    /// Without end where `streams` is `u64::MAX`.
    pub fn new(run: RunPrefix, partitions: u32, streams: u64) -> Self {
        let (behind, done) = (BTreeMap::new(), Done::default());
        Self { run, partitions, end: streams, next: 0, behind, last_behind: 0, behind_is_next: false, done }
    }

    /// Passes over a stream that was not opened: it is done. False if this ID is none of the run.
    pub fn pass_over(&mut self, id: StreamId) -> bool {
        let ours = id.nth_of_run(self.run).filter(|n| *n < self.end);
        ours.is_some_and(|n| self.done.insert(n))
    }

    /// Whether the run has opened a stream of this ID, or passed over it.
    pub fn is_opened(&self, id: StreamId) -> bool {
        let Some(n) = id.nth_of_run(self.run) else { return false };
        if self.done.contains(n) {
            return true;
        }
        if n >= self.next {
            return false;
        }
        self.behind.is_empty() || self.behind.get(&id.partition(self.partitions)).is_none_or(|from| n < *from)
    }

    /// Notes that the streams up to this one were opened in order, by whoever does not draw.
    ///
    /// # Panics
    /// With an ID of another run.
    pub fn opened(&mut self, id: StreamId) {
        let n = id.nth_of_run(self.run).expect("streams of this run are opened");
        self.next = self.next.max(n + 1);
    }

    /// The next stream of a partition that `takes` streams. Those that fell behind have every other turn, so that they
    /// catch up while nobody waits for them.
    pub fn draw(&mut self, takes: impl Fn(u32) -> bool) -> Drawn {
        self.behind_is_next = !self.behind_is_next;
        let drawn = match self.behind_is_next {
            true => self.draw_behind(&takes).or_else(|| self.draw_ahead(&takes)),
            false => self.draw_ahead(&takes).or_else(|| self.draw_behind(&takes)),
        };
        match drawn {
            Some(id) => Drawn::Stream(id),
            None if self.next == self.end && self.behind.is_empty() => Drawn::Never,
            None => Drawn::Later,
        }
    }

    fn draw_ahead(&mut self, takes: impl Fn(u32) -> bool) -> Option<StreamId> {
        for _ in 0..MOST_LOOKS {
            // Where all are behind, there is nothing to go ahead with.
            if self.next == self.end || self.behind.len() == self.partitions as usize {
                return None;
            }
            let n = self.next;
            if let Some(end) = self.done.end_of(n) {
                self.next = end;
                continue;
            }
            self.next += 1;
            let id = StreamId::of_run(self.run, n);
            let partition = id.partition(self.partitions);
            if self.behind.contains_key(&partition) {
                continue;
            }
            if takes(partition) {
                return Some(id);
            }
            self.behind.insert(partition, n);
        }
        None
    }

    fn draw_behind(&mut self, takes: impl Fn(u32) -> bool) -> Option<StreamId> {
        let mut looks = MOST_LOOKS;
        for _ in 0..self.behind.len() {
            // Each in its turn, whether it takes streams or not.
            let after = self.behind.range((Bound::Excluded(self.last_behind), Bound::Unbounded)).next();
            let (partition, from) = after.or_else(|| self.behind.first_key_value())?;
            let (partition, mut from) = (*partition, *from);
            self.last_behind = partition;
            looks = looks.checked_sub(1)?;
            if !takes(partition) {
                continue;
            }
            let mut drawn = None;
            while drawn.is_none() && from < self.next && looks > 0 {
                looks -= 1;
                if let Some(end) = self.done.end_of(from) {
                    from = end.min(self.next);
                    continue;
                }
                drawn = Some(StreamId::of_run(self.run, from)).filter(|id| id.partition(self.partitions) == partition);
                from += 1;
            }
            match from == self.next && drawn.is_none() {
                true => self.behind.remove(&partition),
                false => self.behind.insert(partition, from),
            };
            if drawn.is_some() {
                return drawn;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const RUN: RunPrefix = RunPrefix([1, 2, 3, 4]);
    const PARTITIONS: u32 = 4;

    fn id(n: u64) -> StreamId {
        StreamId::of_run(RUN, n)
    }

    fn unopened(streams: u64) -> Unopened {
        Unopened::new(RUN, PARTITIONS, streams)
    }

    /// Draws until nothing more comes of it.
    fn all(unopened: &mut Unopened, takes: impl Fn(u32) -> bool + Copy) -> Vec<StreamId> {
        std::iter::from_fn(|| match unopened.draw(takes) {
            Drawn::Stream(id) => Some(id),
            Drawn::Later | Drawn::Never => None,
        })
        .collect()
    }

    #[test]
    fn while_all_partitions_take_streams_they_come_in_order() {
        let mut unopened = unopened(100);
        assert_eq!(all(&mut unopened, |_| true), (0..100).map(id).collect::<Vec<_>>());
        assert_eq!(unopened.draw(|_| true), Drawn::Never);
    }

    #[test]
    fn a_partition_that_takes_none_falls_behind_and_catches_up_beside_the_others() {
        let mut unopened = unopened(1000);
        let mut opened: BTreeSet<StreamId> = (0..300).map(|_| unopened.draw(|p| p != 2)).map(stream).collect();
        assert!(opened.iter().all(|id| id.partition(PARTITIONS) != 2));
        assert_eq!(unopened.behind.len(), 1);
        // Every other one is of those that wait.
        let next: Vec<_> = (0..20).map(|_| stream(unopened.draw(|_| true))).collect();
        assert!(next.iter().filter(|id| id.partition(PARTITIONS) == 2).count() >= 10, "{next:?}");
        let before = opened.len();
        opened.extend(next);
        opened.extend(all(&mut unopened, |_| true));
        assert_eq!((before, opened.len()), (300, 1000), "each once, and none left out");
        assert_eq!(unopened.draw(|_| true), Drawn::Never);
    }

    fn stream(drawn: Drawn) -> StreamId {
        match drawn {
            Drawn::Stream(id) => id,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn partitions_that_are_behind_take_turns() {
        let mut unopened = unopened(2000);
        (0..200).for_each(|_| _ = unopened.draw(|p| p == 0));
        assert_eq!(unopened.behind.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
        let drawn: Vec<_> = (0..60).map(|_| stream(unopened.draw(|p| p != 0)).partition(PARTITIONS)).collect();
        assert!((1..4).all(|p| drawn.iter().filter(|drawn| **drawn == p).count() == 20), "{drawn:?}");
    }

    #[test]
    fn what_is_left_of_partitions_that_take_none_waits_for_later() {
        let mut unopened = unopened(u64::MAX);
        // However often somebody asks, one number a partition is all that is remembered.
        (0..10).for_each(|_| assert_eq!(unopened.draw(|_| false), Drawn::Later));
        assert_eq!(unopened.behind.len(), 4);
        let mut few = self::unopened(3);
        assert_eq!((few.draw(|_| false), few.draw(|_| false)), (Drawn::Later, Drawn::Later));
        assert_eq!(all(&mut few, |_| true).len(), 3);
        assert_eq!(few.draw(|_| true), Drawn::Never);
    }

    #[test]
    fn streams_that_are_done_are_passed_over_ahead_and_behind() {
        let mut unopened = unopened(1000);
        let done = |n: u64| n < 300 || n.is_multiple_of(7);
        (0..1000).filter(|n| done(*n)).for_each(|n| assert!(unopened.pass_over(id(n))));
        assert!(!unopened.pass_over(id(0)) && !unopened.pass_over(id(1000)) && unopened.is_opened(id(7)));
        assert!(!unopened.pass_over(StreamId::new([9; 16])));
        // One partition falls behind, and some of what it has left is done meanwhile.
        let mut opened: BTreeSet<_> = (0..100).map(|_| stream(unopened.draw(|p| p != 2))).collect();
        let late =
            (300..1000).map(id).filter(|id| id.partition(PARTITIONS) == 2 && !unopened.is_opened(*id)).step_by(3);
        let late: BTreeSet<_> = late.collect();
        late.iter().for_each(|id| assert!(unopened.pass_over(*id)));
        let rest = all(&mut unopened, |_| true);
        assert!(rest.iter().all(|id| opened.insert(*id)), "none twice");
        let left: BTreeSet<_> = (0..1000).filter(|n| !done(*n)).map(id).filter(|id| !late.contains(id)).collect();
        assert!(opened == left, "none left out, and none that is done");
        assert_eq!(unopened.draw(|_| true), Drawn::Never);
    }

    #[test]
    fn which_streams_a_run_has_does_not_depend_on_its_partitions() {
        for partitions in [1, 3, 8] {
            let mut unopened = Unopened::new(RUN, partitions, 500);
            let mut drawn: BTreeSet<_> = (0..50).map(|_| stream(unopened.draw(|p| p % 2 == 0))).collect();
            drawn.extend(all(&mut unopened, |_| true));
            assert!(drawn == (0..500).map(id).collect(), "{partitions}");
        }
    }

    #[test]
    fn a_stream_is_opened_once_it_was_drawn_and_not_because_later_ones_were() {
        let mut unopened = unopened(1000);
        assert!(!unopened.is_opened(id(0)));
        let opened: BTreeSet<_> = (0..200).map(|_| stream(unopened.draw(|p| p != 1))).collect();
        for n in 0..1100 {
            assert_eq!(unopened.is_opened(id(n)), opened.contains(&id(n)), "{n}");
        }
        let mut in_order = self::unopened(u64::MAX);
        in_order.opened(id(4));
        assert!(in_order.is_opened(id(4)) && !in_order.is_opened(id(5)));
        assert!(!in_order.is_opened(StreamId::new([9; 16])));
    }
}
