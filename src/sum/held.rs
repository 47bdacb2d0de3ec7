//! The table that this program folds with, compiled here once.

use crate::sum::Summer;
use jetfold::Table;
use jetfold::{Batch, Folded};

// A held row takes exactly two lines of the processor's cache.
const _: () = assert!(Table::<Summer>::PLACE_BYTES == 128);

/// Folds one batch of which the store has no row that the table does not hold: what the fold costs by itself.
///
/// # Panics
/// If the batch is not the one after the last.
pub fn fold_held(table: &mut Table<Summer>, batch: &Batch) -> Folded<Summer> {
    let staged = table.stage(&batch.payload);
    table.fold(batch, staged)
}
