//! Publishing again what `sums` has forgotten: completed rows keep their value.

use crate::bus::finals::{ConflictingFinal, Effects, Place};
use crate::joined::joined;
use crate::row::UnixNanos;
use crate::store::{Store, StoreError};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::sync::Arc;

/// Rows that are read from the store at once.
const PAGE: usize = 4096;

/// Publishes that wait for their confirmation at once.
const WINDOW: usize = 1024;

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Republished {
    pub published: u64,
    pub already_there: u64,
    /// Finals that contradict what is in `sums` now.
    pub conflicting: u64,
    /// The first of them.
    pub conflict: Option<Box<ConflictingFinal>>,
    /// The final that is furthest on in `sums`.
    pub furthest: Option<Place>,
    /// The log time at which the oldest of the rows completed: what completed before it is not known any more.
    pub oldest: Option<UnixNanos>,
}

/// Publishes the final of every completed row until it is confirmed.
pub async fn completed(store: &Arc<Store>, effects: &Effects) -> Result<Republished, StoreError> {
    let mut all = Republished::default();
    let mut after = None;
    loop {
        let page = store.clone();
        let reading = tokio::task::spawn_blocking(move || page.rows_after(after, PAGE));
        let (rows, last) = joined(reading.await)?;
        after = rows.last().map(|(id, _)| *id);
        let finals = rows.iter().filter_map(|(id, row)| row.final_sum(*id));
        let oldest =
            rows.iter().filter(|(id, row)| row.final_sum(*id).is_some()).map(|(_, row)| row.changed_at()).min();
        all.oldest = [all.oldest, oldest].into_iter().flatten().min();
        let outcomes = stream::iter(finals.map(|sum| effects.publish_final(sum)).collect::<Vec<_>>())
            .buffer_unordered(WINDOW)
            .map(Ok::<_, StoreError>);
        outcomes
            .try_for_each(|outcome| {
                match outcome {
                    Ok(confirmed) => {
                        *if confirmed.already_there { &mut all.already_there } else { &mut all.published } += 1;
                        all.furthest = all.furthest.max(confirmed.place);
                    }
                    Err(conflict) => {
                        all.conflicting += 1;
                        tracing::error!("{conflict}");
                        all.conflict.get_or_insert_with(|| Box::new(conflict));
                    }
                }
                std::future::ready(Ok(()))
            })
            .await?;
        if last {
            return Ok(all);
        }
    }
}
