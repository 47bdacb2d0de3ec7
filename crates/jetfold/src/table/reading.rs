//! A batch folded over a store: what the table does not hold is read from there.

use super::producers::Producers;
use super::{Share, Table};
use crate::application::Application;
use crate::checkpoint::Checkpoint;
use crate::joined::joined;
use crate::store::{Store, StoreError};
use crate::transaction::{Batch, Folded};
use std::sync::Arc;

/// Rows to look up at once without leaving the async thread.
const FEW_ROWS: usize = 64;

impl<A: Application> Table<A> {
    /// The table of a store that stands at `at`. About `row_bytes` of memory are for rows.
    pub fn over(
        application: Arc<A>,
        share: Share,
        row_bytes: u64,
        at: Checkpoint,
        store: &Store<A>,
    ) -> Result<Self, StoreError> {
        let producers = Producers::new(store.view()?.producers()?);
        Ok(Self::with(application, share, row_bytes, at, producers))
    }

    /// Folds one batch into the open transaction, and returns the effects that it asks for.
    ///
    /// # Panics
    /// If the batch is not the one after the last.
    pub async fn consume(&mut self, store: &Arc<Store<A>>, batch: &Batch) -> Result<Folded<A>, StoreError> {
        let mut staged = self.stage(&batch.payload);
        let mut missing = std::mem::take(&mut staged.missing);
        let rows = if missing.len() <= FEW_ROWS {
            store.rows(&mut missing)?
        } else {
            let store = store.clone();
            let reading = tokio::task::spawn_blocking(move || store.rows(&mut missing));
            joined(reading.await)?
        };
        for (key, row) in rows {
            self.supply(&key, row);
        }
        Ok(self.fold(batch, staged))
    }
}
