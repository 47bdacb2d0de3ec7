//! The table of one partition: rows that are held, read and changed, and the place in the log that they stand at.
//!
//! A batch goes down once and comes up once. It is decoded, and each of its records gets the place of its row; rows that are
//! not held are read from the store; then the [application](Application) folds record after record, in order. What has changed
//! since the last seal becomes a transaction. If batches are [stamped](crate::producer), the stamp of one says first whether it is
//! folded at all. What the table decides depends on the log alone, so that any replay arrives
//! at the same place.

mod memory;
mod places;
mod prefetch;
mod producers;
mod reading;
mod stamped;

use crate::application::{Application, Cx, Slot, Undecodable};
use crate::checkpoint::{Checkpoint, Position};
use crate::key::Key;
use crate::refused::{self, RejectedBatch, Rejections};
use crate::transaction::{Batch, Folded, Tally, Transaction};
use places::Places;
use prefetch::prefetch;
use producers::Producers;
use std::sync::Arc;

/// How many records ahead of the one that is folded a row is fetched into the processor's cache.
const AHEAD: usize = 12;

/// In the place of a transaction's number: the key belongs to another partition, whatever its records say.
const MISROUTED: u64 = u64::MAX;

/// Which part of the keys a table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub partition: u32,
    pub partitions: u32,
}

/// A batch that is decoded and whose rows have their places. What the store has of the keys in `missing` must be
/// [supplied](Table::supply) before the batch is folded.
pub struct Staged<'a, A: Application> {
    records: Vec<StagedRecord<A::Record<'a>>>,
    undecodable: Option<Undecodable>,
    /// Keys whose rows the table does not hold, each once, unsorted.
    pub missing: Vec<A::Key>,
}

/// A record, and the place of its row.
struct StagedRecord<R> {
    record: R,
    place: usize,
}

/// Aligned, so that a row takes as few lines of the processor's cache as it can.
#[derive(Clone, Debug)]
#[repr(align(64))]
struct Place<R> {
    row: Option<R>,
    /// The transaction that changed the row last; 0 if none of this table did.
    changed_in: u64,
}

/// The rows of one partition, and the place it stands at.
pub struct Table<A: Application> {
    application: Arc<A>,
    share: Share,
    /// Memory for rows, in bytes.
    row_bytes: u64,
    rows: Places<A::Key, Place<A::Row>>,
    /// The rows that the open transaction has changed.
    changed: Vec<(A::Key, usize)>,
    /// Keys whose forgotten rows leave the store with the open transaction.
    collected: Vec<A::Key>,
    /// None if records number themselves.
    producers: Producers,
    /// Where the table stands; ahead of what is committed.
    at: Checkpoint,
    /// The open transaction, counted from 1.
    number: u64,
    tally: Tally<A::Tally>,
    batches: u64,
    /// Memory of the last transaction, until it is committed.
    sealed_bytes: u64,
    /// Memory of the last batch's records, for the next.
    spare: Vec<StagedRecord<A::Record<'static>>>,
}

/// Why a record is not folded.
enum Refusal<R> {
    Misrouted,
    Of(R),
}

impl<A: Application> Table<A> {
    /// Bytes of memory that one row takes, without its key.
    pub const PLACE_BYTES: usize = size_of::<Place<A::Row>>();

    /// The table of a store that stands at `at` and has no producers. About `row_bytes` of memory are for rows.
    ///
    /// # Panics
    /// If batches are stamped, and some are folded: then the store has producers, and [`Table::over`] reads them.
    pub fn new(application: Arc<A>, share: Share, row_bytes: u64, at: Checkpoint) -> Self {
        assert!(!Self::IS_STAMPED || at.position == 0, "producers are read from the store");
        Self::with(application, share, row_bytes, at, Producers::default())
    }

    fn with(application: Arc<A>, share: Share, row_bytes: u64, at: Checkpoint, producers: Producers) -> Self {
        Self {
            application,
            share,
            row_bytes,
            rows: Places::default(),
            changed: Vec::new(),
            collected: Vec::new(),
            producers,
            at,
            number: 1,
            tally: Tally::default(),
            batches: 0,
            sealed_bytes: 0,
            spare: Vec::new(),
        }
    }

    /// The position of the last batch folded.
    pub fn position(&self) -> Position {
        self.at.position
    }

    /// Where it stands; marks are those of the last commit.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.at
    }

    /// The number of the open transaction.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Batches in the open transaction.
    pub fn open_batches(&self) -> u64 {
        self.batches
    }

    /// Decodes a batch and finds the rows of its records.
    pub fn stage<'a>(&mut self, payload: &'a [u8]) -> Staged<'a, A> {
        let application = self.application.clone();
        let mut records = emptied(std::mem::take(&mut self.spare));
        let (mut undecodable, mut missing) = (None, Vec::new());
        // An empty batch of a producer says that it has begun, and nothing else.
        if Self::IS_STAMPED && payload.is_empty() {
            return Staged { records, undecodable, missing };
        }
        for record in application.records(payload) {
            match record {
                Ok(record) => {
                    let key = application.key(&record);
                    let place = match self.rows.place_of(key) {
                        Some(place) => place,
                        None => self.make_place(key, &mut missing),
                    };
                    records.push(StagedRecord { record, place });
                }
                Err(error) => {
                    records.clear();
                    undecodable = Some(error);
                    if !crate::planted!("what-follows-an-undecodable-record-is-folded") {
                        break;
                    }
                }
            }
        }
        Staged { records, undecodable, missing }
    }

    /// A place for the row of a key that is not held.
    fn make_place(&mut self, key: &<A::Key as Key>::Ref, missing: &mut Vec<A::Key>) -> usize {
        let ours = A::Key::partition(key, self.share.partitions) == self.share.partition;
        let key = key.to_owned();
        if ours {
            missing.push(key.clone());
        }
        let changed_in = if ours { 0 } else { MISROUTED };
        self.rows.insert(key, Place { row: None, changed_in })
    }

    /// The row of a key that [`Table::stage`] found missing, as the store has it.
    pub fn supply(&mut self, key: &A::Key, row: A::Row) {
        let place = self.rows.get_mut(key).expect("only rows that were staged are supplied");
        if !crate::planted!("rows-of-the-store-are-not-seen") {
            place.row = Some(row);
        }
    }

    /// Folds a staged batch.
    ///
    /// # Panics
    /// If `batch` is not the one after the last: a fold with a hole is no fold, so whoever pulls must know.
    pub fn fold(&mut self, batch: &Batch, staged: Staged<'_, A>) -> Folded<A> {
        assert_eq!(batch.position, self.at.position + 1, "positions are dense");
        self.at.step(batch.time, self.application.longest_step());
        self.batches += 1;
        if Self::IS_STAMPED
            && let Some(folded) = self.unfolded(batch, &staged)
        {
            self.spare = emptied(staged.records);
            self.tally.add(&folded.tally);
            return folded;
        }

        let mut folded = Folded { outputs: Vec::new(), rejected: None, loss: None, tally: Tally::default() };
        let mut rejections = Rejections::default();
        if let Some(undecodable) = staged.undecodable {
            rejections.add(undecodable.index, refused::UNDECODABLE);
        }
        folded.tally.records = staged.records.len() as u64;
        for (index, StagedRecord { record, place }) in staged.records.iter().enumerate() {
            if let Some(next) = staged.records.get(index + AHEAD) {
                prefetch(&self.rows[next.place]);
            }
            match self.fold_record(*place, record, &mut folded) {
                Ok(()) => {}
                Err(Refusal::Misrouted) => rejections.add(index, refused::MISROUTED),
                Err(Refusal::Of(reason)) => {
                    rejections.add(index, reason.into());
                    if let Some(loss) = self.application.loss(reason, record) {
                        folded.loss.get_or_insert(loss);
                        folded.tally.losses += 1;
                    }
                }
            }
        }
        self.spare = emptied(staged.records);
        if !rejections.is_empty() {
            folded.tally.rejected = rejections.count();
            let payload = batch.payload.clone();
            folded.rejected = Some(RejectedBatch { position: batch.position, payload, rejections });
        }
        self.tally.add(&folded.tally);
        folded
    }

    fn fold_record(
        &mut self,
        index: usize,
        record: &A::Record<'_>,
        folded: &mut Folded<A>,
    ) -> Result<(), Refusal<A::Reason>> {
        let (application, now) = (&*self.application, self.at.log_time);
        let place = &mut self.rows[index];
        if place.changed_in == MISROUTED && !crate::planted!("misrouted-records-are-folded") {
            return Err(Refusal::Misrouted);
        }
        let (was_there, was_live) = match &place.row {
            None => (false, false),
            Some(row) => {
                let is_there = !application.is_expired(row, now) || crate::planted!("expired-rows-are-there");
                (is_there, application.is_live(row))
            }
        };
        let mut changed = false;
        let slot = Slot::new(&mut place.row, was_there, &mut changed);
        let log = (self.share.partition, self.at.log_born);
        let mut cx = Cx::new(now, self.at.position, &mut folded.tally.own, &mut folded.outputs, log);
        let result = application.fold(slot, record, &mut cx);
        if changed {
            // Most records change neither: branches are cheaper here than sums.
            let is_live = place.row.as_ref().is_some_and(|row| application.is_live(row));
            if is_live != was_live {
                // A store that was restored brings its own count: one that is wrong must stop nobody.
                self.at.live = self.at.live.saturating_add(u64::from(is_live)).saturating_sub(u64::from(was_live));
            }
            if !was_there {
                folded.tally.opened += 1;
            }
            if place.changed_in != self.number
                && !(crate::planted!("a-second-change-is-not-committed") && place.changed_in > 0)
            {
                place.changed_in = self.number;
                self.changed.push((application.key(record).to_owned(), index));
            }
        }
        result.map_err(Refusal::Of)
    }

    /// Ends the open transaction and begins the next: what has changed, to be committed once its effects are confirmed. `None`
    /// if nothing was folded since the last. `committed` is the last transaction that the store has, and `stored` are rows that
    /// it had then, to be collected if they are forgotten.
    pub fn seal(&mut self, committed: u64, stored: &[(A::Key, A::Row)]) -> Option<Transaction<A>> {
        if self.batches == 0 {
            return None;
        }
        self.collect(stored);
        let changed = std::mem::take(&mut self.changed);
        let rows = changed.iter().enumerate().map(|(n, (key, place))| {
            if let Some((_, next)) = changed.get(n + AHEAD) {
                prefetch(&self.rows[*next]);
            }
            let row = self.rows[*place].row.as_ref().expect("only rows change");
            (key.clone(), row.clone())
        });
        let left_out = usize::from(crate::planted!("a-seal-leaves-out-the-last-row"));
        let rows: Vec<_> = rows.take(changed.len() - left_out.min(changed.len())).collect();
        self.sealed_bytes = size_of_val(rows.as_slice()) as u64;
        let number = self.number;
        self.number += 1;
        self.batches = 0;
        let (collected, tally) = (std::mem::take(&mut self.collected), std::mem::take(&mut self.tally));
        let producers = self.producers.take_changed();
        self.evict(self.row_bytes, committed);
        Some(Transaction { number, rows, collected, producers, checkpoint: self.at, tally })
    }

    /// Lets rows that are forgotten leave the store with the open transaction. `stored` are rows as the last committed
    /// transaction left them, each once. A row that was changed since is held, and that version decides.
    ///
    /// Nothing depends on when this is done, or whether: a forgotten row is no row.
    fn collect(&mut self, stored: &[(A::Key, A::Row)]) {
        let (application, now) = (&*self.application, self.at.log_time);
        for (key, row) in stored {
            let was_live = match self.rows.get_mut(key) {
                None if application.is_forgotten(row, now) => {
                    // Held as absent until this is committed: till then the store still has it.
                    self.rows.insert(key.clone(), Place { row: None, changed_in: self.number });
                    application.is_live(row)
                }
                Some(Place { row: held @ Some(_), changed_in })
                    if *changed_in != self.number || crate::planted!("rows-that-have-changed-are-collected") =>
                {
                    match held.take_if(|row| application.is_forgotten(row, now)) {
                        None => continue,
                        Some(row) => {
                            *changed_in = self.number;
                            application.is_live(&row)
                        }
                    }
                }
                _ => continue,
            };
            self.at.live = self.at.live.saturating_sub(u64::from(was_live));
            self.collected.push(key.clone());
        }
    }
}

/// The memory of records that are no longer needed, for others. Collecting in place is what keeps it.
fn emptied<T, U>(mut records: Vec<StagedRecord<T>>) -> Vec<StagedRecord<U>> {
    records.clear();
    records.into_iter().map(|_| unreachable!("it is empty")).collect()
}

#[cfg(test)]
mod tests;
