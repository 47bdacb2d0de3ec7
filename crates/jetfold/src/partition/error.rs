//! `PartitionError`: why a partition can't be folded any further, and the way out.

use super::damage::Aside;
use crate::checkpoint::Position;
use crate::commit::effect::Conflict;
use crate::identity::Verdict;
use crate::store::StoreError;
use crate::words::Words;

/// Why a partition can't be folded any further.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    #[error("partition {partition}: {}{}", verdict.said(words), way_out(verdict, *partition, words))]
    Refused { partition: u32, verdict: Verdict, words: &'static Words },
    #[error(
        "partition {partition}: {}{}. This store is new, because one that may have folded them was damaged, and lies beside it as {aside}",
        verdict.said(words), way_out(verdict, *partition, words)
    )]
    RefusedAfterDamage { partition: u32, verdict: Verdict, aside: Aside, words: &'static Words },
    #[error(
        "partition {partition}: the log {log} is gone: bring it back from a backup; or make it anew with `{}`, and go on with {} replaced:{partition}", words.apply, words.accept
    )]
    LogGone { partition: u32, log: String, words: &'static Words },
    #[error(
        "partition {partition}: another process has started as the same worker and has taken over; give each {} a {} name of its own", words.worker, words.worker_name
    )]
    Superseded { partition: u32, words: &'static Words },
    #[error("partition {partition}, position {position}: {loss}. Halted before it, as {} says", words.on_violation)]
    Loss { partition: u32, position: Position, loss: String, words: &'static Words },
    #[error("partition {partition}: {conflict}. Halted before committing it, as {} says", words.on_violation)]
    Conflict { partition: u32, conflict: Box<Conflict>, words: &'static Words },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What follows a verdict in the sentence that refuses a partition.
fn way_out(verdict: &Verdict, partition: u32, words: &Words) -> String {
    verdict.way_out(partition, words).map(|way_out| format!(". {way_out}")).unwrap_or_default()
}

impl PartitionError {
    /// Whether it is this partition's log alone that can't be folded: it is refused, and others go on.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::RefusedAfterDamage { .. } | Self::LogGone { .. })
    }

    /// The name of the verdict on a log that is refused.
    pub fn verdict(&self) -> Option<&'static str> {
        match self {
            Self::Refused { verdict, words, .. } | Self::RefusedAfterDamage { verdict, words, .. } => {
                Some(verdict.name(words))
            }
            Self::LogGone { .. } => Some("LogGone"),
            _ => None,
        }
    }

    /// Whether a guarantee was broken, rather than something that could not be done.
    pub fn is_violation(&self) -> bool {
        matches!(self, Self::Loss { .. } | Self::Conflict { .. })
    }
}
