//! The store of one partition: `fold(log[..=position])` in one redb file.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `streams` | `StreamId`, 16 bytes | an encoded [`Row`] |
//! | `meta` | `"owner"` | MessagePack map: log name, partition, partitions |
//! | `meta` | `"checkpoint"` | MessagePack map: [`Checkpoint`] |
//! | `meta` | `"accepted"` | MessagePack array of [`Accepted`] |
//!
//! Rows and checkpoint change in one write transaction or not at all. Each commit is on disk when it returns, and
//! saves what redb needs to open the file after a crash without scanning it.

use crate::checkpoint::{Accepted, Checkpoint};
use crate::row::Row;
use crate::stream_id::StreamId;
use crate::transaction::Transaction;
use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTableMetadata, TableDefinition};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const STREAMS: TableDefinition<&[u8; 16], &[u8]> = TableDefinition::new("streams");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const OWNER: &str = "owner";
const CHECKPOINT: &str = "checkpoint";
const ACCEPTED: &str = "accepted";

/// Rows that are restored between two words about it.
const TOLD_EVERY: usize = 10_000;

/// What a store is the fold of. A file that belongs to another is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The name of the partition's JetStream stream.
    pub log: String,
    pub partition: u32,
    pub partitions: u32,
}

/// How much a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    pub rows: u64,
    /// Of its file.
    pub bytes: u64,
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
        match store.view()?.meta::<Owner>(OWNER)? {
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
        self.view()?.checkpoint()
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
                    found.push((*id, Row::decode(value.value())));
                }
            }
            Ok(found)
        };
        let found = read().map_err(|source| self.failed(source))?;
        found.into_iter().map(|(id, row)| Ok((id, known(&self.path, id, row)?))).collect()
    }

    /// Commits the rows and the checkpoint together. On disk when this returns.
    pub fn commit(&self, transaction: &Transaction) -> Result<(), StoreError> {
        self.write(|tx| {
            {
                let mut table = tx.open_table(STREAMS)?;
                let mut buffer = Vec::with_capacity(128);
                // Neighbours share pages. Keys with places are sorted, not rows: they are a sixth of the bytes.
                let mut order: Vec<_> = transaction.rows.iter().map(|(id, _)| *id).zip(0..).collect();
                order.sort_unstable();
                for (id, n) in order {
                    let (_, row): &(_, Row) = &transaction.rows[n];
                    buffer.clear();
                    row.encode(&mut buffer);
                    table.insert(id.as_bytes(), buffer.as_slice())?;
                }
                for id in &transaction.collected {
                    table.remove(id.as_bytes())?;
                }
            }
            put_meta(tx, CHECKPOINT, &transaction.checkpoint)
        })
    }

    /// Replaces checkpoint and rows by others, all or nothing: an error of `rows` leaves the store as it was.
    /// `told` hears now and then how many rows there are so far.
    pub fn restore<E: From<StoreError>>(
        &self,
        checkpoint: &Checkpoint,
        accepted: &[Accepted],
        rows: impl Iterator<Item = Result<(StreamId, Row), E>>,
        mut told: impl FnMut(u64),
    ) -> Result<(), E> {
        let failed = |source: redb::Error| E::from(self.failed(source));
        let mut tx = self.db.begin_write().map_err(|error| failed(error.into()))?;
        tx.set_quick_repair(true);
        tx.delete_table(STREAMS).map_err(|error| failed(error.into()))?;
        {
            let mut table = tx.open_table(STREAMS).map_err(|error| failed(error.into()))?;
            let mut buffer = Vec::with_capacity(128);
            for (n, entry) in rows.enumerate() {
                let (id, row) = entry?;
                buffer.clear();
                row.encode(&mut buffer);
                table.insert(id.as_bytes(), buffer.as_slice()).map_err(|error| failed(error.into()))?;
                if n % TOLD_EVERY == 0 {
                    told(n as u64);
                }
            }
        }
        put_meta(&tx, CHECKPOINT, checkpoint).map_err(failed)?;
        put_meta(&tx, ACCEPTED, accepted).map_err(failed)?;
        tx.commit().map_err(|error| failed(error.into()))
    }

    /// All of it at one moment, whatever is committed meanwhile.
    pub fn view(&self) -> Result<View, StoreError> {
        let tx = self.db.begin_read().map_err(|error| self.failed(error.into()))?;
        Ok(View { tx, path: self.path.clone() })
    }

    /// Up to `most` rows after the stream `after`, by ID, and whether these were the last.
    pub fn rows_after(&self, after: Option<StreamId>, most: usize) -> Result<(Vec<(StreamId, Row)>, bool), StoreError> {
        let view = self.view()?;
        let mut rows = Vec::new();
        view.each(after, |id, row| {
            rows.push((id, row));
            Ok::<_, StoreError>(rows.len() < most)
        })?;
        let last = rows.len() < most;
        Ok((rows, last))
    }

    /// Rows, and bytes of the file.
    pub fn size(&self) -> Result<Size, StoreError> {
        let rows = self.view()?.len()?;
        let metadata = fs::metadata(&self.path);
        Ok(Size { rows, bytes: metadata.map_or(0, |metadata| metadata.len()) })
    }

    /// What was accepted of a log or of `sums` that are not what they were, and when: the oldest first.
    pub fn accepted(&self) -> Result<Vec<Accepted>, StoreError> {
        self.view()?.accepted()
    }

    /// Moves the checkpoint to where something was accepted, and records that it was.
    pub fn accept(&self, checkpoint: &Checkpoint, accepted: Accepted) -> Result<(), StoreError> {
        let mut all = self.accepted()?;
        all.push(accepted);
        self.write(|tx| {
            put_meta(tx, CHECKPOINT, checkpoint)?;
            put_meta(tx, ACCEPTED, &all)
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

    fn failed(&self, source: redb::Error) -> StoreError {
        failed(&self.path, source)
    }
}

/// One moment of a store.
pub struct View {
    tx: redb::ReadTransaction,
    path: PathBuf,
}

impl View {
    /// `None` in a store that has not begun.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        self.meta(CHECKPOINT)
    }

    /// What was accepted, the oldest first.
    pub fn accepted(&self) -> Result<Vec<Accepted>, StoreError> {
        Ok(self.meta(ACCEPTED)?.unwrap_or_default())
    }

    fn meta<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        let read = || -> Result<Option<Vec<u8>>, redb::Error> {
            Ok(self.tx.open_table(META)?.get(key)?.map(|value| value.value().to_vec()))
        };
        let Some(bytes) = read().map_err(|source| failed(&self.path, source))? else { return Ok(None) };
        rmp_serde::from_slice(&bytes).map(Some).map_err(|error| StoreError::UnknownFormat {
            path: self.path.clone(),
            what: format!("a meta entry {key} of another shape ({error})"),
        })
    }

    /// The number of rows.
    pub fn len(&self) -> Result<u64, StoreError> {
        let len = || -> Result<u64, redb::Error> { Ok(self.tx.open_table(STREAMS)?.len()?) };
        len().map_err(|source| failed(&self.path, source))
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.len()? == 0)
    }

    /// Hands out the rows after the stream `after`, by ID, for as long as `f` returns true.
    pub fn each<E: From<StoreError>>(
        &self,
        after: Option<StreamId>,
        mut f: impl FnMut(StreamId, Row) -> Result<bool, E>,
    ) -> Result<(), E> {
        let refuse = |source: redb::Error| E::from(failed(&self.path, source));
        let table = self.tx.open_table(STREAMS).map_err(|error| refuse(error.into()))?;
        let from = match &after {
            Some(id) => Bound::Excluded(id.as_bytes()),
            None => Bound::Unbounded,
        };
        let range = table.range::<&[u8; 16]>((from, Bound::Unbounded)).map_err(|error| refuse(error.into()))?;
        for entry in range {
            let (id, row) = entry.map_err(|error| refuse(error.into()))?;
            let id = StreamId::new(*id.value());
            if !f(id, known(&self.path, id, Row::decode(row.value()))?)? {
                break;
            }
        }
        Ok(())
    }
}

fn known(path: &Path, id: StreamId, row: Option<Row>) -> Result<Row, StoreError> {
    row.ok_or_else(|| StoreError::UnknownFormat {
        path: path.to_owned(),
        what: format!("a row of another shape for stream {id}"),
    })
}

fn failed(path: &Path, source: redb::Error) -> StoreError {
    StoreError::Failed { path: path.to_owned(), source: Box::new(source) }
}

fn put_meta<T: Serialize + ?Sized>(tx: &redb::WriteTransaction, key: &str, value: &T) -> Result<(), redb::Error> {
    let bytes = rmp_serde::to_vec_named(value).expect("meta entries are plain structs");
    tx.open_table(META)?.insert(key, bytes.as_slice())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Mark;
    use crate::chunk::{Chunk, SeqNo};
    use crate::sum::RunningSum;
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
        let sums = Some(Mark { created: 5, sequence: 6, time: 7 });
        Transaction {
            number: 1,
            rows: vec![
                (id(1), Row::Live { sum, changed_at: 3 }),
                (id(2), Row::Broken { seq_no: SeqNo::FIRST, changed_at: -4 }),
                (id(3), Row::Completed { seq_no: SeqNo::new(9).unwrap(), value, changed_at: 5 }),
            ],
            collected: Vec::new(),
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
        assert_eq!(store.rows_after(None, 9).unwrap(), (transaction().rows, true));
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
}
