//! `Checkpoint`: where a store stands, in which log, and what it knows to be out.

use crate::time::{LogTime, UnixNanos};
use serde::{Deserialize, Serialize};

/// The sequence of a batch in its partition log; 0 before the first.
pub type Position = u64;

/// Where a store stands: everything through `position` is folded, and its effects are confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub position: Position,
    /// When the log was created. A log that is brought back from a backup is created anew, and stays the same log.
    pub log_created: UnixNanos,
    /// When the log was created that the store began with: the subjects of its rejects carry this.
    pub log_born: UnixNanos,
    /// The timestamp of the message at `position`; 0 if there is none: at position 0, and if messages that are
    /// gone were accepted as lost.
    pub message_time: UnixNanos,
    /// What the log's clock has run so far: see [`Checkpoint::step`].
    pub log_time: LogTime,
    /// Through this position messages were folded before a loss was accepted, and come again: the log's clock stands still.
    pub refolds_through: Position,
    /// Live rows in the store, expired ones that nobody has collected included.
    #[serde(rename = "live_streams")]
    pub live: u64,
    /// The furthest output that this store knows to be in the stream of outputs.
    #[serde(rename = "sums")]
    pub outputs: Option<Mark>,
    /// The furthest reject that this store knows to be in the stream of rejects.
    pub rejects: Option<Mark>,
}

/// The identity of a stream of effects: when it was created, and the highest message ever confirmed in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub created: UnixNanos,
    pub sequence: u64,
    pub time: UnixNanos,
}

impl Mark {
    /// The mark that reaches further; that of another stream never counts against the new one.
    pub fn further(before: Option<Mark>, found: Option<Mark>) -> Option<Mark> {
        match (before, found) {
            (Some(before), Some(found)) if before.created == found.created && before.sequence > found.sequence => {
                Some(before)
            }
            (before, found) => found.or(before),
        }
    }
}

impl Checkpoint {
    /// The checkpoint of a store that has folded nothing of the log created at `log_created`.
    pub fn start_of(log_created: UnixNanos) -> Self {
        Self {
            position: 0,
            log_created,
            log_born: log_created,
            message_time: 0,
            log_time: 0,
            refolds_through: 0,
            live: 0,
            outputs: None,
            rejects: None,
        }
    }

    /// Moves on to the next message, stamped `time`, and moves the log's clock.
    ///
    /// Each message adds what lies between its stamp and that of the one before: never less than nothing, and never more
    /// than `longest`. So neither a server's clock that steps nor a night without a message makes rows
    /// expire that were under way, and a step counts once. The log alone decides.
    pub fn step(&mut self, time: UnixNanos, longest: LogTime) {
        self.position += 1;
        let comes_again =
            self.position <= self.refolds_through && !crate::planted!("what-comes-again-moves-the-log-s-clock");
        if self.message_time != 0 && !comes_again {
            let between = time.saturating_sub(self.message_time);
            let least = if crate::planted!("the-log-s-clock-runs-backwards") { -longest } else { 0 };
            self.log_time = self.log_time.saturating_add(between.clamp(least, longest));
        }
        self.message_time = time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_s_clock_runs_with_stamps_and_never_far_with_one() {
        const LONGEST: LogTime = 100;
        let mut at = Checkpoint::start_of(1);
        for (stamp, log_time, why) in [
            (5_000, 0, "the first sets it"),
            (5_030, 30, "what lies between"),
            (5_030, 30, "nothing"),
            (5_130, 130, "the longest step"),
            (5_131, 131, ""),
            (5_000_000, 231, "a step counts once, and little"),
            (5_000_050, 281, ""),
            (5_200, 281, "a step back counts nothing"),
            (5_250, 331, "and goes on from there"),
        ] {
            at.step(stamp, LONGEST);
            assert_eq!(at.log_time, log_time, "{stamp}: {why}");
        }
        assert_eq!((at.position, at.message_time), (9, 5_250));
    }

    #[test]
    fn the_mark_that_reaches_further_stays() {
        let mark = |created, sequence| Some(Mark { created, sequence, time: 0 });
        assert_eq!(Mark::further(mark(1, 7), mark(1, 6)), mark(1, 7));
        assert_eq!(Mark::further(mark(1, 7), mark(1, 8)), mark(1, 8));
        assert_eq!(Mark::further(mark(1, 7), mark(2, 3)), mark(2, 3), "of another stream");
        assert_eq!(Mark::further(mark(1, 7), None), mark(1, 7));
    }
}
