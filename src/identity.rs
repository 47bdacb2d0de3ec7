//! The identity of a log, of `sums` and of `rejects`: whether the broker still has what was folded and confirmed.

pub mod doubt;

use crate::accept::Loss;
use crate::checkpoint::{Checkpoint, Mark, Position};
use crate::row::UnixNanos;
use crate::words::Words;
use std::fmt;

/// What the leader of a partition log answered about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogState {
    pub created: UnixNanos,
    /// The first sequence that is kept; 0 in a new log, `last + 1` in an emptied one.
    pub first: Position,
    /// The timestamp of the message at `first`.
    pub first_time: UnixNanos,
    /// The last sequence ever assigned.
    pub last: Position,
    /// The timestamp of the message at `last`.
    pub last_time: UnixNanos,
}

impl LogState {
    /// Whether the stream holds messages that are older than itself: it was brought back from a backup.
    fn was_brought_back(&self) -> bool {
        self.first <= self.last && self.last > 0 && self.first_time < self.created
    }
}

/// What the leader answered about one place of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageMark {
    pub position: Position,
    pub time: UnixNanos,
}

/// The log is not the one that was folded. Each state names the numbers, and [what the operator can do](Verdict::way_out).
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
    /// The stream of outputs has lost some that it had acknowledged: through `recorded` at least, and what it has left ends at `last`.
    OutputsForgot(Forgot),
    /// The stream of rejects has lost some.
    RejectsForgot(Forgot),
}

/// What a stream of effects has lost: through `recorded` at least, and what it has left ends at `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgot {
    pub recorded: u64,
    pub recorded_at: UnixNanos,
    pub last: u64,
    pub made_anew: bool,
}

impl Verdict {
    /// The same, in words.
    pub fn said(self, words: &'static Words) -> Said {
        Said { verdict: self, words }
    }

    pub fn name(&self, words: &Words) -> &'static str {
        match self {
            Verdict::LogDiverged { .. } => "LogDiverged",
            Verdict::LogTruncated { .. } => "LogTruncated",
            Verdict::LogHole { .. } => "LogHole",
            Verdict::LogReplaced { .. } => "LogReplaced",
            Verdict::OutputsForgot(_) => words.outputs_forgot,
            Verdict::RejectsForgot(_) => "RejectsForgot",
        }
    }

    /// The word with which the operator accepts it; `None` for what is mended without being asked.
    pub fn flag(&self) -> Option<Loss> {
        match self {
            Verdict::LogDiverged { .. } => Some(Loss::Diverged),
            Verdict::LogTruncated { .. } => Some(Loss::Truncated),
            Verdict::LogHole { .. } => Some(Loss::Hole),
            Verdict::LogReplaced { .. } => Some(Loss::Replaced),
            Verdict::OutputsForgot(_) | Verdict::RejectsForgot(_) => None,
        }
    }

    /// What the operator can do about it in a partition: nothing is to be done about what is mended without being asked.
    pub fn way_out(&self, partition: u32, words: &Words) -> Option<String> {
        let flag = self.flag()?;
        let (mend, accept) = match self {
            Verdict::LogDiverged { position, last } if last < position => (
                "Bring the log back from a replica or a backup".to_owned(),
                "that what it lost is folded and nothing else has it",
            ),
            Verdict::LogDiverged { .. } => (
                "Bring the log back from a replica or a backup".to_owned(),
                "that what it lost is folded, and fold what is there now as well",
            ),
            Verdict::LogTruncated { to, .. } | Verdict::LogHole { to, .. } => {
                (format!("Bring back a store that has folded through {to}"), words.lost_messages)
            }
            Verdict::LogReplaced { .. } => {
                ("Bring the old log back".to_owned(), "that what nobody had folded of it is lost, and fold the new one")
            }
            Verdict::OutputsForgot(_) | Verdict::RejectsForgot(_) => return None,
        };
        Some(format!("{mend}; or accept {accept} ({} {flag}:{partition})", words.accept))
    }

    /// Where the store goes on once the operator has accepted it: what it has summed is kept, and everything that the
    /// log still has and may differ is folded again. Chunks that come again are known as duplicates; what is missing of a
    /// stream shows by its later chunks: as a gap where its beginning was folded, and else as chunks of an unknown stream.
    pub fn accepted(&self, before: &Checkpoint, state: &LogState) -> Checkpoint {
        let position = match self {
            Verdict::LogHole { to, .. } => *to,
            _ => state.first.saturating_sub(1),
        };
        let (log_created, replaced) = (state.created, matches!(self, Verdict::LogReplaced { .. }));
        let (log_born, refolds_through) = match replaced {
            true => (log_created, 0),
            false => (before.log_born, before.refolds_through.max(before.position)),
        };
        Checkpoint { position, log_created, log_born, message_time: 0, refolds_through, ..*before }
    }
}

/// A verdict in an application's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    verdict: Verdict,
    words: &'static Words,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verdict, words } = self;
        write!(f, "{}: ", verdict.name(words))?;
        match verdict {
            Verdict::LogDiverged { position, last } if last < position => write!(
                f,
                "the log ends at {last}, but this store has folded through {position}: the broker lost acknowledged messages"
            ),
            Verdict::LogDiverged { position, last } => write!(
                f,
                "the message at {position} is not the one this store has folded (the log ends at {last}): the broker \
                 lost messages and wrote others in their place"
            ),
            Verdict::LogTruncated { from, to } => write!(
                f,
                "messages {from} to {to} are no longer kept, this store has not folded them, and no snapshot reaches that far"
            ),
            Verdict::LogHole { from, to } => write!(
                f,
                "messages {from} to {to} were deleted from the middle of the log before this store folded them"
            ),
            Verdict::LogReplaced { folded, found } => write!(
                f,
                "the log was made anew at {}; this store belongs to the one made at {}",
                rfc3339(*found),
                rfc3339(*folded)
            ),
            Verdict::OutputsForgot(forgot) => {
                write!(
                    f,
                    "the {} at {}. The {} of {} that {} are published again",
                    words.output,
                    forgot.of(words.outputs),
                    words.output_plural,
                    words.keys,
                    words.has_put_out
                )
            }
            Verdict::RejectsForgot(forgot) => write!(
                f,
                "the reject at {}. What was rejected before and is no longer there can't be recovered from the store",
                forgot.of(words.rejects)
            ),
        }
    }
}

impl Forgot {
    fn of(&self, stream: &str) -> String {
        let what = match self.made_anew {
            true => "was made anew".to_owned(),
            false => format!("ends at {}, or has others in their place", self.last),
        };
        let at = rfc3339(self.recorded_at);
        format!("{} of {stream}, acknowledged at {at}, is gone: {stream} {what}", self.recorded)
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
/// Only a sequence and its timestamp together tell a message from another: clocks step, and sequences are given anew. No
/// message at the position, in a log that reaches it, was deleted after it was folded.
pub fn judge(checkpoint: &Checkpoint, reading: &LogReading) -> Result<(), Verdict> {
    let Checkpoint { position, message_time, .. } = *checkpoint;
    let LogState { created, first, last, .. } = reading.state;
    let known = position > 0 && message_time != 0;
    let same = known && reading.at_position == Some(MessageMark { position, time: message_time });
    if created != checkpoint.log_created && !same {
        let folded_another = last < position || reading.at_position.is_some();
        return Err(match reading.state.was_brought_back() && folded_another {
            // From a backup that is older than the store.
            true => Verdict::LogDiverged { position, last },
            false => Verdict::LogReplaced { folded: checkpoint.log_created, found: created },
        });
    }
    if last < position || known && !same && reading.at_position.is_some() {
        return Err(Verdict::LogDiverged { position, last });
    }
    if first > position + 1 {
        return Err(Verdict::LogTruncated { from: position + 1, to: first - 1 });
    }
    let Some(NextMessage { expected, found }) = reading.next else { return Ok(()) };
    let next = found.map_or(last + 1, |found| found.position);
    if expected <= last && next > expected {
        return Err(Verdict::LogHole { from: expected, to: next - 1 });
    }
    Ok(())
}

/// Whether the message at the position was deleted after it was folded, from a log that is [the same](judge) and still
/// begins before it.
pub fn is_deleted(checkpoint: &Checkpoint, reading: &LogReading) -> bool {
    let Checkpoint { position, message_time, .. } = *checkpoint;
    message_time != 0 && reading.state.first <= position && reading.at_position.is_none()
}

/// What the leader of a stream of effects answered about it.
#[derive(Clone, Copy, Debug)]
pub struct MarkReading {
    pub state: LogState,
    /// The message at the recorded sequence, where there is one.
    pub at_mark: Option<MessageMark>,
}

/// Whether `sums` or `rejects` still has the furthest message that was ever confirmed in it. What lies before its first
/// sequence has aged out, and was not forgotten. One that was brought back from a backup, and has it, is the same.
pub fn judge_mark(mark: &Mark, reading: &MarkReading) -> Result<(), Forgot> {
    let LogState { created, first, last, .. } = reading.state;
    let Mark { sequence, time, .. } = *mark;
    let made_anew = created != mark.created && !reading.state.was_brought_back();
    let aged_out = !made_anew && first > sequence;
    if aged_out || reading.at_mark == Some(MessageMark { position: sequence, time }) {
        return Ok(());
    }
    Err(Forgot { recorded: sequence, recorded_at: time, last, made_anew })
}

/// The cheap judgement before a commit: whether the log still reaches the position that is about to be committed. `false`
/// where its last message is stamped otherwise: only the message at the position tells whether it was rewritten, or was
/// deleted after it was folded.
pub fn judge_before_commit(next: &Checkpoint, state: &LogState) -> Result<bool, Verdict> {
    if state.created != next.log_created {
        return Err(Verdict::LogReplaced { folded: next.log_created, found: state.created });
    }
    if state.last < next.position {
        return Err(Verdict::LogDiverged { position: next.position, last: state.last });
    }
    Ok(state.last > next.position || state.last_time == next.message_time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(position: Position) -> Checkpoint {
        Checkpoint { position, message_time: position as i64 * 10, ..Checkpoint::start_of(1) }
    }

    fn reading(first: Position, last: Position) -> LogReading {
        LogReading { state: state(1, first, last), at_position: None, next: None }
    }

    /// Message n is stamped 10 n, and a log created at 1 is older than all of them.
    fn state(created: UnixNanos, first: Position, last: Position) -> LogState {
        LogState { created, first, first_time: first as i64 * 10, last, last_time: last as i64 * 10 }
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
        assert!(!is_deleted(&checkpoint(5), &reading(6, 5)) && !is_deleted(&checkpoint(5), &held));
        for first in [0, 1] {
            assert_eq!(judge(&checkpoint(0), &reading(first, 0)), Ok(()), "empty");
        }
    }

    #[test]
    fn each_way_a_log_can_differ_has_its_own_verdict() {
        let judge = |checkpoint: &Checkpoint, reading: LogReading| judge(checkpoint, &reading).unwrap_err();
        assert_eq!(judge(&checkpoint(5), reading(1, 4)), Verdict::LogDiverged { position: 5, last: 4 });
        for other in [mark_at(5, 51), mark_at(6, 50)] {
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
        (anew.state.created, anew.state.first_time) = (200, 201);
        assert_eq!(judge(&checkpoint(5), anew), Verdict::LogReplaced { folded: 1, found: 200 });
    }

    #[test]
    fn a_message_that_was_deleted_after_it_was_folded_is_no_loss() {
        for (first, last) in [(1, 9), (1, 5), (5, 5)] {
            let deleted = reading(first, last);
            assert_eq!(judge(&checkpoint(5), &deleted), Ok(()), "{first} to {last}");
            assert!(is_deleted(&checkpoint(5), &deleted));
        }
        // What is not folded is another matter.
        let and_the_next =
            LogReading { next: Some(NextMessage { expected: 6, found: mark_at(7, 70) }), ..reading(1, 9) };
        assert_eq!(judge(&checkpoint(5), &and_the_next), Err(Verdict::LogHole { from: 6, to: 6 }));
    }

    #[test]
    fn a_log_that_was_brought_back_from_a_backup_is_the_same_where_it_has_what_was_folded() {
        let back = |first, last, at_position| LogReading { state: state(200, first, last), at_position, next: None };
        let judge = |reading| judge(&checkpoint(5), &reading);
        assert_eq!(judge(back(1, 9, mark_at(5, 50))), Ok(()));
        assert_eq!(judge(back(5, 5, mark_at(5, 50))), Ok(()));
        // From an older one, and what has come in the meantime.
        assert_eq!(judge(back(1, 4, None)), Err(Verdict::LogDiverged { position: 5, last: 4 }));
        assert_eq!(judge(back(1, 9, mark_at(5, 210))), Err(Verdict::LogDiverged { position: 5, last: 9 }));
        // What is not there shows nothing.
        let replaced = Verdict::LogReplaced { folded: 1, found: 200 };
        for unknown in [back(1, 9, None), back(6, 9, None), back(6, 5, None), back(0, 0, None)] {
            assert_eq!(judge(unknown), Err(replaced));
        }
        let never = Checkpoint { message_time: 0, ..checkpoint(5) };
        assert_eq!(
            super::judge(&never, &back(1, 9, mark_at(5, 50))),
            Err(Verdict::LogDiverged { position: 5, last: 9 })
        );
    }

    #[test]
    fn the_log_s_clock_stands_still_while_what_was_folded_comes_again() {
        let folded = Checkpoint { position: 3, log_time: 77, message_time: 30, ..Checkpoint::start_of(1) };
        let mut at = Verdict::LogDiverged { position: 3, last: 9 }.accepted(&folded, &state(1, 1, 9));
        assert_eq!((at.position, at.refolds_through), (0, 3));
        for (stamp, log_time) in [(10, 77), (20, 77), (30, 77), (40, 87)] {
            at.step(stamp, 800);
            assert_eq!(at.log_time, log_time, "{stamp}");
        }
        let replaced = Verdict::LogReplaced { folded: 1, found: 200 }.accepted(&folded, &state(200, 1, 9));
        assert_eq!((replaced.refolds_through, replaced.log_born), (0, 200), "nothing of it comes again");
    }

    #[test]
    fn a_commit_waits_for_a_log_that_reaches_its_position() {
        let state = |created, last, last_time| LogState { last_time, ..state(created, 1, last) };
        assert_eq!(judge_before_commit(&checkpoint(5), &state(1, 5, 50)), Ok(true));
        assert_eq!(judge_before_commit(&checkpoint(5), &state(1, 7, 1)), Ok(true));
        assert_eq!(judge_before_commit(&checkpoint(5), &state(1, 5, 51)), Ok(false), "rewritten, or deleted");
        assert!(judge_before_commit(&checkpoint(5), &state(1, 4, 40)).is_err());
        assert!(judge_before_commit(&checkpoint(5), &state(2, 5, 50)).is_err());
    }

    #[test]
    fn sums_forgets_by_sequence_and_timestamp_and_never_by_age() {
        let mark = Mark { created: 1, sequence: 7, time: 70 };
        let sums = |created, first, last, at_mark| MarkReading { state: state(created, first, last), at_mark };
        for kept in [
            sums(1, 1, 7, mark_at(7, 70)),
            sums(1, 3, 99, mark_at(7, 70)),
            sums(1, 8, 9, None),
            sums(1, 8, 7, None),
            // Brought back from a backup: with it, and after it has aged out.
            sums(200, 1, 9, mark_at(7, 70)),
            sums(200, 8, 9, None),
        ] {
            assert_eq!(judge_mark(&mark, &kept), Ok(()), "{kept:?}");
        }
        for (forgotten, made_anew) in [
            (sums(1, 1, 6, None), false),
            (sums(1, 1, 9, mark_at(7, 71)), false),
            (sums(1, 1, 9, None), false),
            (sums(200, 1, 6, None), false),
            (sums(2, 1, 9, mark_at(7, 71)), true),
            (sums(2, 8, 9, None), true),
            (sums(200, 8, 7, None), true),
        ] {
            let last = forgotten.state.last;
            let forgot = Forgot { recorded: 7, recorded_at: 70, last, made_anew };
            assert_eq!(judge_mark(&mark, &forgotten), Err(forgot), "{forgotten:?}");
        }
    }

    #[test]
    fn what_is_accepted_goes_on_where_nothing_more_is_lost_than_has_to_be() {
        let state = |first| LogState { first_time: 999, ..state(9, first, 99) };
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
    }
}
