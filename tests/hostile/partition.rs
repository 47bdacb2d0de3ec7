//! A partition: the table that a summer folds with, and as much of a store as it needs, with rows in the bytes that a file has of them.

use super::model::Outcome;
use jetfold::{Batch, Checkpoint, Row as _, Share, Table};
use std::collections::HashMap;
use std::sync::Arc;
use stream_sum::sum::row::{Expiry, Row};
use stream_sum::sum::stream_id::StreamId;
use stream_sum::sum::{Rules, Summer};

pub const MAX_CHUNK_BYTES: usize = 64;

/// Nothing expires: what time does is another test's.
pub const RULES: Rules =
    Rules { max_chunk_bytes: MAX_CHUNK_BYTES, expiry: Expiry { idle: i64::MAX, completed: i64::MAX } };

/// Rows that the table may hold from one transaction to the next.
pub const MOST_ROWS: u64 = 64;

/// Batches from one commit to the next.
pub const INTERVAL: u64 = 100;

/// The most bytes of the header in which a reject says what was wrong.
const HEADER_BYTES: usize = 4 << 10;

pub struct Partition {
    pub table: Table<Summer>,
    pub store: HashMap<StreamId, Vec<u8>>,
}

impl Partition {
    pub fn new(share: Share) -> Self {
        let application = Arc::new(Summer::new(RULES));
        let row_bytes = MOST_ROWS * Table::<Summer>::HELD_ROW_BYTES;
        let table = Table::new(application, share, row_bytes, Checkpoint::start_of(1));
        Self { table, store: HashMap::new() }
    }

    pub fn fold(&mut self, payload: Vec<u8>) -> Outcome {
        let batch = Batch { position: self.table.position() + 1, time: 1, payload: payload.into(), stamp: None };
        let mut staged = self.table.stage(&batch.payload);
        for id in std::mem::take(&mut staged.missing) {
            if let Some(row) = self.store.get(&id) {
                self.table.supply(&id, Row::decode(row).expect("what was stored comes back"));
            }
        }
        let folded = self.table.fold(&batch, staged);
        let rejected = folded.rejected.iter().flat_map(|rejected| {
            assert_eq!(rejected.payload, batch.payload, "a reject is the whole batch");
            assert_eq!(rejected.rejections.count(), folded.tally.rejected);
            let described = rejected.rejections.describe(HEADER_BYTES);
            assert!((1..=HEADER_BYTES).contains(&described.len()), "{} bytes of header", described.len());
            rejected.rejections.ranges().iter()
        });
        let rejected = rejected.flat_map(|range| (range.first..=range.last).map(|index| (index, range.reason)));
        let outcome = Outcome {
            records: folded.tally.records,
            opened: folded.tally.opened,
            duplicates: folded.tally.own.duplicates,
            bytes: folded.tally.own.bytes,
            rejected: rejected.collect(),
            finals: folded.outputs.iter().map(|sum| (*sum.id.as_bytes(), sum.seq_no.get(), sum.value.0)).collect(),
        };
        assert_eq!(folded.tally.own.completed, folded.outputs.len() as u64);
        if batch.position.is_multiple_of(INTERVAL) {
            self.commit();
        }
        outcome
    }

    /// Commits what was folded since the last commit, if anything was.
    pub fn commit(&mut self) {
        let committed = self.table.number() - 1;
        let Some(transaction) = self.table.seal(committed, &[]) else { return };
        for (id, row) in &transaction.rows {
            let mut bytes = Vec::new();
            row.encode(&mut bytes);
            self.store.insert(*id, bytes);
        }
        self.table.committed(transaction.number);
        let held = self.table.held_bytes() / Table::<Summer>::HELD_ROW_BYTES;
        assert!(held <= MOST_ROWS, "{held} rows are held after a commit");
    }
}
