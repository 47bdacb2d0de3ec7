//! Restoring: the store as a snapshot has it, if that is further than the store itself.

use crate::application::Application;
use crate::archive::bucket::{FetchError, Listed, Snapshots};
use crate::checkpoint::{Checkpoint, Position};
use crate::identity::accept::Accepted;
use crate::identity::{Verdict, judge};
use crate::log::reader::LogReader;
use crate::nats::read::NoAnswer;
use crate::store::snapshot::{self, SnapshotError};
use crate::store::{Owner, Store, StoreError};
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a long restore says how far it is.
const PROGRESS: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Trying again may help.
    #[error("a snapshot can't be read: {0}")]
    NoAnswer(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<NoAnswer> for RestoreError {
    fn from(error: NoAnswer) -> Self {
        Self::NoAnswer(error.to_string())
    }
}

/// Which snapshots may take a store's place.
#[derive(Clone, Debug)]
pub enum Trust {
    /// The store has not begun, or can't go on by itself.
    Any,
    /// Only those for which the same was accepted: a further one that has lost something is no better.
    SameHistory(Vec<Accepted>),
}

/// What became of looking for a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Furthest {
    Restored,
    /// There is none that will do. `others` is the verdict on the furthest, if all that there are belong to another
    /// log, or to what this one was.
    None {
        others: Option<Verdict>,
    },
}

/// Is told how many rows of a snapshot are restored, and how many it has.
pub type Told = dyn Fn(u64, u64) + Send + Sync;

/// Restores the furthest snapshot that is beyond `beyond` and can be trusted: it is whole, and the log holds what it
/// was folded from.
pub async fn furthest<A: Application>(
    store: &Arc<Store<A>>,
    owner: &Owner,
    log: &LogReader,
    snapshots: &Snapshots,
    beyond: Position,
    trust: &Trust,
    told: &Arc<Told>,
) -> Result<Furthest, RestoreError> {
    let listed = snapshots.list(owner.partition).await?;
    let mut verdicts = Vec::new();
    for listed in &listed {
        let Listed { name, checkpoint, .. } = listed;
        let Some(reading) = log.reading(checkpoint, None).await? else { break };
        if let Err(verdict) = judge(checkpoint, &reading) {
            let is_outdated = matches!(verdict, Verdict::LogTruncated { .. });
            if !is_outdated {
                verdicts.push(verdict);
            }
            // An outdated one is only missed if the store itself is no further.
            if !is_outdated || checkpoint.position > beyond {
                tracing::warn!(log = log.name(), snapshot = %name, "a snapshot is passed over: {}", verdict.said(&A::WORDS));
            }
            continue;
        }
        let trusted = match trust {
            Trust::Any => true,
            Trust::SameHistory(accepted) => {
                *accepted == listed.accepted || crate::planted!("a-sound-store-gives-way-to-another-history")
            }
        };
        let is_further =
            checkpoint.position > beyond || crate::planted!("a-snapshot-is-restored-although-the-store-is-further");
        if !is_further || !trusted {
            continue;
        }
        tracing::info!(log = log.name(), snapshot = %name, bytes = listed.bytes, "restoring a snapshot");
        let began = Instant::now();
        let (into, owner, log_name, checkpoint) = (store.clone(), owner.clone(), log.name().to_owned(), *checkpoint);
        let counting = told.clone();
        let take = move |input: &mut dyn Read| take(input, &into, &owner, &checkpoint, &log_name, &*counting);
        let fetched = snapshots.fetch(listed, take).await;
        told(0, 0);
        match fetched {
            Ok(rows) => {
                let position = checkpoint.position;
                let seconds = began.elapsed().as_secs_f64();
                tracing::info!(log = log.name(), position, rows, seconds, "restored a snapshot");
                return Ok(Furthest::Restored);
            }
            Err(FetchError::NoAnswer(cause)) => return Err(RestoreError::NoAnswer(cause)),
            Err(FetchError::Read(SnapshotError::Store(error))) => return Err(error.into()),
            Err(error) => {
                let log = log.name();
                tracing::error!(log, snapshot = %name, "a snapshot is passed over for an older one: {error}");
            }
        }
    }
    let all_others = !verdicts.is_empty() && verdicts.len() == listed.len();
    Ok(Furthest::None { others: verdicts.first().copied().filter(|_| all_others) })
}

/// Reads a snapshot into the store, and returns how many rows it has.
fn take<A: Application>(
    input: &mut dyn Read,
    store: &Store<A>,
    owner: &Owner,
    checkpoint: &Checkpoint,
    log: &str,
    restored: &Told,
) -> Result<u64, SnapshotError> {
    let mut reading = snapshot::read::<_, A>(input, owner, checkpoint)?;
    let producers = std::mem::take(&mut reading.producers);
    let header = reading.header.clone();
    let mut told_at = Instant::now();
    let told = |rows| {
        restored(rows, header.rows);
        if told_at.elapsed() >= PROGRESS {
            told_at = Instant::now();
            tracing::info!(log, rows, of = header.rows, "restoring");
        }
    };
    // What this store has accepted is not forgotten, whatever takes its place.
    let mut accepted = store.accepted()?;
    accepted.extend(header.accepted.iter().cloned());
    accepted.sort_by_key(|accepted| accepted.at);
    accepted.dedup();
    store.restore(&header.checkpoint, &accepted, &producers, reading, told)?;
    Ok(header.rows)
}
