//! What a worker says of itself when it is asked how far it is. Travels as JSON.

use crate::checkpoint::{Checkpoint, Position};
use crate::time::UnixNanos;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// The answer of one worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStanding {
    pub worker: String,
    pub partitions: Vec<PartitionStanding>,
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
    pub log_created: Option<UnixNanos>,
}

impl Standing {
    /// Of a store that stands at `checkpoint`, with so many rows and bytes.
    pub fn of(checkpoint: &Checkpoint, rows: u64, store_bytes: u64) -> Self {
        let &Checkpoint { position, live: live_streams, log_created, .. } = checkpoint;
        Self { position, live_streams, rows, store_bytes, log_created: Some(log_created), ..Self::default() }
    }

    /// What is told at `now` to whoever asks about `partition`.
    pub fn told(&self, partition: u32, now: Instant) -> PartitionStanding {
        let &Self { position, live_streams, rows, store_bytes, refused_since, log_created, .. } = self;
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
            log_created,
        }
    }
}
