//! Finals, rows, answers, snapshots, standings, and what is said in the group: the first byte says which of them the rest is.

#![no_main]

#[path = "../../tests/hostile/decoder.rs"]
#[allow(dead_code)]
mod decoder;

use jetfold::store::{Owner, snapshot};
use jetfold::testing::outside;
use jetfold::{Batch, Checkpoint, Row as _, Share, Table, WorkerStanding};
use libfuzzer_sys::fuzz_target;
use std::io::Write;
use std::sync::Arc;
use stream_sum::sum::answer::Answered;
use stream_sum::sum::codec::decode_final;
use stream_sum::sum::row::{Expiry, Row};
use stream_sum::sum::stream_id::StreamId;
use stream_sum::sum::{Rules, Summer};

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    match kind {
        b'f' => a_final(bytes),
        b'r' => a_row(bytes),
        b'a' => drop(serde_json::from_slice::<Answered>(bytes)),
        b's' => drop(serde_json::from_slice::<WorkerStanding>(bytes)),
        b'z' => a_snapshot(bytes),
        // What is within the frame: hardly ever would a fuzzer find one that can be unpacked.
        b'w' => a_snapshot(&framed(bytes)),
        b'p' => assert!(outside::producer_row(bytes).is_none_or(|again| again == bytes)),
        b't' => drop(outside::told(bytes).map(|again| assert_eq!(outside::told(&again), Some(again.clone())))),
        b'g' => a_group(bytes),
        _ => {}
    }
});

fn a_final(bytes: &[u8]) {
    let found = decode_final(bytes).ok().map(|sum| (*sum.id.as_bytes(), sum.seq_no.get(), sum.value.0));
    assert_eq!(found, decoder::final_of(bytes));
}

/// Eighty bytes of a batch of chunks that is folded on the row, and the row.
fn a_row(bytes: &[u8]) {
    let (batch, row) = bytes.split_at(bytes.len().min(80));
    let Some(row) = Row::decode(row) else { return };
    let mut again = Vec::new();
    row.encode(&mut again);
    assert_eq!(again, bytes[bytes.len().min(80)..]);
    let rules = Rules { max_chunk_bytes: 64, expiry: Expiry { idle: 1 << 40, completed: 1 << 41 } };
    let share = Share { partition: 0, partitions: 1 };
    let mut table = Table::new(Arc::new(Summer::new(rules)), share, u64::MAX, Checkpoint::start_of(1));
    let batch = Batch { position: 1, time: 1 << 42, payload: batch.to_vec().into(), stamp: None };
    let mut staged = table.stage(&batch.payload);
    for id in std::mem::take(&mut staged.missing) {
        table.supply(&id, row.clone());
    }
    table.fold(&batch, staged);
    let transaction = table.seal(0, &[]).expect("a batch was folded");
    transaction.rows.iter().for_each(|(id, row)| drop((format!("{row:?}"), row.final_sum(*id))));
}

const MAGIC: &[u8] = b"stream-sum snapshot\n";

fn framed(bytes: &[u8]) -> Vec<u8> {
    let mut frame = zstd::Encoder::new(MAGIC.to_vec(), 1).expect("a frame begins");
    frame.write_all(bytes).expect("a Vec takes every write");
    frame.finish().expect("a frame ends")
}

fn a_snapshot(bytes: &[u8]) {
    let owner = Owner { log: "chunks-0".to_owned(), partition: 0, partitions: 1 };
    let checkpoint = Checkpoint { position: 7, ..Checkpoint::start_of(11) };
    if let Ok(reading) = snapshot::read::<_, Summer>(bytes, &owner, &checkpoint) {
        let mut last: Option<StreamId> = None;
        for (id, _) in reading.map_while(Result::ok) {
            assert!(last.is_none_or(|last| last < id), "rows are in order");
            last = Some(id);
        }
    }
}

/// Entries, each behind its length in one byte.
fn a_group(bytes: &[u8]) {
    const PARTITIONS: u32 = 8;
    let mut entries = Vec::new();
    let mut rest = bytes;
    while let Some((len, behind)) = rest.split_first() {
        let (entry, behind) = behind.split_at(usize::from(*len).min(behind.len()));
        entries.push((format!("member-{}", entries.len() % 5), entry));
        rest = behind;
    }
    let remembered = outside::group(PARTITIONS, entries);
    assert!(remembered.members <= 5 && remembered.claimed <= PARTITIONS as usize, "{remembered:?}");
}
