//! `Unsound`: why a transaction is not committed as it is.

use crate::commit::effect::{Kind, Subject};
use crate::identity::Verdict;
use crate::words::Words;

/// What an inspection has found. The transaction is dropped; its batches are folded again, and its effects published again.
#[derive(Clone, Debug, PartialEq)]
pub enum Unsound<O> {
    Forgotten {
        subject: Subject<O>,
        /// Where it was confirmed; `None` if it was looked for by its subject.
        sequence: Option<u64>,
    },
    /// In the place of an output stands another than the one that was confirmed.
    Another,
    /// Leaders are elected again and again.
    Elections,
    /// There is no stream of this kind any more.
    NoStream(Kind),
    NoLog,
    /// The furthest effect of the transactions before is gone, or the log does not reach the position any more.
    Judged(Verdict),
}

impl<O> Unsound<O> {
    /// The same, in words.
    pub fn said(&self, words: &'static Words) -> String {
        match self {
            Self::Forgotten { subject, .. } => format!("{} has forgotten a message", subject.kind().said(words)),
            Self::Another => format!("the stream {} does not hold what was confirmed", words.outputs),
            Self::Elections => "leaders are elected again and again".to_owned(),
            Self::NoStream(kind) => format!("there is no stream {}", kind.said(words)),
            Self::NoLog => "there is no such stream".to_owned(),
            Self::Judged(verdict) => verdict.said(words).to_string(),
        }
    }
}
