//! What a store keeps, and what it refuses.

use crate::checkpoint::Mark;
use crate::sample::{Text, Texts};
use crate::store::*;
use crate::transaction::Tally;

fn owner() -> Owner {
    Owner { log: "chunks-0".into(), partition: 0, partitions: 8 }
}

fn open(folder: &Path) -> Result<Store<Texts>, StoreError> {
    Store::open(folder, &owner(), 1 << 20)
}

fn transaction() -> Transaction<Texts> {
    let outputs = Some(Mark { created: 5, sequence: 6, time: 7 });
    Transaction {
        number: 1,
        rows: vec![([1; 16], Text::of(1, 109)), ([2; 16], Text::of(2, 17)), ([3; 16], Text::of(3, 37))],
        collected: Vec::new(),
        producers: vec![],
        checkpoint: Checkpoint { position: 7, live: 1, outputs, ..Checkpoint::start_of(11) },
        tally: Tally::default(),
    }
}

#[test]
fn rows_and_checkpoint_come_back_after_a_reopen() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    assert_eq!(store.checkpoint().unwrap(), None);
    store.begin(&Checkpoint::start_of(11)).unwrap();
    assert_eq!(store.checkpoint().unwrap(), Some(Checkpoint::start_of(11)));
    store.commit(&transaction()).unwrap();
    drop(store);

    let store = open(folder.path()).unwrap();
    assert_eq!(store.checkpoint().unwrap(), Some(transaction().checkpoint));
    assert_eq!(store.rows_after(None, 9).unwrap(), (transaction().rows, true));
    let mut ids = [[9; 16], [3; 16], [1; 16]];
    let found: Vec<_> = store.rows(&mut ids).unwrap().into_iter().map(|(id, _)| id).collect();
    assert_eq!(found, [[1; 16], [3; 16]]);
}

#[test]
fn a_store_in_use_or_of_another_partition_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    assert!(matches!(open(folder.path()), Err(StoreError::InUse { .. })));
    drop(store);
    let other = Owner { partitions: 4, ..owner() };
    assert!(matches!(Store::<Texts>::open(folder.path(), &other, 1 << 20), Err(StoreError::Foreign { .. })));
}

#[test]
fn a_file_that_is_no_store_is_set_aside_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chunks-0.redb");
    let text = "not a store, but somebody's file".repeat(999);
    fs::write(&path, &text).unwrap();
    assert!(matches!(open(folder.path()), Err(StoreError::Damaged { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), text, "who only opens it changes nothing");
    let store = Store::<Texts>::open_or_replace(folder.path(), &owner(), 1 << 20).unwrap();
    assert_eq!(store.checkpoint().unwrap(), None);
    let aside = aside::found(&path).unwrap();
    assert_eq!(aside.len(), 1);
    assert_eq!(fs::read_to_string(&aside[0]).unwrap(), text);
}

#[test]
fn a_store_that_was_begun_and_never_made_is_made_and_nothing_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chunks-0.redb");
    drop(open(folder.path()).unwrap());
    let made = fs::read(&path).unwrap();
    // Its length, and the first page as far as the power lasted.
    let begun = |header: std::ops::Range<usize>| {
        let mut bytes = vec![0; made.len()];
        bytes[header.clone()].copy_from_slice(&made[header]);
        bytes
    };
    for bytes in [begun(0..0), begun(9..320), begun(0..5)] {
        fs::write(&path, bytes).unwrap();
        let store = Store::<Texts>::open_or_replace(folder.path(), &owner(), 1 << 20).unwrap();
        assert_eq!((store.replaced(), store.checkpoint().unwrap()), (None, None));
        store.commit(&transaction()).unwrap();
        assert_eq!(aside::found(&path).unwrap(), [] as [PathBuf; 0]);
    }
}

/// A database of redb's as this program might have made it, with these meta entries.
fn made_otherwise(folder: &Path, entries: &[(&str, Vec<u8>)], tables: bool) {
    let db = Database::create(folder.join("chunks-0.redb")).unwrap();
    let tx = db.begin_write().unwrap();
    if tables {
        tx.open_table(rows_table::<Texts>()).unwrap();
    }
    for (key, bytes) in entries {
        tx.open_table(META).unwrap().insert(key, bytes.as_slice()).unwrap();
    }
    tx.commit().unwrap();
}

#[test]
fn another_format_is_refused_by_name_and_what_has_none_is_damaged() {
    let plain = rmp_serde::to_vec_named(&owner()).unwrap();
    let sealed = |key: &str, mut bytes: Vec<u8>| {
        checksum::seal(key.as_bytes(), &mut bytes, 0);
        bytes
    };
    let (two, three) = (sealed(FORMAT, vec![2]), sealed(FORMAT, vec![3]));
    for (entries, tables, says) in [
        (vec![(OWNER, plain.clone())], true, Some("has format 1, without checksums, which this version does not know")),
        (vec![(FORMAT, three), (OWNER, vec![1, 2])], true, Some("has format 3, which this version does not know")),
        (vec![(OWNER, sealed(OWNER, plain.clone()))], true, None),
        (vec![(FORMAT, two.clone()), (OWNER, plain.clone())], true, None),
        (vec![(FORMAT, two.clone())], true, None),
        (vec![(FORMAT, vec![2])], true, None),
        (vec![(FORMAT, two.clone()), (OWNER, sealed(OWNER, plain.clone()))], false, None),
        (vec![(FORMAT, two), (OWNER, sealed(OWNER, plain.clone())), ("bccepted", vec![])], true, None),
    ] {
        let folder = tempfile::tempdir().unwrap();
        made_otherwise(folder.path(), &entries, tables);
        let error = open(folder.path()).err().unwrap();
        match says {
            Some(says) => {
                assert!(matches!(error, StoreError::UnknownFormat { .. }), "{error:?}");
                assert!(error.to_string().contains(says), "{error}");
            }
            None => assert!(matches!(error, StoreError::Damaged { .. }), "{entries:?}: {error:?}"),
        }
    }
}

#[test]
fn a_store_in_which_anything_was_found_damaged_refuses_everything_and_writes_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    store.commit(&transaction()).unwrap();
    let bytes = fs::read(store.path()).unwrap();
    store.health.damaged("a page".to_owned());
    for error in [
        store.checkpoint().err(),
        store.commit(&transaction()).err(),
        store.rows(&mut [[1; 16]]).err(),
        store.restore(&transaction().checkpoint, &[], &[], std::iter::empty::<Result<_, StoreError>>(), |_| {}).err(),
    ] {
        assert!(matches!(&error, Some(StoreError::Damaged { what, .. }) if what == "a page"), "{error:?}");
    }
    let path = store.path().to_owned();
    drop(store);
    assert_eq!(fs::read(path).unwrap(), bytes);
}

#[test]
fn a_new_data_folder_is_open_to_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b");
    create_data_dir(&path, &Words::DEFAULT).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    open(&path).unwrap();
    assert_eq!(fs::metadata(path.join("chunks-0.redb")).unwrap().permissions().mode() & 0o777, 0o600);
}
