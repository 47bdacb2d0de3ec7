//! A damaged store: set aside, and a new one in its place, for a snapshot or the log to fill.

use crate::application::Application;
use crate::identity::Verdict;
use crate::identity::doubt::Doubt;
use crate::joined::joined;
use crate::partition::{Partition, PartitionError};
use crate::standing::Standing;
use crate::store::aside;
use crate::store::{Store, StoreError};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Damaged stores that were set aside.
#[derive(Debug)]
pub struct Aside(Vec<PathBuf>);

impl fmt::Display for Aside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths: Vec<_> = self.0.iter().map(|path| path.display().to_string()).collect();
        f.write_str(&paths.join(", "))
    }
}

impl<A: Application> Partition<A> {
    /// Begins anew with an empty store, because `what` of the one that was is damaged: as a worker does that has lost its
    /// folder, but for what was said to it.
    pub(super) async fn replace_store(&mut self, what: String) -> Result<(), StoreError> {
        self.standing.send_modify(|standing| {
            let (committed_at, trouble) = (standing.committed_at, Some(trouble(&what)));
            *standing = Standing { committed_at, trouble, ..Standing::default() };
        });
        let (old, stores, partition) = (self.store.clone(), self.stores.clone(), self.partition);
        let replacing = tokio::task::spawn_blocking(move || {
            aside::set_aside(old.path(), &what, &A::WORDS)?;
            stores.open(partition)
        });
        self.store = Arc::new(joined(replacing.await)?);
        self.shown.send_replace(self.store.clone());
        (self.doubt, self.fruitless) = (Doubt::new(0), 0);
        // It was folded over the store that was.
        *self.promoted() = None;
        Ok(())
    }

    /// If nothing reaches back to where a store has to begin, whoever reads the verdict must learn why it is empty.
    pub(super) fn with_what_was_set_aside(&self, error: PartitionError) -> PartitionError {
        match error {
            PartitionError::Refused { partition, verdict: verdict @ Verdict::LogTruncated { .. }, words } => {
                match aside::found(self.store.path()) {
                    Ok(found) if !found.is_empty() => {
                        PartitionError::RefusedAfterDamage { partition, verdict, aside: Aside(found), words }
                    }
                    _ => PartitionError::Refused { partition, verdict, words },
                }
            }
            error => error,
        }
    }
}

/// What is told of a partition whose store is made again.
pub(super) fn trouble(what: &str) -> String {
    format!("its store was damaged ({what}), and is made again from a snapshot or the log")
}

/// What is damaged, where `result` is what comes of that, and nothing graver.
pub(super) fn found<A: Application>(store: &Store<A>, result: &Result<(), PartitionError>) -> Option<String> {
    match result {
        Ok(()) | Err(PartitionError::Store(StoreError::Damaged { .. })) => store.damage().map(str::to_owned),
        Err(_) => None,
    }
}
