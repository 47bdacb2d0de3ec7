//! `Effect`: what a fold asks of the world, one message of the outputs' stream or of that of rejects, and what can become of it.
//!
//! All of it is pure: [`Effects`](crate::effects::Effects) publishes them, and asks for them.

use crate::checkpoint::Mark;
use crate::commit::doubt::{Leader, Place};
use crate::identity::{Forgot, Verdict};
use crate::refused::RejectedBatch;
use crate::words::Words;

/// What is to be published, once a subject.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect<O> {
    Output(O),
    Reject(RejectedBatch),
}

/// The streams that effects go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Outputs,
    Rejects,
}

impl Kind {
    /// What the stream is called.
    pub fn said(self, words: &Words) -> &'static str {
        match self {
            Self::Outputs => words.outputs,
            Self::Rejects => words.rejects,
        }
    }

    /// The verdict on a stream of this kind.
    pub fn forgot(self, forgot: Forgot) -> Verdict {
        match self {
            Self::Outputs => Verdict::OutputsForgot(forgot),
            Self::Rejects => Verdict::RejectsForgot(forgot),
        }
    }
}

/// What tells the message of an effect from all others: its subject, or what that is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject<O> {
    Output(O),
    Reject(String),
}

impl<O> Subject<O> {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Output(_) => Kind::Outputs,
            Self::Reject(_) => Kind::Rejects,
        }
    }
}

/// What the server answered to one publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The stream has stored it, at this sequence.
    Stored(u64),
    /// The stream takes one message a subject, and may have that of this one.
    SubjectTaken,
    /// No answer, or one that does not say: it may be stored or not.
    Unknown,
}

/// An effect that is out, for as long as its stream forgets nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Confirmed<K> {
    pub place: Place<K>,
    /// It was there before: an earlier fold, or another worker, has published it.
    pub already_there: bool,
    /// Another stood at its subject, so that it has one of its own: a reject alone.
    pub differs: bool,
}

/// An output that contradicts one already published: one input, two results.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {ours}, but {subject} at sequence {sequence} says {found}")]
pub struct Conflict {
    /// What the application calls it.
    pub name: &'static str,
    /// What the fold has put out, in words, and what stands there.
    pub ours: String,
    pub subject: String,
    pub sequence: u64,
    pub found: String,
}

/// What became of an effect that was published until the leader showed a message at its subject.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome<O> {
    Output(Result<Confirmed<O>, Box<Conflict>>),
    Reject(Confirmed<String>),
}

impl<O> Outcome<O> {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Output(_) => Kind::Outputs,
            Self::Reject(_) => Kind::Rejects,
        }
    }
}

/// What the leader shows where a message was confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    There(Mark),
    /// The stream begins after it: retention, not loss.
    Expired,
    Forgotten,
}

/// What the leader answers about a message that was confirmed; `None` if there is no such stream.
pub type Looked = Option<(Found, Leader)>;

/// What the leader shows at the subject of an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBack {
    /// The effect, at this sequence.
    Same(u64),
    Another,
    Nothing,
}
