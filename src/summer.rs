//! The summer: what one worker makes of the messages of its partitions.
//!
//! This is all that is special about summing. [`crate::partition`] pulls, publishes and commits around it, and would
//! do so for any other deterministic fold.

use crate::bus::topology::Topology;
use crate::checkpoint::Checkpoint;
use crate::fold::Fold;
use crate::joined::joined;
use crate::row::Row;
use crate::store::{Owner, Store, StoreError};
use crate::stream_id::StreamId;
use crate::transaction::{Batch, Folded, Transaction};
use std::path::PathBuf;
use std::sync::Arc;

/// Rows to look up at once without leaving the async thread.
const FEW_ROWS: usize = 64;

/// Rows that are not committed can't be let go, and there are two of each while they are being committed: with this many
/// quarters of the memory for rows in use, pulling waits for a commit.
const CROWDED_QUARTERS: u64 = 6;

/// The application of one worker, for all the partitions that it folds.
#[derive(Debug)]
pub struct Summer {
    topology: Topology,
    data_dir: PathBuf,
    /// Memory of one partition, in bytes: for rows that are ready to use, and for pages of its store.
    row_bytes: u64,
    page_bytes: u64,
}

impl Summer {
    /// `cache_bytes` is shared by the `partitions` partitions that this worker folds.
    pub fn new(topology: Topology, data_dir: PathBuf, cache_bytes: u64, partitions: usize) -> Self {
        let share = cache_bytes / partitions.max(1) as u64;
        // Most of the memory goes to rows; pages serve the rows that were let go. The rest is left for what a store has
        // changed and not written yet.
        Self { topology, data_dir, row_bytes: share / 4 * 3, page_bytes: share / 8 }
    }

    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Whose fold the store of a partition is.
    pub fn owner(&self, partition: u32) -> Owner {
        Owner { log: self.topology.names.log(partition), partition, partitions: self.topology.partitions }
    }

    /// Opens the store of a partition, or makes it: partial sums by stream, and the checkpoint that they stand at. One that is
    /// damaged is set aside.
    pub fn new_store(&self, partition: u32) -> Result<Store, StoreError> {
        let cache_bytes = usize::try_from(self.page_bytes).unwrap_or(usize::MAX);
        Store::open_or_replace(&self.data_dir, &self.owner(partition), cache_bytes)
    }

    /// The fold of a partition, from a checkpoint of its store on.
    pub fn new_fold(&self, partition: u32, checkpoint: Checkpoint) -> Fold {
        Fold::new(self.topology.rules(partition), checkpoint)
    }

    /// Folds one chunk batch into the open transaction, and returns the effects that it asks for. Rows that the fold
    /// does not hold are read from the store.
    ///
    /// # Panics
    /// If the batch is not the one after the last.
    pub async fn consume_message(
        &self,
        store: &Arc<Store>,
        fold: &mut Fold,
        batch: &Batch,
    ) -> Result<Folded, StoreError> {
        let mut staged = fold.stage(&batch.payload);
        let mut missing = std::mem::take(&mut staged.missing);
        let rows = if missing.len() <= FEW_ROWS {
            store.rows(&mut missing)?
        } else {
            let store = store.clone();
            let reading = tokio::task::spawn_blocking(move || store.rows(&mut missing));
            joined(reading.await)?
        };
        for (id, row) in rows {
            fold.supply(id, row);
        }
        Ok(fold.fold(batch, staged))
    }

    /// Ends the open transaction: what it has changed, to be committed once its effects are confirmed. `None` where
    /// nothing was folded since the last. `committed` is the last transaction that the store has, and `expired` are
    /// rows that it had then, to be collected.
    pub fn finalize_txn(&self, fold: &mut Fold, committed: u64, expired: &[(StreamId, Row)]) -> Option<Transaction> {
        if fold.open_batches() > 0 {
            fold.collect(expired);
        }
        let transaction = fold.seal()?;
        fold.evict(self.row_bytes, committed);
        Some(transaction)
    }

    /// A transaction was committed: rows of it may be let go now.
    pub fn committed(&self, fold: &mut Fold, transaction: u64) {
        fold.committed(transaction);
        if fold.open_batches() == 0 {
            fold.evict(self.row_bytes, transaction);
        }
    }

    /// Whether so many rows wait for their commit that nothing more should be pulled until it comes.
    pub fn is_crowded(&self, fold: &Fold) -> bool {
        fold.held_bytes() + fold.sealed_bytes() > (self.row_bytes / 4).saturating_mul(CROWDED_QUARTERS)
    }
}
