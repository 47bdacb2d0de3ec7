//! What else is decoded of what others have put: finals, rows, answers and snapshots.

use crate::decoder;
use crate::dice::{Dice, messages};
use crate::forge::{Forge, chunk};
use crate::heap;
use crate::partition::RULES;
use jetfold::store::snapshot::{self, SnapshotError};
use jetfold::store::{Owner, Store};
use jetfold::testing::outside;
use jetfold::{Batch, Checkpoint, FoldTally, Row as _, Share, Table, Transaction};
use std::io::{Cursor, Read, Write};
use std::sync::Arc;
use stream_sum::sum::Summer;
use stream_sum::sum::answer::{Answered, Found};
use stream_sum::sum::chunk::{Chunk, SeqNo};
use stream_sum::sum::codec::{decode_final, encode_final};
use stream_sum::sum::row::Row;
use stream_sum::sum::running::{RunningSum, Sum, Value};
use stream_sum::sum::stream_id::StreamId;

/// Changes bytes as a disk, a link and somebody with a purpose would.
fn harm(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..=dice.below(3) {
        let at = dice.below(bytes.len());
        match dice.below(8) {
            0 => bytes.truncate(at),
            1 => bytes.push(dice.byte()),
            2 => bytes.insert(at, dice.byte()),
            3 => bytes.splice(at..at, [0xdd, 0xff, 0xff, 0xff, 0xff]).for_each(drop),
            // Numbers at their ends.
            4 => {
                let byte = dice.of_these(&[0, 0x7f, 0x80, 0xff]);
                bytes.iter_mut().skip(at).take(8).for_each(|changed| *changed = byte);
            }
            5 if at < bytes.len() => bytes[at] = dice.byte(),
            _ if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            _ => {}
        }
    }
}

pub fn live(data: &[u8]) -> RunningSum {
    RunningSum::open(&Chunk { id: StreamId::new([1; 16]), seq_no: SeqNo::FIRST, data })
}

#[test]
fn a_final_is_taken_or_refused_as_by_a_decoder_of_its_own() {
    let mut forge = Forge::new(Dice::of(6));
    let mut taken = 0;
    for _ in 0..messages(100_000) {
        let id = StreamId::new(forge.dice.bytes(16).try_into().unwrap());
        let seq_no = SeqNo::new(forge.dice.any() >> forge.dice.below(64)).unwrap_or(SeqNo::FIRST);
        let value = Value(forge.dice.bytes(20).try_into().unwrap());
        let mut payload = encode_final(&Sum { id, seq_no, value });
        match forge.dice.below(8) {
            0 => {}
            1 => payload = forge.batch(),
            2 => payload.extend(forge.batch()),
            _ => harm(&mut forge.dice, &mut payload),
        }
        forge.dice.is_sent(&payload);
        let (found, largest) = heap::largest(|| decode_final(&payload).ok());
        let found = found.map(|sum| (*sum.id.as_bytes(), sum.seq_no.get(), sum.value.0));
        assert_eq!(found, decoder::final_of(&payload));
        assert_eq!(largest, 0, "a final is read where it lies");
        taken += u64::from(found.is_some());
    }
    assert!(taken > messages(100_000) / 8, "{taken} are finals");
}

#[test]
fn a_row_that_somebody_has_changed_is_refused_or_folds_on() {
    let mut dice = Dice::of(7);
    let mut taken = 0;
    for _ in 0..messages(100_000) {
        let len = dice.below(130);
        let data = dice.bytes(len);
        let seq_no = SeqNo::new(dice.any() >> dice.below(64)).unwrap_or(SeqNo::FIRST);
        let changed_at = dice.any().cast_signed() >> dice.below(64);
        let row = match dice.below(4) {
            0 => Row::Broken { seq_no, changed_at },
            1 => Row::Completed { seq_no, value: live(&data).value(), changed_at },
            _ => Row::Live { sum: live(&data), changed_at },
        };
        let mut bytes = Vec::new();
        row.encode(&mut bytes);
        harm(&mut dice, &mut bytes);
        dice.is_sent(&bytes);
        let Some(row) = Row::decode(&bytes) else { continue };
        taken += 1;
        let mut again = Vec::new();
        row.encode(&mut again);
        assert_eq!(again, bytes, "a row has one form");
        folds_on(row);
    }
    assert!(taken > messages(100_000) / 8, "{taken} are rows");
}

/// Folds chunks on a row: those around its number, and the last there could be.
fn folds_on(row: Row) {
    let id = [1; 16];
    let at = match &row {
        Row::Live { sum, .. } => sum.seq_no().get(),
        Row::Broken { seq_no, .. } | Row::Completed { seq_no, .. } => seq_no.get(),
    };
    let mut batch = Vec::new();
    for (number, len) in [(at, 1), (at.wrapping_add(1).max(1), 64), (at.wrapping_add(2).max(1), 0), (u64::MAX, 3)] {
        chunk(&mut batch, &id, number, len);
    }
    let share = Share { partition: 0, partitions: 1 };
    let mut table = Table::new(Arc::new(Summer::new(RULES)), share, u64::MAX, Checkpoint::start_of(1));
    let batch = Batch { position: 1, time: 1, payload: batch.into(), stamp: None };
    let mut staged = table.stage(&batch.payload);
    for id in std::mem::take(&mut staged.missing) {
        table.supply(&id, row.clone());
    }
    let folded = table.fold(&batch, staged);
    assert_eq!(folded.tally.records, 4);
    if let Some(transaction) = table.seal(0, &[]) {
        transaction.rows.iter().for_each(|(id, row)| drop((format!("{row:?}"), row.final_sum(*id))));
    }
}

#[test]
fn an_answer_that_somebody_else_gives_is_one_or_none() {
    let mut dice = Dice::of(8);
    let sum = "da39a3ee5e6b4b0d3255bfef95601890afd80709".to_owned();
    for _ in 0..messages(20_000) {
        let stream = Found::Completed { seq_no: dice.any(), sum: sum.clone() };
        let mut answer = serde_json::to_vec(&Answered { position: dice.any(), stream }).unwrap();
        harm(&mut dice, &mut answer);
        if dice.one_in(100) {
            answer = b"[".repeat(1 + dice.below(100_000));
        }
        dice.is_sent(&answer);
        let (_, largest) = heap::largest(|| serde_json::from_slice::<Answered>(&answer).ok());
        assert!(largest < (8 << 10) + 2 * answer.len(), "{largest} bytes for {}", answer.len());
    }
}

pub fn owner() -> Owner {
    Owner { log: "chunks-0".into(), partition: 0, partitions: 1 }
}

pub fn rows() -> Vec<(StreamId, Row)> {
    let row = |n: u8| match n % 3 {
        0 => Row::Broken { seq_no: SeqNo::FIRST, changed_at: 1 },
        1 => Row::Live { sum: live(&[n]), changed_at: 2 },
        _ => Row::Completed { seq_no: SeqNo::FIRST, value: live(&[n]).value(), changed_at: 3 },
    };
    (0..24).map(|n| (StreamId::new([n; 16]), row(n))).collect()
}

#[test]
fn a_snapshot_that_somebody_has_changed_is_damaged_or_the_same_and_takes_the_memory_of_one_row() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::<Summer>::open(folder.path(), &owner(), 1 << 20).unwrap();
    let checkpoint = Checkpoint { position: 7, ..Checkpoint::start_of(11) };
    let (number, collected, producers, tally) = (1, Vec::new(), Vec::new(), FoldTally::default());
    store.commit(&Transaction { number, rows: rows(), collected, producers, checkpoint, tally }).unwrap();
    let mut whole = Vec::new();
    snapshot::write(&store.view().unwrap(), &owner(), &mut whole).unwrap();
    let magic = b"stream-sum snapshot\n".len();
    let mut within = Vec::new();
    zstd::Decoder::new(&whole[magic..]).unwrap().read_to_end(&mut within).unwrap();

    let mut dice = Dice::of(9);
    let (mut damaged, mut same) = (0, 0);
    for _ in 0..messages(10_000) {
        let mut bytes = whole.clone();
        if dice.one_in(2) {
            harm(&mut dice, &mut bytes);
        } else {
            // By somebody who packs it again: then no checksum of the whole speaks against it.
            let mut changed = within.clone();
            harm(&mut dice, &mut changed);
            bytes.truncate(magic);
            let mut frame = zstd::Encoder::new(&mut bytes, 1).unwrap();
            frame.write_all(&changed).unwrap();
            frame.finish().unwrap();
        }
        dice.is_sent(&bytes);
        let read = || -> Result<Vec<_>, SnapshotError> {
            snapshot::read::<_, Summer>(Cursor::new(&bytes), &owner(), &checkpoint)?.collect()
        };
        let (found, largest) = heap::largest(read);
        // A row's length is believed up to 16 MiB.
        assert!(largest < 18 << 20, "{largest} bytes at once");
        match found {
            Ok(found) => {
                assert_eq!(found, rows());
                same += 1;
            }
            Err(_) => damaged += 1,
        }
    }
    println!("{damaged} snapshots are damaged, and {same} the same");
    assert!(damaged > messages(10_000) / 2);
}

#[test]
fn what_is_said_of_producers_and_in_the_group_is_taken_or_not_and_remembered_within_bounds() {
    let mut dice = Dice::of(10);
    let edges = [0, 1, 7, 8, u64::MAX];
    for _ in 0..messages(2_000) {
        let entries: Vec<_> = (0..20)
            .map(|_| {
                let many = dice.below(10);
                let partitions: Vec<u32> = (0..many).map(|_| dice.any() as u32 >> (dice.below(4) * 8)).collect();
                let mut entry = outside::entry(dice.of_these(&edges), partitions, dice.of_these(&edges));
                if dice.one_in(2) {
                    harm(&mut dice, &mut entry);
                }
                (format!("made-up-{}", dice.below(5)), entry)
            })
            .collect();
        let bytes: Vec<_> = entries.iter().flat_map(|(_, entry)| entry.clone()).collect();
        dice.is_sent(&bytes);
        let entries = entries.iter().map(|(name, entry)| (name.clone(), entry.as_slice()));
        let (remembered, largest) = heap::largest(|| outside::group(8, entries));
        assert!(remembered.members <= 5 && remembered.claimed <= 8, "{remembered:?}");
        // Of a list that is announced, a MiB is believed before it comes.
        assert!(largest <= 1 << 20, "{largest} bytes at once");
    }
    for _ in 0..messages(50_000) {
        let mut row = vec![1 + dice.byte() % 2];
        row.extend(dice.bytes(32));
        let mut told = format!("{} shop {} {} {}", dice.any(), dice.any(), dice.any(), dice.any()).into_bytes();
        harm(&mut dice, &mut row);
        harm(&mut dice, &mut told);
        dice.is_sent(&told);
        assert!(outside::producer_row(&row).is_none_or(|again| again == row), "a row has one form");
        if let Some(again) = outside::told(&told) {
            assert_eq!(outside::told(&again), Some(again));
        }
    }
}
