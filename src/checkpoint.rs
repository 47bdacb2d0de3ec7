//! `Checkpoint` and the log identity: where a store stands, in which log, and whether the broker still has that log.

use crate::row::UnixNanos;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The stream sequence of a chunk batch in its partition log; 0 before the first.
pub type Position = u64;

/// Where a store stands: everything through `position` is folded, and its effects are confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub position: Position,
    /// When the log was created.
    pub log_created: UnixNanos,
    /// The timestamp of the message at `position`; 0 where there is none: at position 0, and where messages that are
    /// gone were accepted as lost.
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

/// Something that the operator has accepted, or that could be mended only in part: the store is no longer the fold of its
/// log alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// When, by this machine's clock.
    pub at: UnixNanos,
    /// What was found.
    pub verdict: String,
    /// Where the store stood, and where it goes on.
    pub from: Position,
    pub to: Position,
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
    /// `sums` has lost finals that it had acknowledged: through `recorded` at least, and what it has left ends at `last`.
    SumsForgot { recorded: u64, recorded_at: UnixNanos, last: u64, made_anew: bool },
}

impl Verdict {
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::LogDiverged { .. } => "LogDiverged",
            Verdict::LogTruncated { .. } => "LogTruncated",
            Verdict::LogHole { .. } => "LogHole",
            Verdict::LogReplaced { .. } => "LogReplaced",
            Verdict::SumsForgot { .. } => "SumsForgot",
        }
    }

    /// The word with which the operator accepts it; `None` for what is mended without being asked.
    pub fn flag(&self) -> Option<Loss> {
        match self {
            Verdict::LogDiverged { .. } => Some(Loss::Diverged),
            Verdict::LogTruncated { .. } => Some(Loss::Truncated),
            Verdict::LogHole { .. } => Some(Loss::Hole),
            Verdict::LogReplaced { .. } => Some(Loss::Replaced),
            Verdict::SumsForgot { .. } => None,
        }
    }

    /// Where the store goes on once the operator has accepted it: what it has summed is kept, and everything that the
    /// log still has and may differ is folded again. Chunks that come again are known as duplicates; what is missing
    /// shows as gaps, by stream.
    pub fn accepted(&self, before: &Checkpoint, state: &LogState) -> Checkpoint {
        let position = match self {
            Verdict::LogHole { to, .. } => *to,
            _ => state.first.saturating_sub(1),
        };
        Checkpoint { position, log_created: state.created, message_time: 0, ..*before }
    }
}

/// What of a log the operator may accept as lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    Diverged,
    Truncated,
    Hole,
    Replaced,
}

impl FromStr for Loss {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "diverged" => Ok(Self::Diverged),
            "truncated" => Ok(Self::Truncated),
            "hole" => Ok(Self::Hole),
            "replaced" => Ok(Self::Replaced),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Diverged => "diverged",
            Self::Truncated => "truncated",
            Self::Hole => "hole",
            Self::Replaced => "replaced",
        })
    }
}

/// A loss that the operator accepts, in one partition: `replaced:3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acceptance {
    pub loss: Loss,
    pub partition: u32,
}

impl FromStr for Acceptance {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let parse = || {
            let (loss, partition) = text.split_once(':')?;
            Some(Self { loss: loss.parse().ok()?, partition: partition.parse().ok()? })
        };
        parse().ok_or("diverged, truncated, hole or replaced, a colon, and a partition, as in replaced:3")
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name())?;
        let flag = self.flag().map(|flag| flag.to_string()).unwrap_or_default();
        match self {
            Verdict::LogDiverged { position, last } if last < position => write!(
                f,
                "the log ends at {last}, but this store has folded through {position}: the broker lost \
                 acknowledged messages. Bring the log back from a replica or a backup; or accept that what it lost is folded \
                 and nothing else has it (--accept {flag}:<partition>)"
            ),
            Verdict::LogDiverged { position, last } => write!(
                f,
                "the message at {position} is not the one this store has folded (the log ends at {last}): the broker \
                 lost messages and wrote others in their place. Bring the log back from a replica or a backup; or accept \
                 that what it lost is folded, and fold what is there now as well (--accept {flag}:<partition>)"
            ),
            Verdict::LogTruncated { from, to } => write!(
                f,
                "messages {from} to {to} are no longer kept, this store has not folded them, and no snapshot reaches \
                 that far. Bring back a store that has folded through {to}; or accept that they are lost, and what they \
                 held shows as gaps (--accept {flag}:<partition>)"
            ),
            Verdict::LogHole { from, to } => write!(
                f,
                "messages {from} to {to} were deleted from the middle of the log before this store folded them. Bring \
                 back a store that has folded through {to}; or accept that they are lost, and what they held shows as gaps \
                 (--accept {flag}:<partition>)"
            ),
            Verdict::LogReplaced { folded, found } => write!(
                f,
                "the log was made anew at {}; this store belongs to the one made at {}. Bring the old log back; or \
                 accept that what nobody had folded of it is lost, and fold the new one (--accept {flag}:<partition>)",
                rfc3339(*found),
                rfc3339(*folded)
            ),
            Verdict::SumsForgot { recorded, recorded_at, last, made_anew } => write!(
                f,
                "the final at {recorded} of sums, acknowledged at {}, is gone: sums {}. The finals of completed streams \
                 are published again",
                rfc3339(*recorded_at),
                if *made_anew {
                    "was made anew".to_owned()
                } else {
                    format!("ends at {last}, or has others in their place")
                },
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
        let same = match reading.at_position {
            Some(found) => found.position == position && found.time == checkpoint.message_time,
            None => checkpoint.message_time == 0,
        };
        if !same {
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

/// What the leader of `sums` answered about it.
#[derive(Clone, Copy, Debug)]
pub struct SumsReading {
    pub state: LogState,
    /// The message at the recorded sequence, where there is one.
    pub at_mark: Option<MessageMark>,
}

/// Whether `sums` still has the furthest final that was ever confirmed in it. What lies before its first sequence has
/// aged out, and was not forgotten.
pub fn judge_sums(mark: &SumsMark, reading: &SumsReading) -> Result<(), Verdict> {
    let LogState { created, first, last, .. } = reading.state;
    let SumsMark { sequence, time, .. } = *mark;
    let forgot = |made_anew| Err(Verdict::SumsForgot { recorded: sequence, recorded_at: time, last, made_anew });
    if created != mark.created {
        return forgot(true);
    }
    if first > sequence || reading.at_mark == Some(MessageMark { position: sequence, time }) {
        return Ok(());
    }
    forgot(false)
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

    fn mark_at(position: Position, time: UnixNanos) -> Option<MessageMark> {
        Some(MessageMark { position, time })
    }

    #[test]
    fn a_log_that_holds_what_was_folded_is_the_same() {
        let next = |expected, found| Some(NextMessage { expected, found });
        let held = LogReading { at_position: mark_at(5, 50), next: next(6, mark_at(6, 60)), ..reading(1, 9) };
        assert_eq!(judge(&checkpoint(5), &held), Ok(()));
        let at_its_end = LogReading { at_position: mark_at(5, 50), next: next(6, None), ..reading(5, 5) };
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
        for other in [None, mark_at(5, 51), mark_at(6, 50)] {
            let reading = LogReading { at_position: other, ..reading(1, 9) };
            assert_eq!(judge(&checkpoint(5), reading), Verdict::LogDiverged { position: 5, last: 9 });
        }
        assert_eq!(judge(&checkpoint(5), reading(8, 9)), Verdict::LogTruncated { from: 6, to: 7 });
        assert_eq!(judge(&checkpoint(0), reading(2, 9)), Verdict::LogTruncated { from: 1, to: 1 });
        let next = |expected, found| Some(NextMessage { expected, found });
        let hole = LogReading { at_position: mark_at(5, 50), next: next(6, mark_at(8, 80)), ..reading(1, 9) };
        assert_eq!(judge(&checkpoint(5), hole), Verdict::LogHole { from: 6, to: 7 });
        let further_on = LogReading { next: next(7, mark_at(9, 90)), ..hole };
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

    #[test]
    fn sums_forgets_by_sequence_and_timestamp_and_never_by_age() {
        let mark = SumsMark { created: 1, sequence: 7, time: 70 };
        let sums = |created, first, last, at_mark| SumsReading {
            state: LogState { created, first, last, last_time: 0 },
            at_mark,
        };
        for kept in
            [sums(1, 1, 7, mark_at(7, 70)), sums(1, 3, 99, mark_at(7, 70)), sums(1, 8, 9, None), sums(1, 8, 7, None)]
        {
            assert_eq!(judge_sums(&mark, &kept), Ok(()));
        }
        for (forgotten, made_anew) in [
            (sums(1, 1, 6, None), false),
            (sums(1, 1, 9, mark_at(7, 71)), false),
            (sums(1, 1, 9, None), false),
            (sums(2, 1, 9, mark_at(7, 70)), true),
        ] {
            let last = forgotten.state.last;
            let verdict = Verdict::SumsForgot { recorded: 7, recorded_at: 70, last, made_anew };
            assert_eq!(judge_sums(&mark, &forgotten), Err(verdict));
        }
    }

    #[test]
    fn what_is_accepted_goes_on_where_nothing_more_is_lost_than_has_to_be() {
        let state = |first| LogState { created: 9, first, last: 99, last_time: 0 };
        let before = checkpoint(20);
        for (verdict, first, position) in [
            (Verdict::LogReplaced { folded: 1, found: 9 }, 1, 0),
            (Verdict::LogDiverged { position: 20, last: 10 }, 0, 0),
            (Verdict::LogDiverged { position: 20, last: 30 }, 5, 4),
            (Verdict::LogTruncated { from: 21, to: 40 }, 41, 40),
            (Verdict::LogHole { from: 21, to: 25 }, 1, 25),
        ] {
            let after = verdict.accepted(&before, &state(first));
            assert_eq!((after.position, after.log_created, after.message_time), (position, 9, 0));
            // And there the log is what it has to be, with nobody at the position.
            let reading = LogReading { state: state(first), at_position: None, next: None };
            assert_eq!(judge(&after, &reading), Ok(()), "{verdict:?}");
        }
        assert_eq!("replaced:3".parse(), Ok(Acceptance { loss: Loss::Replaced, partition: 3 }));
        for text in ["", "replaced", "replaced:x", "lost:3"] {
            assert!(text.parse::<Acceptance>().is_err(), "{text}");
        }
    }
}
