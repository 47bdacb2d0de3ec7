//! What a disk may do to a store: bits changed anywhere, and the end cut off.

use crate::sample::{Text, Texts};
use crate::store::*;
use crate::time::UnixNanos;
use crate::transaction::Tally;
use std::collections::BTreeMap;

type Rows = BTreeMap<[u8; 16], Text>;

/// A store's rows at each position that it has stood at: what it may hold, and nothing else.
type History = BTreeMap<u64, Rows>;

fn owner() -> Owner {
    Owner { log: "chunks-0".into(), partition: 0, partitions: 8 }
}

fn open(folder: &Path) -> Result<Store<Texts>, StoreError> {
    // Next to no cache: what is read is read from the disk.
    Store::open(folder, &owner(), 0)
}

fn id(n: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    // Far apart, so that new rows come between the others.
    bytes[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_be_bytes());
    bytes
}

fn row(n: u32, changed_at: UnixNanos) -> Text {
    Text::of(u64::from(n) << 32 | changed_at.cast_unsigned(), if n.is_multiple_of(3) { 37 } else { 109 })
}

/// Opens, changes and collects some rows each.
fn transaction(position: u64) -> Transaction<Texts> {
    let first = u32::try_from(position).unwrap() * 60;
    let rows = (first - 20..first + 60).map(|n| (id(n), row(n, position.cast_signed()))).collect();
    Transaction {
        number: 1,
        rows,
        collected: (first - 40..first - 20).map(id).collect(),
        producers: vec![],
        checkpoint: Checkpoint { position, ..Checkpoint::start_of(11) },
        tally: Tally::default(),
    }
}

fn commit(store: &Store<Texts>, rows: &mut Rows, position: u64) -> Result<(), StoreError> {
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

/// Reads all rows, each once in a row and once by its key: they are those of some position of the history. Looked up by its
/// key, a row may be missed; it is never another one.
fn read(store: &Store<Texts>, history: &History) -> Result<u64, StoreError> {
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

/// The bytes of a store's file, and what it has held.
fn sound() -> (Vec<u8>, History) {
    let folder = tempfile::tempdir().unwrap();
    let history = made(folder.path());
    (fs::read(folder.path().join("chunks-0.redb")).unwrap(), history)
}

/// Where the pages begin that hold anything.
fn pages(bytes: &[u8]) -> impl Iterator<Item = usize> {
    (0..bytes.len()).step_by(PAGE).filter(|at| bytes[*at..][..PAGE].iter().any(|byte| *byte != 0))
}

const PAGE: usize = 4096;

#[test]
fn wherever_a_bit_is_flipped_the_rows_are_what_they_were_or_the_store_is_damaged() {
    let (bytes, history) = sound();
    // All of the header, and some of each page.
    let header = (0..320).step_by(2);
    let others = pages(&bytes).flat_map(|page| [0, 1, 3, 9, 130, 700, 1500, 2400, 3300].map(|at| page + at));
    let found = header.chain(others).enumerate().filter(|(n, at)| {
        let mut flipped = bytes.clone();
        flipped[*at] ^= 1 << (n % 8);
        is_found_damaged(&flipped, &history)
    });
    assert!(found.count() > 50, "some of it counts");
}

#[test]
fn wherever_a_store_is_cut_or_a_sector_or_page_is_gone_the_rows_are_what_they_were_or_it_is_damaged() {
    let (bytes, history) = sound();
    for len in (1..bytes.len()).step_by(bytes.len() / 16) {
        assert!(is_found_damaged(&bytes[..len], &history), "cut to {len}");
    }
    for (n, page) in pages(&bytes).enumerate() {
        for (at, len) in [(page, PAGE), (page + n % 8 * 512, 512)] {
            let mut gone = bytes.clone();
            gone[at..at + len].fill(0);
            is_found_damaged(&gone, &history);
        }
    }
}

#[test]
fn each_bit_of_a_row_counts() {
    let (bytes, history) = sound();
    let rows = history.values().last().unwrap();
    for (n, (id, row)) in rows.iter().enumerate().step_by(11) {
        let mut encoded = Vec::new();
        sealed::seal::<Texts>(id, row, &mut encoded);
        let places: Vec<_> = (0..bytes.len() - encoded.len()).filter(|at| bytes[*at..].starts_with(&encoded)).collect();
        assert!(!places.is_empty());
        let mut flipped = bytes.clone();
        places.iter().for_each(|at| flipped[at + n % encoded.len()] ^= 1 << (n % 8));
        assert!(is_found_damaged(&flipped, &history), "{id:?}: byte {}", n % encoded.len());
    }
}
