//! What a log holds, and what was folded of it: records in their order.
//!
//! The fold of the model keeps all that it has folded. Whatever another fold comes to is a function of that: if two histories
//! are the same here, any two stores are.

use std::fmt;
use std::ops::Deref;

/// The most records that a log of the model may hold.
pub const MOST: usize = 4;

/// The sequence of a record in its log; 0 before the first.
pub type Position = usize;

/// How often a stream had lost its end when it stored something. With its sequence, this tells a message from every other one that
/// the stream has ever held, as the timestamp of a real one does.
pub type Era = u8;

/// What a record belongs to: the subject of its output.
pub type Key = u8;

#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Record {
    pub key: Key,
    pub era: Era,
}

/// Records from the first on.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct History {
    len: u8,
    records: [Record; MOST],
}

impl History {
    pub fn push(&mut self, record: Record) {
        self.records[usize::from(self.len)] = record;
        self.len += 1;
    }

    /// The same up to a position.
    pub fn through(&self, position: Position) -> Self {
        let mut through = Self::default();
        self[..position].iter().for_each(|record| through.push(*record));
        through
    }

    /// Which message stands at a position.
    pub fn era_at(&self, position: Position) -> Option<Era> {
        self.get(position.checked_sub(1)?).map(|record| record.era)
    }

    /// What the fold puts out at a position: the first record of each key has an output, and its value is all that was folded
    /// so far. Further records of the key put out nothing.
    pub fn output_at(&self, position: Position) -> Option<Output> {
        let key = self[position - 1].key;
        let is_first = self[..position - 1].iter().all(|before| before.key != key);
        is_first.then(|| Output(self.through(position)))
    }

    /// What the fold puts out behind a position.
    pub fn outputs_after(&self, position: Position) -> impl Iterator<Item = Output> {
        (position + 1..=self.len()).filter_map(|position| self.output_at(position))
    }
}

impl Deref for History {
    type Target = [Record];

    fn deref(&self) -> &[Record] {
        &self.records[..usize::from(self.len)]
    }
}

/// An output: what was folded through its record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Output(History);

impl Output {
    pub fn subject(&self) -> Key {
        self.0.last().expect("a record has put it out").key
    }

    /// Whether it is what the fold of `log` puts out.
    pub fn is_of(&self, log: &History) -> bool {
        log.starts_with(&self.0)
    }
}

impl fmt::Debug for History {
    /// Keys by letters, each with the era in which its record was stored.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, Record { key, era }) in self.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{}{era}", char::from(b'a' + key))?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?}", char::from(b'a' + self.subject()), self.0)
    }
}
