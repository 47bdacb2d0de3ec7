//! What a commit leaves behind: how far the store is, and rows in it that have expired.

use crate::application::Application;
use crate::checkpoint::Checkpoint;
use crate::store::{Size, Store, StoreError};
use crate::transaction::Transaction;
use std::sync::Arc;

/// Rows to look at after a commit for each key that it has opened: more than one, so that rows leave the store as
/// fast as they come, and the store holds a quarter more than it has to at the most.
const LOOKED_AT: u64 = 4;

/// The most rows to look at: those that have expired wait in memory for the next transaction.
const LOOKED_AT_MOST: usize = 1 << 16;

/// Rows to look at besides.
const LOOKED_AT_LEAST: u64 = 256;

/// How far a session has come.
pub struct Committed<A: Application> {
    pub transaction: u64,
    pub checkpoint: Checkpoint,
    pub size: Size,
    /// Rows that this commit has left in the store although they have expired: some of them.
    pub expired: Arc<[(A::Key, A::Row)]>,
}

impl<A: Application> Clone for Committed<A> {
    fn clone(&self) -> Self {
        let Self { transaction, checkpoint, size, expired } = self;
        Self { transaction: *transaction, checkpoint: *checkpoint, size: *size, expired: expired.clone() }
    }
}

/// A commit, and the key up to which expired rows were looked for, if that was not the last.
pub type Written<A> = Result<(Committed<A>, Option<<A as Application>::Key>), StoreError>;

/// Looks for expired rows behind a transaction that the store has, from the key `after` on.
pub fn written<A: Application>(
    store: &Store<A>,
    application: &A,
    transaction: &Transaction<A>,
    after: Option<A::Key>,
) -> Written<A> {
    let Transaction { number, checkpoint, tally, .. } = transaction;
    let most = usize::try_from(tally.opened * LOOKED_AT + LOOKED_AT_LEAST).unwrap_or(usize::MAX);
    let (mut expired, mut left, mut looked_at) = (Vec::new(), most.min(LOOKED_AT_MOST), None);
    store.view()?.each(after, |key, row| {
        left -= 1;
        if left == 0 {
            looked_at = Some(key.clone());
        }
        if application.is_forgotten(&row, checkpoint.log_time) {
            expired.push((key, row));
        }
        Ok::<_, StoreError>(left > 0)
    })?;
    // At the end of the table, the next look starts again at its beginning.
    let expired = expired.into();
    Ok((Committed { transaction: *number, checkpoint: *checkpoint, size: store.size()?, expired }, looked_at))
}
