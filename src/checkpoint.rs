//! `Checkpoint` and the log identity: where a store stands, in which log, and whether the broker still has that log.

use crate::row::UnixNanos;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The stream sequence of a chunk batch in its partition log; 0 before the first.
pub type Position = u64;

/// Where a store stands: everything through `position` is folded, and its effects are confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub position: Position,
    /// When the log was created.
    pub log_created: UnixNanos,
    /// The timestamp of the message at `position`; 0 at position 0.
    pub message_time: UnixNanos,
    /// The highest message timestamp through `position`; 0 at position 0.
    pub log_time: UnixNanos,
    /// Live streams in the store, expired ones that nobody has collected included.
    pub live_streams: u64,
    /// The furthest final that this store knows to be in `sums`.
    pub sums: Option<SumsMark>,
}

/// The identity of `sums`: when it was created, and the highest final ever confirmed in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SumsMark {
    pub created: UnixNanos,
    pub sequence: u64,
    pub time: UnixNanos,
}

impl Checkpoint {
    /// The checkpoint of a store that has folded nothing of the log created at `log_created`.
    pub fn start_of(log_created: UnixNanos) -> Self {
        Self { position: 0, log_created, message_time: 0, log_time: 0, live_streams: 0, sums: None }
    }
}

/// What the leader of a partition log answered about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogState {
    pub created: UnixNanos,
    /// The first sequence that is kept; 0 in a new log, `last + 1` in an emptied one.
    pub first: Position,
    /// The last sequence ever assigned.
    pub last: Position,
    /// The timestamp of the message at `last`.
    pub last_time: UnixNanos,
}

/// What the leader answered about one place of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageMark {
    pub position: Position,
    pub time: UnixNanos,
}

/// The log is not the one that was folded. Each state names the numbers and what the operator can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The log lost, or rewrote, what this store has folded.
    LogDiverged { position: Position, last: Position },
    /// What this store has not folded yet is no longer kept.
    LogTruncated { from: Position, to: Position },
    /// Messages in the middle, not folded yet, were deleted.
    LogHole { from: Position, to: Position },
    /// The log was deleted and made anew.
    LogReplaced { folded: UnixNanos, found: UnixNanos },
}

impl Verdict {
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::LogDiverged { .. } => "LogDiverged",
            Verdict::LogTruncated { .. } => "LogTruncated",
            Verdict::LogHole { .. } => "LogHole",
            Verdict::LogReplaced { .. } => "LogReplaced",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name())?;
        match self {
            Verdict::LogDiverged { position, last } if last < position => write!(
                f,
                "the log ends at {last}, but this store has folded through {position}: the broker lost \
                 acknowledged messages. Bring the log back from a replica or a backup, or delete the store's file to fold what is left"
            ),
            Verdict::LogDiverged { position, last } => write!(
                f,
                "the message at {position} is not the one this store has folded (the log ends at {last}): the broker \
                 lost messages and wrote others in their place. Bring the log back from a replica or a backup, or delete the \
                 store's file to fold what is there now"
            ),
            Verdict::LogTruncated { from, to } => write!(
                f,
                "messages {from} to {to} are no longer kept and this store has not folded them. Bring back a store \
                 that has folded through {to}"
            ),
            Verdict::LogHole { from, to } => write!(
                f,
                "messages {from} to {to} were deleted from the middle of the log before this store folded them. Bring back a \
                 store that has folded through {to}"
            ),
            Verdict::LogReplaced { folded, found } => write!(
                f,
                "the log was made anew at {}; this store belongs to the one made at {}. Bring the old log \
                 back, or delete the store's file to fold the new one",
                rfc3339(*found),
                rfc3339(*folded)
            ),
        }
    }
}

/// A timestamp as people read it.
pub fn rfc3339(at: UnixNanos) -> String {
    time::OffsetDateTime::from_unix_timestamp_nanos(at.into())
        .ok()
        .and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_else(|| format!("{at} ns"))
}

/// Everything that was read of the log for one judgement.
#[derive(Clone, Copy, Debug)]
pub struct LogReading {
    pub state: LogState,
    /// The message at the checkpoint's position, where that lies within the log.
    pub at_position: Option<MessageMark>,
    /// The next message that is there, where this was asked.
    pub next: Option<NextMessage>,
}

/// What comes next in the log.
#[derive(Clone, Copy, Debug)]
pub struct NextMessage {
    /// What should: a position after the checkpoint's.
    pub expected: Position,
    /// The first message there or later; `None` where there is none.
    pub found: Option<MessageMark>,
}

/// Whether the log is still the one that `checkpoint` stands in.
///
/// Only a sequence and its timestamp together tell a message from another: clocks step, and sequences are given anew.
pub fn judge(checkpoint: &Checkpoint, reading: &LogReading) -> Result<(), Verdict> {
    let Checkpoint { position, .. } = *checkpoint;
    let LogState { created, first, last, .. } = reading.state;
    if created != checkpoint.log_created {
        return Err(Verdict::LogReplaced { folded: checkpoint.log_created, found: created });
    }
    if last < position {
        return Err(Verdict::LogDiverged { position, last });
    }
    if first > position + 1 {
        return Err(Verdict::LogTruncated { from: position + 1, to: first - 1 });
    }
    if position > 0 && first <= position {
        let same = |found: MessageMark| found.position == position && found.time == checkpoint.message_time;
        if !reading.at_position.is_some_and(same) {
            return Err(Verdict::LogDiverged { position, last });
        }
    }
    let Some(NextMessage { expected, found }) = reading.next else { return Ok(()) };
    let next = found.map_or(last + 1, |found| found.position);
    if expected <= last && next > expected {
        return Err(Verdict::LogHole { from: expected, to: next - 1 });
    }
    Ok(())
}

/// The cheap judgement before a commit: whether the log still reaches the position that is about to be committed.
pub fn judge_before_commit(next: &Checkpoint, state: &LogState) -> Result<(), Verdict> {
    if state.created != next.log_created {
        return Err(Verdict::LogReplaced { folded: next.log_created, found: state.created });
    }
    let rewritten = state.last == next.position && state.last_time != next.message_time;
    if state.last < next.position || rewritten {
        return Err(Verdict::LogDiverged { position: next.position, last: state.last });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(position: Position) -> Checkpoint {
        Checkpoint { position, message_time: position as i64 * 10, ..Checkpoint::start_of(1) }
    }

    fn reading(first: Position, last: Position) -> LogReading {
        let state = LogState { created: 1, first, last, last_time: last as i64 * 10 };
        LogReading { state, at_position: None, next: None }
    }

    fn mark(position: Position, time: UnixNanos) -> Option<MessageMark> {
        Some(MessageMark { position, time })
    }

    #[test]
    fn a_log_that_holds_what_was_folded_is_the_same() {
        let next = |expected, found| Some(NextMessage { expected, found });
        let held = LogReading { at_position: mark(5, 50), next: next(6, mark(6, 60)), ..reading(1, 9) };
        assert_eq!(judge(&checkpoint(5), &held), Ok(()));
        let at_its_end = LogReading { at_position: mark(5, 50), next: next(6, None), ..reading(5, 5) };
        assert_eq!(judge(&checkpoint(5), &at_its_end), Ok(()));
        assert_eq!(judge(&checkpoint(5), &reading(6, 5)), Ok(()), "purged through the position");
        for first in [0, 1] {
            assert_eq!(judge(&checkpoint(0), &reading(first, 0)), Ok(()), "empty");
        }
    }

    #[test]
    fn each_way_a_log_can_differ_has_its_own_verdict() {
        let judge = |checkpoint: &Checkpoint, reading: LogReading| judge(checkpoint, &reading).unwrap_err();
        assert_eq!(judge(&checkpoint(5), reading(1, 4)), Verdict::LogDiverged { position: 5, last: 4 });
        for other in [None, mark(5, 51), mark(6, 50)] {
            let reading = LogReading { at_position: other, ..reading(1, 9) };
            assert_eq!(judge(&checkpoint(5), reading), Verdict::LogDiverged { position: 5, last: 9 });
        }
        assert_eq!(judge(&checkpoint(5), reading(8, 9)), Verdict::LogTruncated { from: 6, to: 7 });
        assert_eq!(judge(&checkpoint(0), reading(2, 9)), Verdict::LogTruncated { from: 1, to: 1 });
        let next = |expected, found| Some(NextMessage { expected, found });
        let hole = LogReading { at_position: mark(5, 50), next: next(6, mark(8, 80)), ..reading(1, 9) };
        assert_eq!(judge(&checkpoint(5), hole), Verdict::LogHole { from: 6, to: 7 });
        let further_on = LogReading { next: next(7, mark(9, 90)), ..hole };
        assert_eq!(judge(&checkpoint(5), further_on), Verdict::LogHole { from: 7, to: 8 });
        let to_the_end = LogReading { next: next(6, None), ..hole };
        assert_eq!(judge(&checkpoint(5), to_the_end), Verdict::LogHole { from: 6, to: 9 });
        let mut anew = reading(1, 9);
        anew.state.created = 2;
        assert_eq!(judge(&checkpoint(5), anew), Verdict::LogReplaced { folded: 1, found: 2 });
    }

    #[test]
    fn a_commit_waits_for_a_log_that_reaches_its_position() {
        let state = |created, last, last_time| LogState { created, first: 1, last, last_time };
        assert_eq!(judge_before_commit(&checkpoint(5), &state(1, 5, 50)), Ok(()));
        assert_eq!(judge_before_commit(&checkpoint(5), &state(1, 7, 1)), Ok(()));
        assert!(judge_before_commit(&checkpoint(5), &state(1, 4, 40)).is_err());
        assert!(judge_before_commit(&checkpoint(5), &state(1, 5, 51)).is_err());
        assert!(judge_before_commit(&checkpoint(5), &state(2, 5, 50)).is_err());
    }
}
