//! What is known when the archive decides whether a snapshot is to be written.

use crate::checkpoint::Position;
use std::time::Duration;

/// A store that has come on is put away this long after the last snapshot.
pub const INTERVAL: Duration = Duration::from_secs(60);

/// Once the log holds more than this part of its bound beyond the last snapshot, the next is due.
const GROWTH: u64 = 4;

/// A log of which no more than this part is left runs full: there is no time to wait for old snapshots.
const RUNS_FULL: u64 = 4;

/// With a log that runs full, a snapshot is due once it would free this part of it.
const GAIN: u64 = 16;

/// What is known when the archive looks.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// The committed position of the store.
    pub position: Position,
    /// The position of the furthest snapshot that the log reaches and that has the store's history, if there is
    /// one, and how long ago it was put; else how long ago the worker began.
    pub newest: Option<Position>,
    pub since: Duration,
    /// The bucket has lost a snapshot that was further than that.
    pub lost: bool,
    /// The first sequence that the log holds, the last, its bytes, and their bound, if it has one.
    pub first: Position,
    pub last: Position,
    pub bytes: u64,
    pub max_bytes: Option<u64>,
    /// Bytes of the largest message.
    pub max_message: u64,
}

impl Situation {
    /// Whether the log is about to push back on its publishers.
    pub fn runs_full(&self) -> bool {
        let full = |most: u64| self.bytes >= most - most / RUNS_FULL || self.bytes + self.max_message > most;
        self.max_bytes.is_some_and(full)
    }

    /// Whether a snapshot is to be written.
    pub fn is_due(&self) -> bool {
        let newest = self.newest.unwrap_or(0);
        // Nor is there one to write of a store that its log was purged beyond.
        if newest >= self.position || self.first > self.position + 1 {
            return false;
        }
        // The store on this disk is all that there is of what the log was purged of.
        let irreplaceable = self.newest.is_none() && self.first > 1;
        let irreplaceable = irreplaceable && !crate::planted!("a-purged-log-s-last-store-is-not-put-away");
        if self.since >= INTERVAL || self.lost && !crate::planted!("a-lost-snapshot-is-not-replaced") || irreplaceable {
            return true;
        }
        // Bytes that are folded beyond the newest snapshot, as if all messages were of one size.
        let held = (self.last + 1).saturating_sub(self.first).max(1);
        let beyond = (self.position - newest).min(held);
        let folded = u128::from(self.bytes) * u128::from(beyond) / u128::from(held);
        let part = |most: u64, of: u64| folded >= u128::from(most / of);
        let enough = |most| part(most, GROWTH) || self.runs_full() && (part(most, GAIN) || self.position == self.last);
        self.max_bytes.is_some_and(enough)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn situation() -> Situation {
        Situation {
            position: 100,
            newest: Some(90),
            since: Duration::from_secs(1),
            lost: false,
            first: 1,
            last: 100,
            bytes: 10 * MIB,
            max_bytes: Some(100 * MIB),
            max_message: MIB,
        }
    }

    #[test]
    fn a_snapshot_is_due_after_a_minute_of_progress_or_a_quarter_of_the_log() {
        assert!(!situation().is_due());
        assert!(Situation { since: INTERVAL, ..situation() }.is_due());
        assert!(!Situation { since: INTERVAL, newest: Some(100), ..situation() }.is_due(), "no progress");
        assert!(!Situation { newest: None, position: 0, since: INTERVAL, ..situation() }.is_due(), "nothing folded");
        // A tenth of the messages was folded since.
        assert!(!Situation { bytes: 60 * MIB, ..situation() }.is_due());
        assert!(Situation { newest: Some(50), bytes: 60 * MIB, ..situation() }.is_due());
        assert!(Situation { newest: None, bytes: 26 * MIB, ..situation() }.is_due());
        assert!(!Situation { newest: None, max_bytes: None, bytes: 26 * MIB, ..situation() }.is_due());
        // A backlog is not folded yet: a snapshot would not help.
        assert!(!Situation { newest: Some(40), position: 41, last: 100, bytes: 60 * MIB, ..situation() }.is_due());
        // Purged up to the snapshot, it counts what is left.
        assert!(Situation { newest: Some(90), first: 90, bytes: 30 * MIB, ..situation() }.is_due());
    }

    #[test]
    fn a_snapshot_is_due_at_once_where_one_was_lost_or_none_is_left_of_a_purged_log() {
        let fresh = Situation { newest: None, since: Duration::ZERO, ..situation() };
        for (what, situation, due) in [
            ("nothing was lost, and all is in the log", fresh, false),
            ("the furthest was lost", Situation { lost: true, ..situation() }, true),
            ("all were lost", Situation { lost: true, ..fresh }, true),
            (
                "another's, further than this store, was lost",
                Situation { newest: Some(100), lost: true, ..fresh },
                false,
            ),
            ("nothing is folded", Situation { lost: true, position: 0, ..fresh }, false),
            ("the log was purged, and no snapshot reaches it", Situation { first: 2, ..fresh }, true),
            ("it was purged through the position", Situation { first: 101, ..fresh }, true),
            ("it was purged beyond the position", Situation { first: 102, lost: true, ..fresh }, false),
        ] {
            assert_eq!(situation.is_due(), due, "{what}");
        }
    }

    #[test]
    fn a_log_that_runs_full_gets_one_as_soon_as_it_frees_something() {
        assert!(!situation().runs_full());
        let full = Situation { bytes: 80 * MIB, newest: Some(90), position: 91, ..situation() };
        assert!(full.runs_full() && !full.is_due(), "a hundredth of it is not worth it");
        assert!(Situation { position: 98, ..full }.is_due());
        assert!(Situation { newest: Some(99), position: 100, ..full }.is_due(), "nothing more to fold: it has to do");
        // No room for the largest message is as full as it gets.
        assert!(
            Situation { bytes: 2 * MIB, max_bytes: Some(3 * MIB), max_message: 2 * MIB, ..situation() }.runs_full()
        );
        assert!(!Situation { max_bytes: None, bytes: 1 << 50, ..situation() }.runs_full());
    }
}
