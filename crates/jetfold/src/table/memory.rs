//! What a table lets go of, and when pulling waits.

use super::{Place, Table};
use crate::application::Application;
use crate::table::places::Places;

/// During a commit every changed row is in memory twice. Above this many quarters of the memory for rows, pulling stops until
/// the commit is done.
const CROWDED_QUARTERS: u64 = 6;

impl<A: Application> Table<A> {
    /// Bytes of memory that one held row costs. What a growing table keeps in reserve comes on top.
    pub const HELD_ROW_BYTES: u64 = (Self::PLACE_BYTES + Places::<A::Key, Place<A::Row>>::INDEX_BYTES) as u64;

    /// From now on about so many bytes of memory are for rows.
    pub fn give(&mut self, row_bytes: u64) {
        self.row_bytes = row_bytes;
    }

    /// A transaction was committed: its memory is free, and rows of it may be let go.
    pub fn committed(&mut self, transaction: u64) {
        if transaction + 1 == self.number {
            self.sealed_bytes = 0;
        }
        if self.batches == 0 {
            self.evict(self.row_bytes, transaction);
        }
    }

    /// Whether so many rows wait for their commit that nothing more should be pulled until it comes.
    pub fn is_crowded(&self) -> bool {
        self.held_bytes() + self.sealed_bytes > (self.row_bytes / 4).saturating_mul(CROWDED_QUARTERS)
    }

    /// Memory of the rows held, in bytes.
    pub fn held_bytes(&self) -> u64 {
        self.rows.len() as u64 * Self::HELD_ROW_BYTES
    }

    /// Memory of the last transaction while it waits for its commit, in bytes.
    pub fn sealed_bytes(&self) -> u64 {
        self.sealed_bytes
    }

    /// Lets go of rows until about `budget` bytes are held. What transactions after `committed` have changed stays:
    /// the store does not have it yet.
    ///
    /// # Panics
    /// If a transaction is open that has changed rows: their places would move.
    pub(super) fn evict(&mut self, budget: u64, committed: u64) {
        assert!(self.changed.is_empty(), "rows are let go between transactions");
        let most = usize::try_from(budget / Self::HELD_ROW_BYTES).unwrap_or(usize::MAX);
        if self.rows.len() <= most {
            return;
        }
        let (application, number) = (&*self.application, self.number);
        // A key of another partition has no row that anybody could miss.
        let committed = if crate::planted!("what-is-not-committed-is-let-go") { u64::MAX - 1 } else { committed };
        let must_stay = |place: &Place<A::Row>| place.changed_in > committed && place.changed_in != super::MISROUTED;
        let is_live = |place: &Place<A::Row>| place.row.as_ref().is_some_and(|row| application.is_live(row));
        // Others are seldom asked for again; live ones not changed for two transactions come next.
        self.rows.retain(|place| must_stay(place) || is_live(place) && place.changed_in + 2 >= number);
        if self.rows.len() > most {
            self.rows.retain(must_stay);
        }
    }
}
