//! The table under a small application: counters that expire.

use crate::application::{self, Input, Output};
use crate::table::*;
use crate::time::LogTime;
use bytes::Bytes;

/// A record is one byte, which is its key: below 100 it adds one, and from 100 on it looks only.
#[derive(Clone, Debug, PartialEq)]
struct Counters;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Count {
    times: u64,
    at: LogTime,
}

/// How long a count is remembered, and how long it is told that it was.
const EXPIRES: LogTime = 100;
const FORGOTTEN: LogTime = 150;

impl application::Row for Count {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.times.to_le_bytes());
        out.extend_from_slice(&self.at.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (times, at) = bytes.split_first_chunk()?;
        Some(Self { times: u64::from_le_bytes(*times), at: LogTime::from_le_bytes(at.try_into().ok()?) })
    }
}

impl Output for u64 {
    fn subject(&self, subject: &mut String) {
        subject.push_str(&self.to_string());
    }

    fn encode(&self, payload: &mut Vec<u8>) {
        payload.push(*self as u8);
    }
}

impl Application for Counters {
    const NAME: &'static str = "counters";
    const INPUT: Input = Input::Own;

    type Key = u64;
    type Row = Count;
    type Record<'a> = u64;
    type Output = u64;
    type Reason = &'static str;
    type Tally = ();

    fn records(&self, payload: &[u8]) -> impl Iterator<Item = Result<u64, Undecodable>> {
        payload.iter().map(|byte| Ok(u64::from(*byte)))
    }

    fn key<'r>(&self, record: &'r u64) -> &'r u64 {
        record
    }

    fn fold(&self, slot: Slot<'_, Count>, record: &u64, cx: &mut Cx<'_, Self>) -> Result<(), &'static str> {
        if *record >= 100 {
            let was_known = slot.expired().is_some_and(|count| !self.is_forgotten(count, cx.now));
            return Err(if was_known { "expired" } else { "unknown" });
        }
        let times = slot.get().map_or(0, |count| count.times) + 1;
        cx.put_out(times);
        slot.set(Count { times, at: cx.now });
        Ok(())
    }

    fn is_expired(&self, row: &Count, now: LogTime) -> bool {
        now - row.at > EXPIRES
    }

    fn is_forgotten(&self, row: &Count, now: LogTime) -> bool {
        now - row.at > FORGOTTEN
    }

    fn loss(&self, reason: &'static str, record: &u64) -> Option<String> {
        (*record == 255).then(|| format!("{reason}: all is lost"))
    }
}

struct Log {
    table: Table<Counters>,
    stored: Vec<(u64, Count)>,
}

impl Log {
    fn new() -> Self {
        let share = Share { partition: 0, partitions: 1 };
        Self { table: Table::new(Arc::new(Counters), share, u64::MAX, Checkpoint::start_of(1)), stored: Vec::new() }
    }

    /// Folds a message with the rows that the store has.
    fn at(&mut self, time: LogTime, payload: &[u8]) -> Folded<Counters> {
        let batch =
            Batch { position: self.table.position() + 1, time, payload: Bytes::copy_from_slice(payload), stamp: None };
        let staged = self.table.stage(&batch.payload);
        for (key, row) in self.stored.iter().filter(|(key, _)| staged.missing.contains(key)) {
            self.table.supply(key, *row);
        }
        self.table.fold(&batch, staged)
    }

    fn live(&mut self) -> u64 {
        self.table.at.live
    }
}

fn keys(transaction: &Transaction<Counters>) -> Vec<u64> {
    transaction.rows.iter().map(|(key, _)| *key).collect()
}

#[test]
fn a_transaction_holds_what_changed_and_nothing_else() {
    let mut log = Log::new();
    assert_eq!(log.table.seal(0, &[]), None);
    assert_eq!(log.at(1, &[2, 1, 2]).outputs, [1, 1, 2]);
    let first = log.table.seal(0, &[]).unwrap();
    assert_eq!(keys(&first), [2, 1], "each once, in the order of their first change");
    assert_eq!((first.number, first.checkpoint.position, first.checkpoint.live), (1, 1, 2));
    log.at(1, &[2, 101]);
    let second = log.table.seal(0, &[]).unwrap();
    assert_eq!((keys(&second), second.number), (vec![2], 2));
    assert_eq!((second.tally.records, second.tally.rejected, second.tally.opened), (2, 1, 0));
}

#[test]
fn what_is_rejected_is_named_and_of_losses_the_first() {
    let folded = Log::new().at(1, &[1, 101, 255, 255]);
    assert_eq!(folded.rejected.unwrap().rejections.describe(99), "1-3 unknown");
    assert_eq!((folded.loss.as_deref(), folded.tally.losses), (Some("unknown: all is lost"), 2));
}

#[test]
fn a_key_of_another_partition_is_rejected_whatever_its_record_says() {
    let share = Share { partition: 1, partitions: 2 };
    let mut table = Table::new(Arc::new(Counters), share, u64::MAX, Checkpoint::start_of(1));
    let payload = Bytes::from((0..100).collect::<Vec<u8>>());
    let staged = table.stage(&payload);
    assert!(staged.missing.iter().all(|key| u64::partition(key, 2) == 1));
    let ours = staged.missing.len();
    let folded = table.fold(&Batch { position: 1, time: 1, payload: payload.clone(), stamp: None }, staged);
    assert_eq!((folded.outputs.len(), folded.tally.rejected), (ours, 100 - ours as u64));
    assert_eq!(folded.rejected.unwrap().rejections.reasons(), "misrouted");
}

#[test]
fn rows_that_are_not_committed_are_never_let_go() {
    let mut log = Log::new();
    log.table.row_bytes = 0;
    log.at(1, &[1, 2]);
    log.table.seal(0, &[]);
    assert_eq!(log.table.held_bytes(), 2 * Table::<Counters>::HELD_ROW_BYTES);
    assert!(log.table.sealed_bytes() > 2 * 16, "and the copy that is being committed counts as well");
    assert!(log.table.is_crowded());
    log.table.committed(1);
    assert_eq!((log.table.sealed_bytes(), log.table.held_bytes()), (0, 0));
    assert!(!log.table.is_crowded());
}

#[test]
fn forgotten_rows_are_collected_unless_they_live_again() {
    let mut log = Log::new();
    log.table.row_bytes = 0;
    log.at(1, &[1, 2, 3, 4]);
    log.stored = log.table.seal(0, &[]).unwrap().rows;
    log.table.committed(1);
    let stored = log.stored.clone();
    log.at(1 + EXPIRES + 1, &[99]);
    assert!(log.table.seal(1, &stored).unwrap().collected.is_empty(), "they say still that they were");
    log.table.committed(2);
    // 2 is counted again; the others are not.
    log.at(1 + FORGOTTEN + 1, &[2]);
    let transaction = log.table.seal(2, &stored).unwrap();
    assert_eq!((&transaction.collected[..], &keys(&transaction)[..]), (&[1, 3, 4][..], &[2][..]));
    assert_eq!(transaction.checkpoint.live, 2, "2, and 99");
    // Whoever is counted, and forgotten by the end of the same transaction, is not collected with it.
    let mut other = Log::new();
    other.at(1, &[1]);
    let old = other.table.seal(0, &[]).unwrap().rows;
    other.table.committed(1);
    other.at(1 + FORGOTTEN + 1, &[1]);
    other.at(2 + 2 * (FORGOTTEN + 1), &[2]);
    let transaction = other.table.seal(1, &old).unwrap();
    assert_eq!((keys(&transaction), transaction.collected), (vec![1, 2], vec![]));
    // Until that is committed the store still has them, and whoever is counted again begins anew.
    assert_eq!(log.at(1 + FORGOTTEN + 1, &[1]).outputs, [1]);
    assert_eq!(log.live(), 3);
    let again = log.table.seal(2, &stored).unwrap();
    assert_eq!((keys(&again), again.collected), (vec![1], vec![]), "what was collected is not collected again");
}
