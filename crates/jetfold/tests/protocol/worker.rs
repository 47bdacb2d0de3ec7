//! A worker: a store on its disk, and what it holds in memory while it works.

use crate::protocol::history::{Era, History, Position};
use crate::protocol::streams::Mark;

/// How a store got where it stands. No rule asks for it: it tells which runs the checker has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    #[default]
    Begun,
    Owned,
    Followed,
    Restored,
    /// What its outputs had lost is there again.
    Mended,
}

/// `fold(log[..=position])`, and what it knows to be out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Store {
    pub folded: History,
    pub mark: Option<Mark>,
    pub origin: Origin,
}

impl Store {
    pub fn position(&self) -> Position {
        self.folded.len()
    }

    /// Which message it has folded last.
    pub fn era(&self) -> Option<Era> {
        self.folded.era_at(self.position())
    }

    /// What its owner tells of it.
    pub fn told(&self) -> Told {
        Told { position: self.position(), era: self.era(), mark: self.mark }
    }
}

/// What an owner has told that it has committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Told {
    pub position: Position,
    pub era: Option<Era>,
    pub mark: Option<Mark>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Duty {
    #[default]
    Idle,
    Owns,
    Follows,
}

/// What a crash takes with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session {
    pub duty: Duty,
    /// The store's records, and those that are folded behind them.
    pub folded: History,
    /// Whether its pull has ended: nothing comes any more.
    pub cut: bool,
    /// The position that was inspected and is on its way to disk, with the mark that goes with it.
    pub inspected: Option<(Position, Option<Mark>)>,
}

impl Session {
    pub fn over(store: &Store, duty: Duty) -> Self {
        Self { duty, folded: store.folded, ..Self::default() }
    }

    /// The message that it has folded last.
    pub fn era(&self) -> Option<Era> {
        self.folded.era_at(self.folded.len())
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Worker {
    pub store: Store,
    pub session: Session,
}

impl Worker {
    pub fn does(&self, duty: Duty) -> bool {
        self.session.duty == duty
    }
}
