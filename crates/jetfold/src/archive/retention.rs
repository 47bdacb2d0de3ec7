//! Up to which snapshot a log may be purged, and which snapshots may be removed: decided from the bucket's listing alone,
//! whoever put them and in whichever life of a worker.
//!
//! | of the snapshots of this log | stay, since |
//! | --- | --- |
//! | the furthest two | one of them may be damaged |
//! | the furthest that has settled and that the log reaches | the log may be purged up to it |
//! | beyond that, the one that settles next | with one snapshot a minute the newest is never old enough |
//! | beyond that, those that settle soon | see below |
//!
//! The same once more for those with the history of the worker's own store, up to which alone it purges.
//!
//! All workers of a partition do this, each by a listing that may be older than the others'. What one of them removes,
//! no other can be about to rely on: a snapshot that has settled, or that settles while a listing [may be acted
//! on](Shelf::good_for), is only removed for a further one that has settled.

use crate::archive::situation::INTERVAL;
use crate::checkpoint::Position;
use crate::time::{UnixNanos, age};
use std::time::Duration;

/// The furthest snapshots that are kept, settled or not.
const KEPT: usize = 2;

/// A listing may be acted on for this part of the time that a snapshot takes to settle, and that long at the least.
const GOOD_FOR: u32 = 8;
const LEAST_GOOD_FOR: Duration = Duration::from_secs(1);

/// What a snapshot is to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of this log, with the history of the worker's own store: the same was accepted as lost.
    Own,
    /// Of this log, with another history.
    OtherHistory,
    /// Of another log, or of what this one was.
    OtherLog,
    /// Not what was put.
    Damaged,
    /// Written by another version.
    OtherFormat,
}

/// A snapshot in the bucket.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub position: Position,
    pub put_at: UnixNanos,
    pub kind: Kind,
}

impl Entry {
    pub fn is_of_this_log(&self) -> bool {
        matches!(self.kind, Kind::Own | Kind::OtherHistory)
    }
}

/// A snapshot to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removal {
    pub index: usize,
    /// Only for the sake of the [furthest that has settled](Shelf::furthest_settled), so only if that is whole.
    pub superseded: bool,
}

/// The snapshots of a partition.
#[derive(Clone, Debug)]
pub struct Shelf {
    /// The furthest first.
    pub entries: Vec<Entry>,
    /// By the clock that stamped them.
    pub now: UnixNanos,
    /// How long a snapshot takes to settle: the broker has older ones on disk for certain.
    pub delay: Duration,
    /// The first sequence that the log holds.
    pub first: Position,
}

impl Shelf {
    /// How long after it was listed this may be acted on.
    pub fn good_for(&self) -> Duration {
        (self.delay / GOOD_FOR).max(LEAST_GOOD_FOR)
    }

    fn has_settled(&self, entry: &Entry) -> bool {
        age(entry.put_at, self.now) >= self.delay
    }

    fn settles_soon(&self, entry: &Entry) -> bool {
        age(entry.put_at, self.now) + self.good_for() >= self.delay
    }

    /// Whether the log has all that a store needs which starts from there.
    fn is_reached(&self, entry: &Entry) -> bool {
        self.first <= entry.position.saturating_add(1)
    }

    /// The furthest snapshot that a store of the worker's own history could go on from.
    pub fn newest(&self) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.kind == Kind::Own && self.is_reached(entry))
    }

    /// How long ago that was put. `None` too if a clock that was ahead has stamped it, which would make it young for as
    /// long as that was ahead.
    pub fn since_newest(&self) -> Option<Duration> {
        let put_at = self.newest()?.put_at;
        (age(self.now, put_at) < INTERVAL).then(|| age(put_at, self.now))
    }

    /// The snapshot up to which the log is to be purged by a worker that has committed through `position`: the furthest
    /// that has settled. If the log runs full, the one before the newest, and if that frees nothing, the newest.
    pub fn purge_to(&self, position: Position, runs_full: bool) -> Option<usize> {
        let entry = |index: &usize| &self.entries[*index];
        let may = |index: &usize| {
            let is_own = entry(index).kind == Kind::Own || crate::planted!("a-log-is-purged-up-to-any-snapshot");
            is_own && (entry(index).position <= position || crate::planted!("a-log-is-purged-beyond-the-store"))
        };
        let frees = |index: &usize| entry(index).position > self.first;
        let ours: Vec<usize> = (0..self.entries.len()).filter(may).collect();
        let has_settled =
            |entry| self.has_settled(entry) || crate::planted!("a-log-is-purged-up-to-what-has-not-settled");
        let settled = ours.iter().find(|index| has_settled(entry(index))).filter(|index| frees(index));
        let at_once = || ours.iter().take(KEPT).rev().find(|index| runs_full && frees(index));
        settled.or_else(at_once).copied()
    }

    /// The furthest snapshot of this log that has settled and that the log reaches.
    pub fn furthest_settled(&self) -> Option<usize> {
        self.furthest_settled_of(Entry::is_of_this_log)
    }

    fn furthest_settled_of(&self, which: impl Fn(&Entry) -> bool) -> Option<usize> {
        self.entries.iter().position(|entry| which(entry) && self.has_settled(entry) && self.is_reached(entry))
    }

    /// What may go.
    pub fn removable(&self) -> Vec<Removal> {
        let mut stays = vec![false; self.entries.len()];
        self.keep(Entry::is_of_this_log, &mut stays);
        self.keep(|entry| entry.kind == Kind::Own, &mut stays);
        let settled = self.furthest_settled().map(|index| self.entries[index].position);
        let removal = |(index, entry): (usize, &Entry)| {
            let passed = settled.is_some_and(|settled| entry.position <= settled)
                || crate::planted!("snapshots-are-removed-before-another-settles");
            let superseded = match entry.kind {
                Kind::Own | Kind::OtherHistory if stays[index] => return None,
                Kind::Own | Kind::OtherHistory => passed && self.is_reached(entry),
                // Somebody may bring the other log back, for as long as there is nothing safe of this one.
                Kind::OtherLog | Kind::Damaged if settled.is_some() => true,
                // A worker of the other version may purge up to a further one.
                Kind::OtherFormat if passed => true,
                Kind::OtherLog | Kind::Damaged | Kind::OtherFormat => return None,
            };
            Some(Removal { index, superseded })
        };
        self.entries.iter().enumerate().filter_map(removal).collect()
    }

    /// Marks what stays of some of the entries.
    fn keep(&self, which: impl Fn(&Entry) -> bool + Copy, stays: &mut [bool]) {
        let those = || self.entries.iter().enumerate().filter(move |(_, entry)| which(entry));
        those().take(KEPT).for_each(|(index, _)| stays[index] = true);
        let settled = self.furthest_settled_of(which);
        if let Some(index) = settled.filter(|_| !crate::planted!("a-settled-snapshot-is-removed")) {
            stays[index] = true;
        }
        let beyond = settled.map_or(0, |index| self.entries[index].position);
        let settling = || {
            those().filter(|(_, entry)| entry.position > beyond && self.is_reached(entry) && !self.has_settled(entry))
        };
        if let Some((index, _)) = settling().min_by_key(|(_, entry)| entry.put_at) {
            stays[index] = true;
        }
        settling().filter(|(_, entry)| self.settles_soon(entry)).for_each(|(index, _)| stays[index] = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    const SECOND: UnixNanos = 1_000_000_000;
    const DELAY: Duration = Duration::from_secs(300);
    const NOW: UnixNanos = 10_000 * SECOND;

    /// `entries` are positions, ages in seconds, and kinds.
    fn shelf(first: Position, entries: &[(Position, UnixNanos, Kind)]) -> Shelf {
        let entry = |(position, age, kind): &_| Entry { position: *position, put_at: NOW - age * SECOND, kind: *kind };
        let mut entries: Vec<Entry> = entries.iter().map(entry).collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.position));
        Shelf { entries, now: NOW, delay: DELAY, first }
    }

    #[test]
    fn the_log_is_purged_up_to_what_has_settled_and_at_once_only_where_it_runs_full() {
        use Kind::*;
        let some = [(10, 300, Own), (20, 299, Own), (30, 0, Own)];
        let others =
            [(10, 300, Own), (20, 301, OtherHistory), (30, 302, OtherLog), (40, 303, Damaged), (50, 304, OtherFormat)];
        for (what, first, entries, position, runs_full, purged) in [
            ("one has settled", 1, &some[..], 99, false, Some(10)),
            ("it is purged up to it", 10, &some, 99, false, None),
            ("it was purged beyond it", 15, &some, 99, false, None),
            ("the one before the newest first", 10, &some, 99, true, Some(20)),
            ("then the newest", 20, &some, 99, true, Some(30)),
            ("nothing is left to free", 30, &some, 99, true, None),
            ("not beyond what is committed", 10, &some, 29, true, Some(20)),
            ("nor where that has settled", 1, &some, 9, false, None),
            ("only up to those of the store's own history", 1, &others, 99, false, Some(10)),
            ("nor to others where it runs full", 10, &others, 99, true, None),
            ("there is none", 1, &[], 99, true, None),
        ] {
            let shelf = shelf(first, entries);
            let found = shelf.purge_to(position, runs_full).map(|index| shelf.entries[index].position);
            assert_eq!(found, purged, "{what}");
        }
    }

    #[test]
    fn what_somebody_may_rely_on_stays() {
        use Kind::*;
        for (what, first, entries, removed) in [
            ("two of two", 1, &[(10, 900, Own), (20, 800, Own)][..], &[][..]),
            (
                "all but the furthest two, the settled, and the one that settles next",
                20,
                &[(10, 700, Own), (20, 400, Own), (30, 200, Own), (40, 150, Own), (50, 100, Own), (60, 50, Own)],
                &[(40, false), (10, false)],
            ),
            (
                "what settles soon stays",
                20,
                &[(20, 400, Own), (30, 290, Own), (40, 270, Own), (50, 9, Own), (60, 0, Own)],
                &[],
            ),
            (
                "of several that have settled the furthest",
                1,
                &[(10, 900, Own), (20, 800, Own), (30, 700, Own), (40, 0, Own), (50, 0, Own)],
                &[(20, true), (10, true)],
            ),
            (
                "the log was purged beyond it",
                32,
                &[(10, 900, Own), (30, 800, Own), (40, 200, Own), (50, 0, Own), (60, 0, Own)],
                &[(30, false), (10, false)],
            ),
            (
                "a clock that has stepped holds none up",
                1,
                &[(10, -900, Own), (20, 200, Own), (30, 100, Own), (40, 9, Own)],
                &[(10, false)],
            ),
            (
                "none settles behind one that has",
                1,
                &[(10, 200, Own), (20, 400, Own), (30, 0, Own), (40, 0, Own)],
                &[(10, true)],
            ),
            (
                "another history's counts among those of the log, and the own once more",
                1,
                &[
                    (10, 600, Own),
                    (20, 200, Own),
                    (30, 100, Own),
                    (40, 700, OtherHistory),
                    (50, 600, OtherHistory),
                    (60, 0, OtherHistory),
                ],
                &[(40, true)],
            ),
            (
                "of another log, for as long as none of this one has settled",
                1,
                &[
                    (10, 299, Own),
                    (70, 900, OtherLog),
                    (80, 900, Damaged),
                    (90, 900, OtherFormat),
                    (5, 900, OtherFormat),
                ],
                &[],
            ),
            (
                "and then no longer, but what may be ahead of it",
                1,
                &[
                    (10, 300, Own),
                    (70, 900, OtherLog),
                    (80, 900, Damaged),
                    (90, 900, OtherFormat),
                    (5, 900, OtherFormat),
                ],
                &[(80, true), (70, true), (5, true)],
            ),
            (
                "one that the log does not reach is none",
                12,
                &[(10, 300, Own), (70, 900, OtherLog), (5, 900, OtherFormat)],
                &[],
            ),
        ] {
            let shelf = shelf(first, entries);
            let found = shelf.removable();
            let found: Vec<_> = found.iter().map(|it| (shelf.entries[it.index].position, it.superseded)).collect();
            assert_eq!(found, removed, "{what}");
        }
    }

    #[test]
    fn the_furthest_to_go_on_from_is_of_the_own_history_and_reached() {
        use Kind::*;
        let entries = [(10, 0, Own), (20, 0, OtherHistory), (30, 0, Damaged)];
        assert_eq!(shelf(1, &entries).newest().map(|entry| entry.position), Some(10));
        assert_eq!(shelf(11, &entries).newest().map(|entry| entry.position), Some(10));
        assert!(shelf(12, &entries).newest().is_none());
        for (ago, since) in [(70, Some(70)), (0, Some(0)), (-59, Some(0)), (-60, None)] {
            assert_eq!(shelf(1, &[(10, ago, Own)]).since_newest(), since.map(Duration::from_secs), "{ago}");
        }
    }

    /// What one of several workers knows.
    struct Worker {
        position: Position,
        looked_at: UnixNanos,
        listing: Vec<Entry>,
    }

    #[test]
    fn workers_that_act_on_listings_of_their_own_leave_the_furthest_settled_to_each_other() {
        for seed in 0..60 {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let mut bucket = Shelf { entries: Vec::new(), now: NOW, delay: DELAY, first: 1 };
            let worker = || Worker { position: 0, looked_at: NOW, listing: Vec::new() };
            let mut workers: Vec<Worker> = (0..2 + seed % 2).map(|_| worker()).collect();
            // Snapshots a minute, or many of them, as when a log runs full.
            let pause = [60, 5][seed as usize % 2];
            let (mut last, mut purged_at) = (0, NOW);
            while bucket.now < NOW + 3600 * SECOND {
                bucket.now += random.random_range(1..SECOND);
                last += 1;
                let n = random.random_range(0..workers.len());
                let worker = &mut workers[n];
                worker.position += random.random_range(0..=last - worker.position);
                if random.random_range(0..pause) == 0 && bucket.entries.iter().all(|it| it.position < worker.position) {
                    let entry = Entry { position: worker.position, put_at: bucket.now, kind: Kind::Own };
                    bucket.entries.insert(0, entry);
                    // Who has put one lists them, and acts on that at once, or a little later.
                    (worker.looked_at, worker.listing) = (bucket.now, bucket.entries.clone());
                }
                if random.random_range(0..30) == 0 {
                    (worker.looked_at, worker.listing) = (bucket.now, bucket.entries.clone());
                }
                let shelf = Shelf { entries: worker.listing.clone(), ..bucket };
                if random.random_range(0..3) == 0 || age(worker.looked_at, bucket.now) >= shelf.good_for() {
                    continue;
                }
                let is_there = |position| bucket.entries.iter().any(|it| it.position == position);
                let purged = shelf.purge_to(worker.position, false).map(|index| shelf.entries[index].position);
                // It is read once more before.
                if let Some(position) = purged.filter(|position| is_there(*position)) {
                    bucket.first = bucket.first.max(position);
                    purged_at = bucket.now;
                }
                for Removal { index, .. } in shelf.removable() {
                    let position = shelf.entries[index].position;
                    let furthest = bucket.furthest_settled().map(|index| bucket.entries[index].position);
                    assert_ne!(furthest, Some(position), "seed {seed}");
                    bucket.entries.retain(|entry| entry.position != position);
                }
                assert!(bucket.first == 1 || bucket.furthest_settled().is_some(), "seed {seed}");
                assert!(bucket.entries.len() <= 12, "seed {seed}: {}", bucket.entries.len());
                assert!(age(purged_at, bucket.now) < 3 * DELAY, "seed {seed}: none settles");
            }
        }
    }
}
