//! The store of one partition: `fold(log[..=position])` in one redb file.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `streams` | `StreamId`, 16 bytes | a row, tagged: see below |
//! | `meta` | `"owner"` | MessagePack map: log name, partition, partitions |
//! | `meta` | `"checkpoint"` | MessagePack map: [`Checkpoint`] |
//!
//! | row | tag | then, little-endian |
//! | --- | --- | --- |
//! | live | 1 | `changed_at` i64, `seq_no` u64, SHA-1 state of 92 bytes |
//! | broken | 2 | `changed_at` i64, `seq_no` u64 |
//! | completed | 3 | `changed_at` i64, `seq_no` u64, digest of 20 bytes |
//!
//! A tag is never given another meaning: a change of a row's shape takes a new one.
//!
//! Rows and checkpoint change in one write transaction or not at all. Each commit is on disk when it returns, and
//! saves what redb needs to open the file after a crash without scanning it.

use crate::checkpoint::Checkpoint;
use crate::chunk::SeqNo;
use crate::row::Row;
use crate::stream_id::StreamId;
use crate::sum::{RunningSum, Value};
use crate::transaction::Transaction;
use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const STREAMS: TableDefinition<&[u8; 16], &[u8]> = TableDefinition::new("streams");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const OWNER: &str = "owner";
const CHECKPOINT: &str = "checkpoint";

const LIVE: u8 = 1;
const BROKEN: u8 = 2;
const COMPLETED: u8 = 3;

/// What a store is the fold of. A file that belongs to another is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The name of the partition's JetStream stream.
    pub log: String,
    pub partition: u32,
    pub partitions: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the data folder {} cannot be used: {source}. Name one that can be written with --data-dir", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error(
        "the store {} is in use by another process: stop that one, or give each summer a --data-dir of its own",
        path.display()
    )]
    InUse { path: PathBuf },
    #[error(
        "the store {} belongs to partition {} of {} of the log {}, not to partition {} of {} of {}: name another --data-dir",
        path.display(), found.partition, found.partitions, found.log, wanted.partition, wanted.partitions, wanted.log
    )]
    Foreign { path: PathBuf, found: Box<Owner>, wanted: Box<Owner> },
    #[error(
        "the store {} holds {what}, which this version does not know: run the version that wrote it, or delete the file \
         to fold the log again",
        path.display()
    )]
    UnknownFormat { path: PathBuf, what: String },
    #[error("the store {} failed: {source}", path.display())]
    Failed { path: PathBuf, source: Box<redb::Error> },
}

/// Makes the data folder, open to its owner alone.
pub fn create_data_dir(path: &Path) -> Result<(), StoreError> {
    let refuse = |source| StoreError::Folder { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(refuse)?;
    // Somebody else's folder keeps the mode that they gave it: it may be a mount, or /tmp.
    let mode = fs::metadata(path).map_err(refuse)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), mode = format!("{:o}", mode & 0o777), "the data folder is open to others");
    }
    Ok(())
}

pub struct Store {
    db: Database,
    path: PathBuf,
}

impl Store {
    /// Opens the store of `owner` in `data_dir`, or makes it. `cache_bytes` bounds redb's page cache.
    pub fn open(data_dir: &Path, owner: &Owner, cache_bytes: usize) -> Result<Self, StoreError> {
        let path = data_dir.join(format!("{}.redb", owner.log));
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| StoreError::Folder { path: path.clone(), source })?;
        let open = || {
            let backend = FileBackend::new(file)?;
            Database::builder().set_cache_size(cache_bytes).create_with_backend(backend)
        };
        let db = open().map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.clone() },
            other => StoreError::Failed { path: path.clone(), source: Box::new(other.into()) },
        })?;
        let store = Self { db, path };
        // A first transaction makes both tables, so that every later one finds them.
        store.write(|tx| {
            tx.open_table(STREAMS)?;
            tx.open_table(META)?;
            Ok(())
        })?;
        match store.meta::<Owner>(OWNER)? {
            None => store.write(|tx| put_meta(tx, OWNER, owner))?,
            Some(found) if found == *owner => {}
            Some(found) => {
                let (found, wanted) = (Box::new(found), Box::new(owner.clone()));
                return Err(StoreError::Foreign { path: store.path, found, wanted });
            }
        }
        Ok(store)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `None` in a store that has not begun.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        self.meta(CHECKPOINT)
    }

    /// Binds a store that has not begun to its log.
    pub fn begin(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.write(|tx| put_meta(tx, CHECKPOINT, checkpoint))
    }

    /// The rows of those of `ids` that have one. Sorts `ids`: neighbours share pages.
    pub fn rows(&self, ids: &mut [StreamId]) -> Result<Vec<(StreamId, Row)>, StoreError> {
        ids.sort_unstable();
        let read = || -> Result<Vec<_>, redb::Error> {
            let tx = self.db.begin_read()?;
            let table = tx.open_table(STREAMS)?;
            let mut found = Vec::new();
            for id in ids.iter() {
                if let Some(value) = table.get(id.as_bytes())? {
                    found.push((*id, decode_row(value.value())));
                }
            }
            Ok(found)
        };
        let found = read().map_err(|source| self.failed(source))?;
        found.into_iter().map(|(id, row)| Ok((id, self.known(id, row)?))).collect()
    }

    /// Every row, sorted by ID.
    pub fn all_rows(&self) -> Result<Vec<(StreamId, Row)>, StoreError> {
        let read = || -> Result<Vec<_>, redb::Error> {
            let tx = self.db.begin_read()?;
            let table = tx.open_table(STREAMS)?;
            table
                .iter()?
                .map(|entry| {
                    let (id, row) = entry?;
                    Ok((StreamId::new(*id.value()), decode_row(row.value())))
                })
                .collect()
        };
        let found = read().map_err(|source| self.failed(source))?;
        found.into_iter().map(|(id, row)| Ok((id, self.known(id, row)?))).collect()
    }

    /// Commits the rows and the checkpoint together. On disk when this returns.
    pub fn commit(&self, transaction: &Transaction) -> Result<(), StoreError> {
        self.write(|tx| {
            {
                let mut table = tx.open_table(STREAMS)?;
                let mut buffer = Vec::with_capacity(128);
                for (id, row) in &transaction.rows {
                    encode_row(row, &mut buffer);
                    table.insert(id.as_bytes(), buffer.as_slice())?;
                }
            }
            put_meta(tx, CHECKPOINT, &transaction.checkpoint)
        })
    }

    fn write(&self, change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>) -> Result<(), StoreError> {
        let write = || -> Result<(), redb::Error> {
            let mut tx = self.db.begin_write()?;
            tx.set_quick_repair(true);
            change(&tx)?;
            Ok(tx.commit()?)
        };
        write().map_err(|source| self.failed(source))
    }

    fn meta<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        let read = || -> Result<Option<Vec<u8>>, redb::Error> {
            let tx = self.db.begin_read()?;
            Ok(tx.open_table(META)?.get(key)?.map(|value| value.value().to_vec()))
        };
        let Some(bytes) = read().map_err(|source| self.failed(source))? else { return Ok(None) };
        match rmp_serde::from_slice(&bytes) {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(StoreError::UnknownFormat {
                path: self.path.clone(),
                what: format!("a meta entry {key} of another shape ({error})"),
            }),
        }
    }

    fn known(&self, id: StreamId, row: Option<Row>) -> Result<Row, StoreError> {
        row.ok_or_else(|| StoreError::UnknownFormat {
            path: self.path.clone(),
            what: format!("a row of another shape for stream {id}"),
        })
    }

    fn failed(&self, source: redb::Error) -> StoreError {
        StoreError::Failed { path: self.path.clone(), source: Box::new(source) }
    }
}

fn put_meta<T: Serialize>(tx: &redb::WriteTransaction, key: &str, value: &T) -> Result<(), redb::Error> {
    let bytes = rmp_serde::to_vec_named(value).expect("meta entries are plain structs");
    tx.open_table(META)?.insert(key, bytes.as_slice())?;
    Ok(())
}

fn encode_row(row: &Row, out: &mut Vec<u8>) {
    out.clear();
    let mut head = |tag: u8, changed_at: i64, seq_no: SeqNo| {
        out.push(tag);
        out.extend_from_slice(&changed_at.to_le_bytes());
        out.extend_from_slice(&seq_no.get().to_le_bytes());
    };
    match row {
        Row::Live { sum, changed_at } => {
            head(LIVE, *changed_at, sum.seq_no());
            out.extend_from_slice(&sum.state());
        }
        Row::Broken { seq_no, changed_at } => head(BROKEN, *changed_at, *seq_no),
        Row::Completed { seq_no, value, changed_at } => {
            head(COMPLETED, *changed_at, *seq_no);
            out.extend_from_slice(&value.0);
        }
    }
}

fn decode_row(bytes: &[u8]) -> Option<Row> {
    let (tag, rest) = bytes.split_first()?;
    let (changed_at, rest) = rest.split_first_chunk()?;
    let changed_at = i64::from_le_bytes(*changed_at);
    let (seq_no, rest) = rest.split_first_chunk()?;
    let seq_no = SeqNo::new(u64::from_le_bytes(*seq_no))?;
    match *tag {
        LIVE => Some(Row::Live { sum: RunningSum::resume(seq_no, rest.try_into().ok()?)?, changed_at }),
        BROKEN if rest.is_empty() => Some(Row::Broken { seq_no, changed_at }),
        COMPLETED => Some(Row::Completed { seq_no, value: Value(rest.try_into().ok()?), changed_at }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::SumsMark;
    use crate::chunk::Chunk;
    use crate::transaction::Tally;

    fn owner() -> Owner {
        Owner { log: "chunks-0".into(), partition: 0, partitions: 8 }
    }

    fn open(folder: &Path) -> Result<Store, StoreError> {
        Store::open(folder, &owner(), 1 << 20)
    }

    fn transaction() -> Transaction {
        let id = |n| StreamId::new([n; 16]);
        let sum = RunningSum::open(&Chunk { id: id(1), seq_no: SeqNo::FIRST, data: b"battery" });
        let value = sum.value();
        let sums = Some(SumsMark { created: 5, sequence: 6, time: 7 });
        Transaction {
            number: 1,
            rows: vec![
                (id(1), Row::Live { sum, changed_at: 3 }),
                (id(2), Row::Broken { seq_no: SeqNo::FIRST, changed_at: -4 }),
                (id(3), Row::Completed { seq_no: SeqNo::new(9).unwrap(), value, changed_at: 5 }),
            ],
            checkpoint: Checkpoint { position: 7, live_streams: 1, sums, ..Checkpoint::start_of(11) },
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
        assert_eq!(store.all_rows().unwrap(), transaction().rows);
        let mut ids = [StreamId::new([9; 16]), StreamId::new([3; 16]), StreamId::new([1; 16])];
        let found: Vec<_> = store.rows(&mut ids).unwrap().into_iter().map(|(id, _)| id).collect();
        assert_eq!(found, [StreamId::new([1; 16]), StreamId::new([3; 16])]);
    }

    #[test]
    fn a_store_in_use_or_of_another_partition_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).unwrap();
        assert!(matches!(open(folder.path()), Err(StoreError::InUse { .. })));
        drop(store);
        let other = Owner { partitions: 4, ..owner() };
        assert!(matches!(Store::open(folder.path(), &other, 1 << 20), Err(StoreError::Foreign { .. })));
    }

    #[test]
    fn a_file_that_is_no_store_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chunks-0.redb");
        let text = "not a store, but somebody's file".repeat(999);
        fs::write(&path, &text).unwrap();
        assert!(matches!(open(folder.path()), Err(StoreError::Failed { .. })));
        assert_eq!(fs::read_to_string(path).unwrap(), text);
    }

    #[test]
    fn a_new_data_folder_is_open_to_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        create_data_dir(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        open(&path).unwrap();
        assert_eq!(fs::metadata(path.join("chunks-0.redb")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn rows_of_an_unknown_shape_are_refused() {
        let mut bytes = Vec::new();
        encode_row(&transaction().rows[2].1, &mut bytes);
        assert!(decode_row(&bytes).is_some());
        assert!(decode_row(&bytes[..bytes.len() - 1]).is_none());
        bytes[0] = 9;
        assert!(decode_row(&bytes).is_none());
        assert!(decode_row(&[]).is_none());
    }
}
