//! `Effect`: what a fold asks of the world, one message of `sums` or `rejects`, and what can become of it.
//!
//! All of it is pure: [`bus::finals`](crate::bus::finals) publishes effects and asks for them.

use crate::checkpoint::Mark;
use crate::doubt::{Leader, Place};
use crate::identity::{Forgot, Verdict};
use crate::reject::RejectedBatch;
use crate::stream_id::StreamId;
use crate::sum::Sum;
use std::fmt;

/// What is to be published, once a subject.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Final(Sum),
    Reject(RejectedBatch),
}

/// The streams that effects go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Sums,
    Rejects,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sums => "sums",
            Self::Rejects => "rejects",
        })
    }
}

impl Kind {
    /// The verdict on a stream of this kind.
    pub fn forgot(self, forgot: Forgot) -> Verdict {
        match self {
            Self::Sums => Verdict::SumsForgot(forgot),
            Self::Rejects => Verdict::RejectsForgot(forgot),
        }
    }
}

/// What tells the message of an effect from all others: its subject, or what that is made of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Final(StreamId),
    Reject(String),
}

impl Subject {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Final(_) => Kind::Sums,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmed<K> {
    pub place: Place<K>,
    /// It was there before: an earlier fold, or another worker, has published it.
    pub already_there: bool,
    /// Another stood at its subject, so that it has one of its own: a reject alone.
    pub differs: bool,
}

/// A final that contradicts one already published: one content, two sums.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "ConflictingFinal: stream {} was summed to {} through chunk {}, but {subject} at sequence {sequence} says {found}",
    ours.id, ours.value, ours.seq_no
)]
pub struct ConflictingFinal {
    pub ours: Sum,
    pub subject: String,
    pub sequence: u64,
    pub found: String,
}

/// What became of an effect that was published until the leader showed a message at its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Final(Result<Confirmed<StreamId>, Box<ConflictingFinal>>),
    Reject(Confirmed<String>),
}

impl Outcome {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Final(_) => Kind::Sums,
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
