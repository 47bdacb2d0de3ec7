//! `Endings`: the partitions that a worker is letting go of, and what it says of them until others go on.
//!
//! | a partition | is claimed | told where it stopped |
//! | --- | --- | --- |
//! | that was told to hand over | yes | no |
//! | that has handed over, and it is noted | no | yes, for a while |
//! | that is let go of for nobody | no | no |
//!
//! What is told follows from what was noted here and not from how far the partition is by now: it goes on meanwhile, and a claim
//! that is gone without a word of where would have its successor begin further back.
//!
//! Pure: the time is handed in.

use crate::checkpoint::Position;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How long it is told that a partition was handed over.
const REMEMBERED: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
struct Ending {
    since: Instant,
    /// Whether another is to go on.
    hands_over: bool,
}

#[derive(Debug, Default)]
pub struct Endings {
    ending: BTreeMap<u32, Ending>,
    /// Where partitions have stopped that were handed over, and when.
    handed: BTreeMap<u32, (Position, Instant)>,
}

impl Endings {
    /// A partition was told to end. `hands_over`: for another to go on.
    pub fn begin(&mut self, partition: u32, hands_over: bool, now: Instant) {
        self.ending.insert(partition, Ending { since: now, hands_over });
        self.handed.remove(&partition);
    }

    /// A partition has handed over: it has stopped at a place, and folds no more since `at`.
    pub fn handed_over(&mut self, partition: u32, position: Position, at: Instant) {
        self.handed.insert(partition, (position, at));
    }

    /// The task of a partition is over. Whether it was told to end.
    pub fn over(&mut self, partition: u32) -> bool {
        self.ending.remove(&partition).is_some()
    }

    /// A partition is this worker's again.
    pub fn taken(&mut self, partition: u32) {
        self.handed.remove(&partition);
    }

    /// What was told for long enough is told no more.
    pub fn forget(&mut self, now: Instant) {
        self.handed.retain(|_, (_, at)| now.duration_since(*at) < REMEMBERED);
    }

    pub fn is_empty(&self) -> bool {
        self.ending.is_empty()
    }

    pub fn contains(&self, partition: u32) -> bool {
        self.ending.contains_key(&partition)
    }

    /// The partitions that end.
    pub fn all(&self) -> impl Iterator<Item = u32> {
        self.ending.keys().copied()
    }

    /// The partitions that have not ended in so long.
    pub fn beyond(&self, patience: Duration, now: Instant) -> impl Iterator<Item = u32> {
        let are_late = self.ending.iter().filter(move |(_, ending)| now.duration_since(ending.since) >= patience);
        are_late.map(|(partition, _)| *partition)
    }

    /// The partitions that this worker still claims, since nobody was told where they stop, and since when they end.
    pub fn claims(&self) -> impl Iterator<Item = (u32, Instant)> {
        let hand_over = self.ending.iter().filter(|(_, ending)| ending.hands_over);
        hand_over
            .filter(|(partition, _)| {
                !self.handed.contains_key(partition) && !crate::planted!("a-claim-ends-before-it-is-told-where")
            })
            .map(|(partition, ending)| (*partition, ending.since))
    }

    /// Where partitions have stopped, and how long ago.
    pub fn handed(&self, now: Instant) -> impl Iterator<Item = (u32, Position, Duration)> {
        self.handed.iter().map(move |(partition, (position, at))| (*partition, *position, now.duration_since(*at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(endings: &Endings) -> Vec<u32> {
        endings.claims().map(|(partition, _)| partition).collect()
    }

    fn told(endings: &Endings) -> Vec<(u32, Position)> {
        endings.handed(Instant::now()).map(|(partition, position, _)| (partition, position)).collect()
    }

    #[test]
    fn a_partition_is_claimed_until_it_is_told_where_it_has_stopped() {
        let mut endings = Endings::default();
        endings.begin(1, true, Instant::now());
        endings.begin(2, false, Instant::now());
        assert_eq!((claimed(&endings), told(&endings)), (vec![1], vec![]), "who lets go for nobody says nothing");
        endings.handed_over(1, 70, Instant::now());
        assert_eq!((claimed(&endings), told(&endings)), (vec![], vec![(1, 70)]));
        assert!(endings.over(1) && endings.over(2) && !endings.over(3) && endings.is_empty());
        assert_eq!((claimed(&endings), told(&endings)), (vec![], vec![(1, 70)]), "its successor may not have heard it");
    }

    #[test]
    fn a_partition_that_came_back_and_is_handed_over_again_is_claimed_until_its_new_place_is_told() {
        let mut endings = Endings::default();
        endings.begin(1, true, Instant::now());
        endings.handed_over(1, 70, Instant::now());
        endings.over(1);
        endings.taken(1);
        assert_eq!(told(&endings), []);
        endings.begin(1, true, Instant::now());
        assert_eq!((claimed(&endings), told(&endings)), (vec![1], vec![]));
        // Without having heard that it was its own again, it says nothing of where it had stopped before.
        endings.handed_over(1, 70, Instant::now());
        endings.over(1);
        endings.begin(1, true, Instant::now());
        assert_eq!((claimed(&endings), told(&endings)), (vec![1], vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn where_a_partition_has_stopped_is_told_for_a_while_and_what_does_not_end_in_time_is_named() {
        let mut endings = Endings::default();
        endings.begin(1, true, Instant::now());
        endings.handed_over(1, 70, Instant::now());
        assert_eq!(endings.beyond(Duration::from_secs(2), Instant::now()).count(), 0);
        tokio::time::advance(Duration::from_secs(2)).await;
        endings.forget(Instant::now());
        assert_eq!(
            (endings.beyond(Duration::from_secs(2), Instant::now()).collect::<Vec<_>>(), told(&endings)),
            (vec![1], vec![(1, 70)])
        );
        tokio::time::advance(REMEMBERED).await;
        endings.forget(Instant::now());
        assert_eq!(told(&endings), []);
    }
}
