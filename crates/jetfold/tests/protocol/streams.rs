//! What the broker keeps: the partition log and the stream of outputs, both of which may forget their end.

use crate::protocol::history::{Era, History, Key, Output, Position, Record};

/// Whether a log is what a store has folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    Sound,
    /// The message at the store's position is purged, and what comes next is there: nothing tells whether it is the same log.
    Unproven,
    /// What the store has not folded yet is no longer kept.
    Truncated,
    /// The log has lost, or rewritten, what the store has folded.
    Diverged,
}

/// The partition log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Log {
    /// All records, those that are purged included.
    pub records: History,
    /// Records up to here are purged.
    pub purged: Position,
    /// How often it has lost its end.
    pub era: Era,
    /// What it was before each loss.
    pub pasts: Vec<History>,
}

impl Log {
    pub fn append(&mut self, key: Key) {
        self.records.push(Record { key, era: self.era });
    }

    /// Forgets what lies behind a position.
    pub fn lose(&mut self, after: Position) {
        self.pasts.push(self.records);
        self.records = self.records.through(after);
        self.era += 1;
    }

    /// The record at a position, if it is kept.
    pub fn record(&self, position: Position) -> Option<Record> {
        (position > self.purged).then(|| self.records.get(position - 1).copied())?
    }

    /// The verdict on whoever has folded through `position`, where the message was stored in `era`.
    pub fn judge(&self, position: Position, era: Option<Era>) -> Judgement {
        let found = position.checked_sub(1).and_then(|_| self.record(position)).map(|record| record.era);
        if self.records.len() < position || found.is_some() && found != era {
            return Judgement::Diverged;
        }
        match self.purged {
            purged if purged > position => Judgement::Truncated,
            purged if purged == position && position > 0 => Judgement::Unproven,
            _ => Judgement::Sound,
        }
    }

    /// The cheap look before a commit: the message is compared only if it is the last.
    pub fn reaches(&self, position: Position, era: Option<Era>) -> bool {
        self.records.len() > position || self.records.len() == position && self.records.era_at(position) == era
    }

    /// Whether it holds, or has ever held, these records from its first on.
    pub fn has_been(&self, history: &[Record]) -> bool {
        self.records.starts_with(history) || self.pasts.iter().any(|past| past.starts_with(history))
    }
}

/// The message that is furthest on in the stream of outputs among those that a store relies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    pub sequence: usize,
    pub era: Era,
}

/// The stream of outputs: one message a subject.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Outputs {
    pub messages: Vec<(Output, Era)>,
    /// How often it has lost its end.
    pub era: Era,
}

/// What is found under the subject of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Equal(Mark),
    Another,
    Nothing,
}

impl Outputs {
    /// A publish arrives: it is refused if there is a message of its subject.
    pub fn publish(&mut self, output: Output) {
        if self.find(&output) == Found::Nothing {
            self.messages.push((output, self.era));
        }
    }

    pub fn find(&self, output: &Output) -> Found {
        let at = self.messages.iter().position(|(there, _)| there.subject() == output.subject());
        match at.map(|index| (index, self.messages[index])) {
            None => Found::Nothing,
            Some((index, (there, era))) if there == *output => Found::Equal(Mark { sequence: index + 1, era }),
            Some(_) => Found::Another,
        }
    }

    /// Whether the message of a mark is still where it was.
    pub fn holds(&self, mark: Option<Mark>) -> bool {
        mark.is_none_or(|mark| self.messages.get(mark.sequence - 1).is_some_and(|(_, era)| *era == mark.era))
    }

    /// Forgets what lies behind the first `left` messages.
    pub fn lose(&mut self, left: usize) {
        self.messages.truncate(left);
        self.era += 1;
    }
}
