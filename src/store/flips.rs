//! What a disk may do to a store: bits changed anywhere, and the end cut off.

use super::*;
use crate::chunk::{Chunk, SeqNo};
use crate::row::UnixNanos;
use crate::sum::RunningSum;
use crate::transaction::Tally;
use std::collections::BTreeMap;

type Rows = BTreeMap<StreamId, Row>;

/// A store's rows at each position that it has stood at: what it may hold, and nothing else.
type History = BTreeMap<u64, Rows>;

fn owner() -> Owner {
    Owner { log: "chunks-0".into(), partition: 0, partitions: 8 }
}

fn open(folder: &Path) -> Result<Store, StoreError> {
    // Next to no cache: what is read is read from the disk.
    Store::open(folder, &owner(), 0)
}

fn id(n: u32) -> StreamId {
    let mut bytes = [0; 16];
    // Far apart, so that new rows come between the others.
    bytes[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_be_bytes());
    StreamId::new(bytes)
}

fn row(n: u32, changed_at: UnixNanos) -> Row {
    let sum = RunningSum::open(&Chunk { id: id(n), seq_no: SeqNo::FIRST, data: &changed_at.to_le_bytes() });
    match n % 3 {
        0 => Row::Completed { seq_no: SeqNo::FIRST, value: sum.value(), changed_at },
        _ => Row::Live { sum, changed_at },
    }
}

/// Opens, changes and collects some rows each.
fn transaction(position: u64) -> Transaction {
    let first = u32::try_from(position).unwrap() * 60;
    let rows = (first - 20..first + 60).map(|n| (id(n), row(n, position.cast_signed()))).collect();
    Transaction {
        number: 1,
        rows,
        collected: (first - 40..first - 20).map(id).collect(),
        checkpoint: Checkpoint { position, ..Checkpoint::start_of(11) },
        tally: Tally::default(),
    }
}

fn commit(store: &Store, rows: &mut Rows, position: u64) -> Result<(), StoreError> {
    let transaction = transaction(position);
    store.commit(&transaction)?;
    rows.extend(transaction.rows);
    transaction.collected.iter().for_each(|id| _ = rows.remove(id));
    Ok(())
}

/// A store of a few commits, and what it has held after each.
fn made(folder: &Path) -> History {
    let store = open(folder).unwrap();
    let mut history = History::from([(0, Rows::new())]);
    let mut rows = Rows::new();
    store.begin(&Checkpoint::start_of(11)).unwrap();
    for position in 1..=6 {
        commit(&store, &mut rows, position).unwrap();
        history.insert(position, rows.clone());
    }
    history
}

/// Reads all rows, each once in a row and once by its ID: they are those of some position of the history. Looked up by its
/// ID, a row may be missed; it is never another one.
fn read(store: &Store, history: &History) -> Result<u64, StoreError> {
    let position = store.checkpoint()?.map_or(0, |checkpoint| checkpoint.position);
    let rows = &history[&position];
    let mut ids: Vec<_> = rows.keys().copied().collect();
    for (id, row) in store.rows(&mut ids)? {
        assert_eq!(rows[&id], row);
    }
    assert!(Rows::from_iter(store.rows_after(None, usize::MAX)?.0) == *rows, "other rows at {position}");
    Ok(position)
}

/// Opens a store, reads it, commits to it and reads it again, as far as it goes.
fn use_all(folder: &Path, history: &History) -> Result<(), StoreError> {
    let store = open(folder)?;
    let position = read(&store, history)?;
    let mut rows = history[&position].clone();
    commit(&store, &mut rows, position + 1)?;
    let now = History::from([(position + 1, rows)]);
    read(&store, &now)?;
    drop(store);
    read(&open(folder)?, &now)?;
    Ok(())
}

/// Either all is as it was, or the store is known to be damaged. Whether it is.
fn is_found_damaged(bytes: &[u8], history: &History) -> bool {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("chunks-0.redb"), bytes).unwrap();
    match use_all(folder.path(), history) {
        Ok(()) => false,
        Err(StoreError::Damaged { .. }) => true,
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn explore() {
    let folder = tempfile::tempdir().unwrap();
    let history = made(folder.path());
    let bytes = fs::read(folder.path().join("chunks-0.redb")).unwrap();
    let used: Vec<usize> =
        (0..bytes.len()).filter(|at| bytes[at & !0xfff..][..0x1000].iter().any(|b| *b != 0)).collect();
    let step: usize = std::env::var("STEP").ok().and_then(|t| t.parse().ok()).unwrap_or(997);
    let mut found = 0;
    let mut tried = 0;
    eprintln!("{} bytes, {} used", bytes.len(), used.len());
    for (n, at) in used.iter().enumerate() {
        let dense = *at < 320 || n % step == 0;
        if !dense {
            continue;
        }
        let mut flipped = bytes.clone();
        flipped[*at] ^= 1 << ((n * 7 / step.max(1) + *at) % 8);
        tried += 1;
        let began = std::time::Instant::now();
        let r = std::panic::catch_unwind(|| is_found_damaged(&flipped, &history));
        match r {
            Ok(f) => found += usize::from(f),
            Err(_) => eprintln!("FAILED at {at:#x}"),
        }
        if began.elapsed().as_millis() > 1500 {
            eprintln!("slow at {at:#x} {:?}", began.elapsed());
        }
    }
    eprintln!("{found} of {tried} found");
}
