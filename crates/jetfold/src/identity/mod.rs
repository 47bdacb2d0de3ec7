//! The identity of a log, and of the streams of outputs and rejects: whether the broker still has what was folded and confirmed.

pub mod accept;
pub mod doubt;

use crate::checkpoint::{Checkpoint, Mark, Position};
use crate::identity::accept::Loss;
use crate::time::UnixNanos;
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

    /// Whether messages are missing, and others lie between them and a store at `position`: those can be folded.
    pub fn is_further_on(&self, position: Position) -> bool {
        matches!(self, Self::LogHole { from, .. } if *from > position.saturating_add(1))
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
        let Words { accept: flagged, accept_while_running: told, .. } = words;
        Some(format!(
            "{mend}; or accept {accept} (`{told} {flag}:{partition}`, or start with {flagged} {flag}:{partition})"
        ))
    }

    /// Where the store goes on once the operator has accepted it: its rows are kept, and everything that the log still has and
    /// may differ is folded again. Records that come again are known by their stamps, or by their own numbers. What is missing
    /// shows by what comes after it, which is rejected with a reason.
    pub fn accepted(&self, before: &Checkpoint, state: &LogState) -> Checkpoint {
        let position = match self {
            Verdict::LogHole { to, .. } => *to,
            _ => state.first.saturating_sub(1),
        };
        let (log_created, replaced) = (state.created, matches!(self, Verdict::LogReplaced { .. }));
        let (log_born, refolds_through) = match replaced {
            true => (log_created, 0),
            false if crate::planted!("what-is-accepted-is-not-known-to-come-again") => (before.log_born, 0),
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
    /// The message at the checkpoint's position, if that lies within the log.
    pub at_position: Option<MessageMark>,
    /// The next message that is there, if this was asked.
    pub next: Option<NextMessage>,
}

/// What comes next in the log.
#[derive(Clone, Copy, Debug)]
pub struct NextMessage {
    /// What should: a position after the checkpoint's.
    pub expected: Position,
    /// The first message there or later; `None` if there is none.
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
    let same = match crate::planted!("a-message-is-known-by-its-sequence") {
        true => known && reading.at_position.is_some(),
        false => known && reading.at_position == Some(MessageMark { position, time: message_time }),
    };
    if created != checkpoint.log_created && !same && !crate::planted!("a-log-is-known-by-its-name") {
        let folded_another = last < position || reading.at_position.is_some();
        return Err(match reading.state.was_brought_back() && folded_another {
            // From a backup that is older than the store.
            true => Verdict::LogDiverged { position, last },
            false => Verdict::LogReplaced { folded: checkpoint.log_created, found: created },
        });
    }
    if last < position && !crate::planted!("a-log-that-ends-before-the-store-is-sound")
        || known && !same && reading.at_position.is_some()
    {
        return Err(Verdict::LogDiverged { position, last });
    }
    // What a bucket lists may claim any position.
    let after = position.saturating_add(1);
    if first > after && !crate::planted!("a-beginning-that-is-gone-is-not-missed") {
        return Err(Verdict::LogTruncated { from: after, to: first - 1 });
    }
    let Some(NextMessage { expected, found }) = reading.next else { return Ok(()) };
    let next = found.map_or(last + 1, |found| found.position);
    if expected <= last && next > expected && !crate::planted!("holes-are-not-seen") {
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

/// Whether a log that is [the same](judge) as far as can be seen begins right behind the position: the message that would tell is
/// gone. The log may have lost what was folded, and have been purged after it had grown again.
pub fn is_unproven(checkpoint: &Checkpoint, reading: &LogReading) -> bool {
    let Checkpoint { position, message_time, .. } = *checkpoint;
    position > 0
        && message_time != 0
        && reading.state.first > position
        && !crate::planted!("a-purged-last-message-proves-the-log")
}

/// What the leader of a stream of effects answered about it.
#[derive(Clone, Copy, Debug)]
pub struct MarkReading {
    pub state: LogState,
    /// The message at the recorded sequence, if there is one.
    pub at_mark: Option<MessageMark>,
}

/// Whether the stream of outputs, or that of rejects, still has the furthest message that was ever confirmed in it. What lies
/// before its first sequence has aged out, and was not forgotten. A stream that was brought back from a backup, and has the
/// message, is the same.
pub fn judge_mark(mark: &Mark, reading: &MarkReading) -> Result<(), Forgot> {
    let LogState { created, first, last, .. } = reading.state;
    let Mark { sequence, time, .. } = *mark;
    let made_anew = created != mark.created
        && !reading.state.was_brought_back()
        && !crate::planted!("outputs-are-known-by-their-name");
    let aged_out = !made_anew && first > sequence;
    let is_there = match crate::planted!("a-mark-is-known-by-its-sequence") {
        true => reading.at_mark.is_some(),
        false => reading.at_mark == Some(MessageMark { position: sequence, time }),
    };
    if aged_out || is_there {
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
    Ok(state.last > next.position
        || state.last_time == next.message_time
        || crate::planted!("a-last-message-is-known-by-its-sequence"))
}

#[cfg(test)]
mod tests;
