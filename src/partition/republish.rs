//! Publishing again what `sums` has forgotten: completed rows keep their value.

use crate::bus::finals::Effects;
use crate::doubt::{Order, Place};
use crate::effect::{ConflictingFinal, Kind};
use crate::joined::joined;
use crate::row::LogTime;
use crate::store::{Store, StoreError};
use crate::stream_id::StreamId;
use crate::summer::Summer;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::sync::Arc;

/// Rows that are read from the store at once.
const PAGE: usize = 4096;

/// Publishes that wait for their confirmation at once.
const WINDOW: usize = 1024;

/// How often all rows are gone through, before the log is opened anew instead.
const MOST_ROUNDS: usize = 5;

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
    pub furthest: Option<Place<StreamId>>,
    /// The log time at which the oldest of the rows completed: what completed before it is not known any more.
    pub oldest: Option<LogTime>,
    /// Something was published in a way that leaves it open whether all of it is still there.
    pub doubtful: bool,
}

/// Publishes the final of every completed row until it is confirmed, and again until nothing speaks against that all of
/// them are there: `sums` may forget meanwhile.
pub async fn completed(store: &Arc<Store<Summer>>, effects: &Effects) -> Result<Republished, StoreError> {
    let mut all = Republished::default();
    for _ in 0..MOST_ROUNDS {
        let leader = effects.leader(Kind::Sums).await.ok();
        let round = every_row(store, effects).await?;
        let Republished { published, already_there, conflicting, doubtful, .. } = round;
        all.published += published;
        // Those that an earlier round has published are there now, and are counted once.
        all.already_there = (already_there + published).saturating_sub(all.published);
        // The same has to have led it all along.
        let doubtful = doubtful || leader.is_none() || effects.leader(Kind::Sums).await.ok() != leader;
        (all.conflicting, all.doubtful) = (conflicting, doubtful);
        all.furthest = round.furthest;
        all.oldest = [all.oldest, round.oldest].into_iter().flatten().min();
        all.conflict = all.conflict.or(round.conflict);
        if !doubtful {
            break;
        }
    }
    Ok(all)
}

async fn every_row(store: &Arc<Store<Summer>>, effects: &Effects) -> Result<Republished, StoreError> {
    let mut all = Republished::default();
    let mut order = Order::after(0);
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
            .try_for_each(|(outcome, unknown)| {
                all.doubtful |= unknown;
                match outcome {
                    Ok(confirmed) => {
                        let (sequence, stored) = (confirmed.place.sequence, !confirmed.already_there);
                        all.doubtful |= stored && order.stored(sequence).is_some();
                        *if confirmed.already_there { &mut all.already_there } else { &mut all.published } += 1;
                        all.furthest = all.furthest.take().max(Some(confirmed.place));
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
