//! Publishing again what the stream of outputs has forgotten, as far as rows remember what they have put out.

use crate::application::Application;
use crate::commit::doubt::{Order, Place};
use crate::commit::effect::{Conflict, Kind};
use crate::effects::Effects;
use crate::joined::joined;
use crate::store::{Store, StoreError};
use crate::time::LogTime;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::sync::Arc;

/// Rows that are read from the store at once.
const PAGE: usize = 4096;

/// Publishes that wait for their confirmation at once.
const WINDOW: usize = 1024;

/// How often all rows are gone through, before the log is opened anew instead.
const MOST_ROUNDS: usize = 5;

/// What came of it.
pub struct Republished<O> {
    pub published: u64,
    pub already_there: u64,
    /// Outputs that contradict what is there.
    pub conflicting: u64,
    /// The first of them.
    pub conflict: Option<Box<Conflict>>,
    /// The output that is furthest on.
    pub furthest: Option<Place<O>>,
    /// The log time at which the oldest of them was put out: what was put out before is not known any more.
    pub oldest: Option<LogTime>,
    /// Something was published in a way that leaves it open whether all of it is still there.
    pub doubtful: bool,
}

impl<O> Default for Republished<O> {
    fn default() -> Self {
        Self {
            published: 0,
            already_there: 0,
            conflicting: 0,
            conflict: None,
            furthest: None,
            oldest: None,
            doubtful: false,
        }
    }
}

/// Publishes what every row remembers to have put out until it is confirmed, and again until nothing speaks against that all
/// of it is there: the stream may forget meanwhile.
pub async fn remembered<A: Application>(
    application: &A,
    store: &Arc<Store<A>>,
    effects: &Effects<A>,
) -> Result<Republished<A::Output>, StoreError> {
    let mut all = Republished::default();
    for _ in 0..MOST_ROUNDS {
        let leader = effects.leader(Kind::Outputs).await.ok();
        let round = every_row(application, store, effects).await?;
        let Republished { published, already_there, conflicting, doubtful, .. } = round;
        all.published += published;
        // Those that an earlier round has published are there now, and are counted once.
        all.already_there = (already_there + published).saturating_sub(all.published);
        // The same has to have led it all along.
        let doubtful = doubtful || leader.is_none() || effects.leader(Kind::Outputs).await.ok() != leader;
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

async fn every_row<A: Application>(
    application: &A,
    store: &Arc<Store<A>>,
    effects: &Effects<A>,
) -> Result<Republished<A::Output>, StoreError> {
    let mut all = Republished::default();
    let mut order = Order::after(0);
    let mut after: Option<A::Key> = None;
    loop {
        let (page, from) = (store.clone(), after.take());
        let reading = tokio::task::spawn_blocking(move || page.rows_after(from, PAGE));
        let (rows, last) = joined(reading.await)?;
        after = rows.last().map(|(key, _)| key.clone());
        let outputs: Vec<_> = rows.iter().filter_map(|(key, row)| application.was_put_out(key, row)).collect();
        let oldest = outputs.iter().map(|(_, at)| *at).min();
        all.oldest = [all.oldest, oldest].into_iter().flatten().min();
        let publishing: Vec<_> = outputs.into_iter().map(|(output, _)| effects.publish_output(output)).collect();
        let outcomes = stream::iter(publishing).buffer_unordered(WINDOW).map(Ok::<_, StoreError>);
        outcomes
            .try_for_each(|(outcome, unknown)| {
                all.doubtful |= unknown;
                match outcome {
                    Ok(confirmed) => {
                        let (sequence, stored) = (confirmed.place.sequence, !confirmed.already_there);
                        all.doubtful |= stored && order.stored(sequence).is_some();
                        *if confirmed.already_there { &mut all.already_there } else { &mut all.published } += 1;
                        confirmed.place.further(&mut all.furthest);
                    }
                    Err(conflict) => {
                        all.conflicting += 1;
                        tracing::error!("{conflict}");
                        all.conflict.get_or_insert(conflict);
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
