//! `Unsound`: why a transaction is not committed as it is.

use crate::effect::{Kind, Subject};
use crate::identity::Verdict;

/// What an inspection has found. The transaction is dropped; its batches are folded again, and its effects published again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsound {
    #[error("{} has forgotten a message", subject.kind())]
    Forgotten {
        subject: Subject,
        /// Where it was confirmed; `None` if it was looked for by its subject.
        sequence: Option<u64>,
    },
    #[error("a final is not the one that was confirmed")]
    Another,
    /// A stream may have ended, expired, and begun anew within one transaction.
    #[error("not all of its finals can be told from its rows")]
    Untold,
    #[error("leaders are elected again and again")]
    Elections,
    #[error("there is no stream {0}")]
    NoStream(Kind),
    #[error("there is no such stream")]
    NoLog,
    /// The furthest effect of the transactions before is gone, or the log does not reach the position any more.
    #[error("{0}")]
    Judged(Verdict),
}
