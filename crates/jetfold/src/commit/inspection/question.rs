//! What an inspection asks, and what it is told.

use crate::checkpoint::{Checkpoint, Mark};
use crate::commit::doubt::{Leader, Place};
use crate::commit::effect::{Kind, Looked, ReadBack, Subject};
use crate::identity::{LogReading, LogState, MarkReading};

/// What only a leader can answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Question<O> {
    /// Whether a message is where it was confirmed, and who leads its stream.
    Look(Place<Subject<O>>),
    /// What stands at the furthest message of the transactions before.
    Mark(Kind, Mark),
    /// What stands at the subject of an output.
    Output(O),
    /// What stands at a reject's subject.
    Reject(String),
    /// What the log holds, and who leads it.
    LogState,
    /// What the log has at the position to be committed: it is a whole batch.
    LogMessage(Checkpoint),
}

/// A question on its way. Whoever has its reply hands both back.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked<O> {
    pub question: Question<O>,
    /// Its message was missed once: to be asked after a pause, for a leader that is new may miss at first what it has.
    pub again: bool,
    /// The look that it is part of.
    pub(super) look: u64,
}

/// What a leader answered. `None` if there is no such stream.
#[derive(Clone, Debug)]
pub enum Reply {
    Look(Looked),
    Mark(Option<MarkReading>),
    ReadBack(ReadBack),
    LogState(Option<(LogState, Leader)>),
    LogMessage(Option<LogReading>),
}
