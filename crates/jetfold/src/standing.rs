//! What a worker says of itself when it is asked how far it is. Travels as JSON.

use crate::checkpoint::{Checkpoint, Position};
use crate::identity::accept::Loss;
use crate::time::UnixNanos;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// The answer of one worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStanding {
    pub worker: String,
    pub partitions: Vec<PartitionStanding>,
    /// The partitions that it has taken over last, the latest first: a few of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moves: Vec<Move>,
    /// What keeps it from sharing partitions with others at the moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// How a worker has come to a partition that another had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    pub partition: u32,
    /// Who had it.
    pub from: String,
    pub cause: MoveCause,
    /// Milliseconds since.
    pub ms_ago: u64,
    /// Milliseconds from when the other was there last until this one pulled: nobody folded then.
    pub pause_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveCause {
    /// It was let go of, for this worker to take it.
    HandedOver,
    /// Its owner has stopped.
    Left,
    /// Its owner has not been heard of.
    Silent,
}

impl MoveCause {
    pub fn said(self) -> &'static str {
        match self {
            Self::HandedOver => "handed-over",
            Self::Left => "left",
            Self::Silent => "silent",
        }
    }
}

/// How far a worker is with one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStanding {
    pub partition: u32,
    /// The committed position: everything through it is folded, and its effects are confirmed.
    pub position: Position,
    /// Live rows in the store.
    pub live_streams: u64,
    /// Rows in the store, live or not, expired ones included until they are collected.
    pub rows: u64,
    /// Bytes of the store's file.
    pub store_bytes: u64,
    /// Milliseconds since the last commit of this process; `None` before its first.
    pub committed_ms_ago: Option<u64>,
    /// What keeps it from folding at the moment.
    pub trouble: Option<String>,
    /// Since when its log is refused, by the worker's clock; `None` if it is not.
    #[serde(default)]
    pub refused_since: Option<UnixNanos>,
    /// When the log was created that the position is of; `None` if the worker is of a version that does not say.
    #[serde(default)]
    pub log_created: Option<UnixNanos>,
    /// Whether the worker folds behind another, and publishes nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follows: bool,
}

/// What a worker does with a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    Folding,
    /// It folds behind another worker, and publishes nothing.
    Following,
    /// It can't fold at the moment.
    Waiting,
    /// It refuses the log.
    Refused,
}

impl Doing {
    pub const ALL: [Self; 4] = [Self::Folding, Self::Following, Self::Waiting, Self::Refused];

    pub fn name(self) -> &'static str {
        match self {
            Self::Folding => "folding",
            Self::Following => "following",
            Self::Waiting => "waiting",
            Self::Refused => "refused",
        }
    }
}

impl PartitionStanding {
    pub fn doing(&self) -> Doing {
        match (&self.trouble, self.refused_since) {
            (_, Some(_)) => Doing::Refused,
            (Some(_), None) => Doing::Waiting,
            (None, None) if self.follows => Doing::Following,
            (None, None) => Doing::Folding,
        }
    }
}

/// The same within the worker's process, where time has no age yet.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    pub position: Position,
    pub live_streams: u64,
    pub rows: u64,
    pub store_bytes: u64,
    pub committed_at: Option<Instant>,
    pub trouble: Option<String>,
    pub refused_since: Option<UnixNanos>,
    /// By which verdict.
    pub verdict: Option<&'static str>,
    /// What the log seems to have lost: the operator may accept it.
    pub in_question: Option<Loss>,
    /// What is committed; `None` until it is known.
    pub checkpoint: Option<Checkpoint>,
    pub phase: Phase,
    /// When it has stopped folding, for another to go on.
    pub stopped_at: Option<Instant>,
}

/// What a worker does with a partition that it has opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Nothing yet.
    #[default]
    Closed,
    /// It folds behind another worker, and publishes nothing. `close`: it has come up to what that one has committed.
    Follows { close: bool },
    /// It folds, and publishes what the fold puts out.
    Owns,
    /// It has stopped, and committed what it had folded, for another to go on.
    HandedOver,
}

impl Standing {
    /// Of a store that stands at `checkpoint`, with so many rows and bytes.
    pub fn of(checkpoint: &Checkpoint, rows: u64, store_bytes: u64) -> Self {
        let &Checkpoint { position, live: live_streams, .. } = checkpoint;
        Self { position, live_streams, rows, store_bytes, checkpoint: Some(*checkpoint), ..Self::default() }
    }

    /// What is told at `now` to whoever asks about `partition`.
    pub fn told(&self, partition: u32, now: Instant) -> PartitionStanding {
        let &Self { position, live_streams, rows, store_bytes, refused_since, phase, .. } = self;
        let age = self.committed_at.map(|at| now.saturating_duration_since(at).as_millis());
        PartitionStanding {
            partition,
            position,
            live_streams,
            rows,
            store_bytes,
            committed_ms_ago: age.map(|ms| u64::try_from(ms).unwrap_or(u64::MAX)),
            trouble: self.trouble.clone(),
            refused_since,
            log_created: self.checkpoint.map(|checkpoint| checkpoint.log_created),
            follows: matches!(phase, Phase::Follows { .. }),
        }
    }
}
