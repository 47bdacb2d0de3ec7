//! What a chunk does to the row of its stream, case by case.

use crate::sum::codec::encode_chunk;
use crate::sum::*;
use bytes::Bytes;
use jetfold::Checkpoint;
use jetfold::UnixNanos;
use jetfold::{Batch, FoldTally};
use jetfold::{Share, Table};
use std::sync::Arc;

type Folded = jetfold::Folded<Summer>;

const HOUR: UnixNanos = 3_600_000_000_000;
const RULES: Rules = Rules { max_chunk_bytes: 16, expiry: Expiry { idle: HOUR, completed: 2 * HOUR } };

fn table(partition: u32, partitions: u32) -> Table<Summer> {
    Table::new(Arc::new(Summer::new(RULES)), Share { partition, partitions }, u64::MAX, Checkpoint::start_of(1))
}

fn id(n: u8) -> StreamId {
    StreamId::new([n; 16])
}

fn encode(chunks: &[(u8, u64, &[u8])]) -> Bytes {
    let mut payload = Vec::new();
    for (n, seq_no, data) in chunks {
        encode_chunk(&mut payload, &Chunk { id: id(*n), seq_no: SeqNo::new(*seq_no).unwrap(), data });
    }
    payload.into()
}

struct Log(Table<Summer>);

impl Log {
    fn new() -> Self {
        Self(table(0, 1))
    }

    fn at(&mut self, time: UnixNanos, payload: Bytes) -> Folded {
        let batch = Batch { position: self.0.position() + 1, time, payload, stamp: None };
        let staged = self.0.stage(&batch.payload);
        self.0.fold(&batch, staged)
    }

    fn chunks(&mut self, chunks: &[(u8, u64, &[u8])]) -> Folded {
        self.at(1, encode(chunks))
    }

    fn why(&mut self, chunks: &[(u8, u64, &[u8])]) -> String {
        self.chunks(chunks).rejected.map(|r| r.rejections.describe(4096)).unwrap_or_default()
    }
}

#[test]
fn a_stream_is_opened_extended_and_completed() {
    let mut log = Log::new();
    let folded = log.chunks(&[(1, 1, b"battery"), (2, 1, b""), (1, 2, b" horse"), (1, 3, b"")]);
    let finals: Vec<_> = folded.outputs.iter().map(|sum| (sum.id, sum.value.to_string())).collect();
    assert_eq!(
        finals,
        [
            (id(2), "da39a3ee5e6b4b0d3255bfef95601890afd80709".to_owned()),
            (id(1), "4b177dc1bb6960eddba2d012b9e29ef727b1d593".to_owned()),
        ]
    );
    let own = Tally { bytes: 13, completed: 2, duplicates: 0 };
    assert_eq!(folded.tally, FoldTally { records: 4, opened: 2, own, ..FoldTally::default() });
    assert_eq!(log.0.seal(0, &[]).unwrap().checkpoint.live, 0);
}

#[test]
fn duplicates_are_dropped_before_and_after_the_end() {
    let mut log = Log::new();
    let folded =
        log.chunks(&[(1, 1, b"a"), (1, 1, b"a"), (1, 2, b"b"), (1, 1, b"a"), (1, 3, b""), (1, 2, b"b"), (1, 3, b"")]);
    assert_eq!(folded.outputs.len(), 1);
    assert_eq!(folded.tally.own.duplicates, 4);
    assert_eq!(folded.rejected, None);
}

#[test]
fn every_reason_is_named() {
    let mut log = Log::new();
    assert_eq!(log.why(&[(1, 2, b"late")]), "0 unknown");
    assert_eq!(log.why(&[(1, 1, b"a"), (1, 3, b"c"), (1, 2, b"b"), (1, 4, b"")]), "1 gap; 2-3 broken");
    assert_eq!(log.why(&[(2, 1, b""), (2, 2, b"more")]), "1 after-end");
    assert_eq!(log.why(&[(3, 1, b"12345678901234567"), (3, 2, b"x")]), "0 oversized; 1 unknown");
    let undecodable = log.at(1, Bytes::from_static(b"\x93")).rejected.unwrap();
    assert_eq!(undecodable.rejections.describe(4096), "0 undecodable");
    let mut elsewhere = Log(table(1, 8));
    let misrouted: Vec<_> = (0..64).map(|n| (n, 1, b"".as_slice())).collect();
    let folded = elsewhere.chunks(&misrouted);
    assert!(folded.outputs.iter().all(|sum| sum.id.partition(8) == 1));
    assert_eq!(folded.rejected.unwrap().rejections.reasons(), "misrouted");
}

#[test]
fn a_batch_that_ends_undecodable_folds_nothing() {
    let mut log = Log::new();
    let mut payload = encode(&[(1, 1, b"a")]).to_vec();
    payload.push(0x93);
    assert_eq!(log.at(1, payload.into()).tally.opened, 0);
    assert_eq!(log.why(&[(1, 2, b"b")]), "0 unknown");
}

/// Messages that move the log's clock on by `by` in all, and say nothing of any stream.
fn pass(log: &mut Log, from: UnixNanos, by: UnixNanos) -> UnixNanos {
    let mut now = from;
    while now < from + by {
        now = (now + HOUR / 8).min(from + by);
        log.at(now, encode(&[(99, 2, b"of nobody")]));
    }
    now
}

#[test]
fn an_expired_row_is_no_row_and_says_for_a_while_that_it_was() {
    let mut log = Log::new();
    log.at(1, encode(&[(1, 1, b"a"), (2, 1, b"")]));
    let now = pass(&mut log, 1, HOUR);
    assert!(log.at(now, encode(&[(1, 1, b"a")])).rejected.is_none(), "not yet: a duplicate");
    let folded = log.at(now + 1, encode(&[(1, 2, b"b"), (2, 1, b"")]));
    assert_eq!(folded.rejected.unwrap().rejections.describe(99), "0 expired");
    assert_eq!(folded.tally.own.duplicates, 1, "completed rows have their own expiry");
    let now = pass(&mut log, now + 1, HOUR / 4);
    let folded = log.at(now, encode(&[(1, 2, b"b"), (3, 2, b"never opened")]));
    assert_eq!(folded.rejected.unwrap().rejections.describe(99), "0-1 unknown", "forgotten, collected or not");
    let now = pass(&mut log, now, 3 * HOUR / 4);
    let again = log.at(now, encode(&[(1, 1, b"a"), (2, 1, b"")]));
    assert_eq!(again.tally.opened, 2);
    assert_eq!(log.0.seal(0, &[]).unwrap().checkpoint.live, 1);
}

#[test]
fn no_step_of_a_clock_and_no_quiet_night_ends_a_stream() {
    for step in [2 * HOUR, 100 * HOUR, -50 * HOUR] {
        let mut log = Log::new();
        let start = 1000 * HOUR;
        log.at(start, encode(&[(1, 1, b"a"), (2, 1, b"")]));
        log.at(start + step, encode(&[(3, 1, b"c")]));
        let folded = log.at(start + step + 1, encode(&[(1, 2, b""), (2, 1, b""), (3, 2, b"")]));
        assert_eq!((folded.outputs.len(), folded.rejected), (2, None), "{step}");
        assert_eq!(folded.tally.own.duplicates, 1);
    }
}
