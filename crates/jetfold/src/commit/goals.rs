//! `Goals`: the places that an owner has told to whoever [follows](crate::partition) it, and whether the follower's fold is the same.
//!
//! | the fold comes to | then |
//! | --- | --- |
//! | a place that was told, and is what was told | it may be committed here |
//! | a place that was told, and is something else | the log is not the one that the owner has folded |
//! | a place beyond one that was told | that one is passed: a store may be further than its owner |
//!
//! Pure: what was told is handed in, and so is the place of the fold.

use crate::checkpoint::{Checkpoint, Position};
use std::collections::VecDeque;

/// Places that are kept in mind. The furthest are what matters.
const MOST: usize = 64;

/// What the place of a fold is to what was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Nothing was told of it, or of any place before it.
    OnTheWay,
    /// It is beyond what was told.
    Passed,
    /// Here an owner has stood, with the same fold.
    There(Checkpoint),
    /// Here an owner has stood, with another fold.
    Differs,
}

/// The last place where a follower's fold was what an owner has told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Proven(Option<Checkpoint>);

impl Proven {
    /// The fold has [arrived](Arrival::There) at what was told.
    pub fn at(&mut self, goal: Checkpoint) {
        self.0 = Some(goal);
    }

    /// Whether everything that is folded through `position`, with so many batches not committed, is what an owner has had confirmed.
    pub fn is_here(&self, position: Position, open_batches: u64) -> bool {
        let is_proven = self.0.is_some_and(|proven| proven.position == position);
        open_batches == 0 || is_proven || crate::planted!("a-follower-is-believed-unproven")
    }

    /// What is committed, with the owner's marks: everything through the place was confirmed by it.
    pub fn marked(&self, committed: Checkpoint) -> Checkpoint {
        match self.0 {
            Some(Checkpoint { outputs, rejects, .. }) if !crate::planted!("a-follower-forgets-the-owner-s-marks") => {
                Checkpoint { outputs, rejects, ..committed }
            }
            _ => committed,
        }
    }
}

/// In order of their positions.
#[derive(Debug, Default)]
pub struct Goals(VecDeque<Checkpoint>);

impl Goals {
    /// An owner has confirmed everything up to here. What is no further than the last is known, or of an owner that is behind.
    pub fn told(&mut self, goal: Checkpoint) {
        if self.furthest().is_none_or(|last| last.position < goal.position) {
            if self.0.len() == MOST {
                self.0.pop_front();
            }
            self.0.push_back(goal);
        }
    }

    pub fn furthest(&self) -> Option<Checkpoint> {
        self.0.back().copied()
    }

    /// Whether the owner is further than this.
    pub fn are_beyond(&self, position: Position) -> bool {
        self.furthest().is_some_and(|goal| goal.position > position)
    }

    /// Whether nothing is left to come to.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The fold has come to `at`.
    pub fn arrive(&mut self, at: &Checkpoint) -> Arrival {
        let mut arrival = Arrival::OnTheWay;
        while let Some(goal) = self.0.front().copied().filter(|goal| goal.position <= at.position) {
            self.0.pop_front();
            arrival = match goal.position < at.position {
                true if crate::planted!("what-was-passed-is-taken-for-reached") => Arrival::There(goal),
                true => Arrival::Passed,
                false if is_same_fold(at, &goal) => Arrival::There(goal),
                false => Arrival::Differs,
            };
        }
        arrival
    }

    /// Whether a follower that has just arrived, and committed, is close to its owner: what may be left was told a moment ago.
    pub fn is_close(&self, arrival: &Arrival) -> bool {
        matches!(arrival, Arrival::Passed | Arrival::There(_)) && self.0.len() <= 1
            || crate::planted!("a-follower-is-close-at-once")
    }
}

/// Whether a fold may be on its way to what an owner has told of a place further on: it is of the same log, and the same was
/// accepted as lost.
pub fn is_of_one_history(at: &Checkpoint, goal: &Checkpoint) -> bool {
    let told_apart = |at: &Checkpoint| (at.log_created, at.log_born, at.refolds_through);
    told_apart(at) == told_apart(goal) || crate::planted!("a-full-follower-takes-any-history-for-its-own")
}

/// Whether two stores have folded the same. What they have collected, and so how many rows are live, is each one's own; marks
/// are the owner's.
fn is_same_fold(one: &Checkpoint, other: &Checkpoint) -> bool {
    let told_apart =
        |at: &Checkpoint| (at.position, at.log_created, at.log_born, at.message_time, at.log_time, at.refolds_through);
    told_apart(one) == told_apart(other) || crate::planted!("a-follower-compares-nothing")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Mark;

    fn at(position: Position) -> Checkpoint {
        Checkpoint { position, message_time: position as i64 * 10, ..Checkpoint::start_of(1) }
    }

    #[test]
    fn a_fold_may_be_committed_where_an_owner_has_stood_with_the_same_and_nowhere_else() {
        let mut goals = Goals::default();
        assert_eq!(goals.arrive(&at(1)), Arrival::OnTheWay, "nothing was told");
        // Marks and live rows are each one's own.
        let mark = Some(Mark { created: 1, sequence: 9, time: 9 });
        let told = Checkpoint { live: 7, outputs: mark, ..at(3) };
        goals.told(told);
        assert_eq!([2, 3].map(|position| goals.arrive(&at(position))), [Arrival::OnTheWay, Arrival::There(told)]);
        let others = [
            Checkpoint { message_time: 41, ..at(4) },
            Checkpoint { log_created: 2, ..at(4) },
            Checkpoint { log_born: 2, ..at(4) },
            Checkpoint { log_time: 1, ..at(4) },
            Checkpoint { refolds_through: 1, ..at(4) },
        ];
        for other in others {
            let mut goals = Goals::default();
            goals.told(other);
            assert_eq!(goals.arrive(&at(4)), Arrival::Differs, "{other:?}");
        }
    }

    #[test]
    fn a_fold_of_another_log_or_with_another_loss_accepted_is_on_its_way_to_nowhere() {
        assert!(is_of_one_history(&at(3), &Checkpoint { log_time: 7, live: 2, ..at(9) }));
        for other in [
            Checkpoint { log_created: 2, ..at(9) },
            Checkpoint { log_born: 2, ..at(9) },
            Checkpoint { refolds_through: 1, ..at(9) },
        ] {
            assert!(!is_of_one_history(&at(3), &other), "{other:?}");
        }
    }

    #[test]
    fn a_follower_goes_on_as_the_owner_where_it_was_the_same_with_the_owner_s_marks() {
        let mut proven = Proven::default();
        assert!(proven.is_here(7, 0) && !proven.is_here(7, 1), "what is committed was compared before");
        assert_eq!(proven.marked(at(7)), at(7));
        let mark = |sequence| Some(Mark { created: 1, sequence, time: 9 });
        let told = Checkpoint { outputs: mark(9), rejects: mark(2), ..at(8) };
        proven.at(told);
        assert!(proven.is_here(8, 3) && !proven.is_here(9, 1) && proven.is_here(9, 0));
        assert_eq!(proven.marked(at(7)), Checkpoint { outputs: mark(9), rejects: mark(2), ..at(7) });
    }

    #[test]
    fn a_follower_is_close_once_it_has_come_to_what_was_told_and_not_before() {
        let mut goals = Goals::default();
        goals.told(at(1000));
        let arrival = goals.arrive(&at(0));
        assert!(!goals.is_close(&arrival) && goals.are_beyond(0), "all of it is still to be folded");
        goals.told(at(1100));
        let arrival = goals.arrive(&at(1000));
        assert!(goals.is_close(&arrival), "only what was told a moment ago is left");
        goals.told(at(1200));
        goals.told(at(1300));
        let arrival = goals.arrive(&at(1100));
        assert!(!goals.is_close(&arrival), "the owner gets away");
        let arrival = goals.arrive(&at(1400));
        assert_eq!(arrival, Arrival::Passed);
        assert!(goals.is_close(&arrival) && goals.is_empty(), "its store is further than the owner's");
    }

    #[test]
    fn an_owner_that_is_behind_or_far_ahead_leaves_a_bounded_number_of_places() {
        let mut goals = Goals::default();
        (1..=1000).for_each(|position| goals.told(at(position)));
        goals.told(at(500));
        assert_eq!((goals.0.len(), goals.furthest()), (MOST, Some(at(1000))));
        assert_eq!(goals.arrive(&at(1000)), Arrival::There(at(1000)));
    }
}
