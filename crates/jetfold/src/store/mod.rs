//! The store of one partition: `fold(log[..=position])` in one redb file.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | the application's: [`Application::ROWS`] | key | an encoded row, its [checksum] under its key at its end |
//! | `producers`, if batches are stamped | name | an encoded `Producer`, its [checksum] under its name at its end |
//! | `meta` | `"format"` | 2; this entry has the same shape in every format |
//! | `meta` | `"owner"` | map: log name, partition, partitions |
//! | `meta` | `"checkpoint"` | map: [`Checkpoint`] |
//! | `meta` | `"accepted"` | array of [`Accepted`] |
//!
//! Each value of `meta` is MessagePack, and behind it 8 bytes: its [checksum] under its key. The first
//! format had neither the entry `format` nor checksums.
//!
//! Rows, producers and checkpoint change in one write transaction or not at all. Each commit is on disk when it returns, and
//! saves what redb needs to open the file after a crash without scanning it.
//!
//! Once the disk has refused anything, nothing more is written until the store is opened again. Then it holds what the last commit
//! that returned has left, or the one that was under way.
//!
//! What is read is verified, so a disk that has changed it is found out: the store is damaged, and from then on refuses
//! everything and writes nothing. No checksum shows that a row is missing:
//! if a page that leads to it was changed, a look-up may miss it, until somebody [reads all rows](View::each), as each
//! snapshot does. And if the disk has kept an older page, the rows of that page are whole, and out of date. Either shows at once
//! only in a fold whose records are numbered by key: the next number follows a gap.

pub mod aside;
pub mod checksum;
mod error;
mod file;
#[cfg(test)]
mod flips;
mod producers;
pub mod sealed;
pub mod snapshot;
mod unborn;
mod view;

pub use error::StoreError;
pub use view::View;

use crate::application::Application;
use crate::caught::{Quiet, caught};
use crate::checkpoint::Checkpoint;
use crate::identity::accept::Accepted;
use crate::key::Key;
use crate::producer::NamedProducer;
use crate::transaction::Transaction;
use crate::words::Words;
use file::{Health, Watched};
use redb::backends::FileBackend;
use redb::{Database, DatabaseError, StorageBackend, TableDefinition};
use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::fs;
use std::marker::PhantomData;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const FORMAT: &str = "format";
const OWNER: &str = "owner";
const CHECKPOINT: &str = "checkpoint";
const ACCEPTED: &str = "accepted";

/// The version of all this. A row's own shape is told by its tag; with another tag comes another version.
const THIS_FORMAT: u32 = 2;

/// The table of rows.
type RowsTable<A> = TableDefinition<'static, <<A as Application>::Key as Key>::Stored, &'static [u8]>;

fn rows_table<A: Application>() -> RowsTable<A> {
    TableDefinition::new(A::ROWS)
}

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

/// Makes the data folder, open to its owner alone.
pub fn create_data_dir(path: &Path, words: &'static Words) -> Result<(), StoreError> {
    let refuse = |source| StoreError::Folder { path: path.to_owned(), source, words };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(refuse)?;
    // Somebody else's folder keeps the mode that they gave it: it may be a mount, or /tmp.
    let mode = fs::metadata(path).map_err(refuse)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), mode = format!("{:o}", mode & 0o777), "the data folder is open to others");
    }
    Ok(())
}

pub struct Store<A> {
    db: Quiet<Database>,
    health: Arc<Health>,
    replaced: Option<String>,
    of: PhantomData<fn() -> A>,
}

/// A row with its key.
pub type KeyedRow<A> = (<A as Application>::Key, <A as Application>::Row);

/// Rows, each with its key.
pub type Rows<A> = Vec<KeyedRow<A>>;

impl<A: Application> Store<A> {
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
            .map_err(|source| StoreError::Folder { path: path.clone(), source, words: &A::WORDS })?;
        Self::open_over(|| FileBackend::new(file), path, owner, cache_bytes)
    }

    /// Opens the store of `owner` over the file at `path`, or makes it.
    fn open_over<F: StorageBackend>(
        file: impl FnOnce() -> Result<F, DatabaseError>,
        path: PathBuf,
        owner: &Owner,
        cache_bytes: usize,
    ) -> Result<Self, StoreError> {
        let health = Arc::new(Health::new(path));
        let opened = caught(|| {
            let file = Watched::new(file()?, health.clone());
            Database::builder().set_cache_size(cache_bytes).create_with_backend(file)
        });
        let db = match opened {
            Ok(Ok(db)) => Quiet::new(db),
            Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => {
                return Err(StoreError::InUse { path: health.path().to_owned(), words: &A::WORDS });
            }
            Ok(Err(error)) => return Err(health.failed(error.into())),
            Err(said) => return Err(health.panicked(said)),
        };
        let store = Self { db, health, replaced: None, of: PhantomData };
        match store.view()?.owner()? {
            // Whoever finds the tables finds what they begin with.
            None => store.write(|tx| {
                tx.open_table(rows_table::<A>())?;
                if producers::has_table::<A>() {
                    producers::make(tx)?;
                }
                put_meta(tx, FORMAT, &THIS_FORMAT)?;
                put_meta(tx, OWNER, owner)
            })?,
            Some(found) if found == *owner => {}
            Some(found) => {
                let (found, wanted) = (Box::new(found), Box::new(owner.clone()));
                return Err(StoreError::Foreign { path: store.path().to_owned(), found, wanted, words: &A::WORDS });
            }
        }
        Ok(store)
    }

    /// Opens the store of `owner`, or makes it. One that is found damaged is [set aside](aside) for a new one.
    pub fn open_or_replace(data_dir: &Path, owner: &Owner, cache_bytes: usize) -> Result<Self, StoreError> {
        match Self::open(data_dir, owner, cache_bytes) {
            Err(StoreError::Damaged { path, what }) => {
                aside::set_aside(&path, &what, &A::WORDS)?;
                Ok(Self { replaced: Some(what), ..Self::open(data_dir, owner, cache_bytes)? })
            }
            opened => opened,
        }
    }

    pub fn path(&self) -> &Path {
        self.health.path()
    }

    /// What was damaged of the store that stood here when this one was opened, and was set aside for it.
    pub fn replaced(&self) -> Option<&str> {
        self.replaced.as_deref()
    }

    /// What is damaged, if somebody has found that anything is. Then nothing more is read or written.
    pub fn damage(&self) -> Option<&str> {
        self.health.damage()
    }

    /// `None` in a store that has not begun.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        self.view()?.checkpoint()
    }

    /// Binds a store that has not begun to its log.
    pub fn begin(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.write(|tx| put_meta(tx, CHECKPOINT, checkpoint))
    }

    /// The rows of those of `keys` that have one. Sorts `keys`: neighbours share pages.
    pub fn rows(&self, keys: &mut [A::Key]) -> Result<Rows<A>, StoreError> {
        keys.sort_unstable();
        self.view()?.rows(keys)
    }

    /// Commits rows, producers and checkpoint together. On disk when this returns.
    pub fn commit(&self, transaction: &Transaction<A>) -> Result<(), StoreError> {
        self.write(|tx| {
            {
                let mut table = tx.open_table(rows_table::<A>())?;
                let mut buffer = Vec::with_capacity(128);
                // Neighbours share pages. Keys with places are sorted, not rows: they are a sixth of the bytes.
                let mut order: Vec<_> = transaction.rows.iter().map(|(key, _)| key.clone()).zip(0..).collect();
                order.sort_unstable();
                for (key, n) in order {
                    let (_, row): &(_, A::Row) = &transaction.rows[n];
                    buffer.clear();
                    sealed::seal::<A>(key.borrow(), row, &mut buffer);
                    table.insert(A::Key::stored(key.borrow()), buffer.as_slice())?;
                }
                for key in &transaction.collected {
                    table.remove(A::Key::stored(key.borrow()))?;
                }
            }
            if !transaction.producers.is_empty() && !crate::planted!("producers-are-not-committed") {
                producers::put(tx, &transaction.producers)?;
            }
            put_meta(tx, CHECKPOINT, &transaction.checkpoint)
        })
    }

    /// Replaces checkpoint, producers and rows by others, all or nothing: an error of `rows` leaves the store as it was.
    /// `told` hears now and then how many rows there are so far.
    pub fn restore<E: From<StoreError>>(
        &self,
        checkpoint: &Checkpoint,
        accepted: &[Accepted],
        producers: &[NamedProducer],
        rows: impl Iterator<Item = Result<(A::Key, A::Row), E>>,
        mut told: impl FnMut(u64),
    ) -> Result<(), E> {
        let health = &self.health;
        let mut tx = Quiet::new(health.watch(|| Ok(self.db.begin_write()?))?);
        tx.set_quick_repair(true);
        health.watch(|| Ok(tx.delete_table(rows_table::<A>())?))?;
        {
            let mut table = Quiet::new(health.watch(|| Ok(tx.open_table(rows_table::<A>())?))?);
            let mut buffer = Vec::with_capacity(128);
            for (n, entry) in rows.enumerate() {
                let (key, row) = entry?;
                buffer.clear();
                sealed::seal::<A>(key.borrow(), &row, &mut buffer);
                health.watch(|| Ok(table.insert(A::Key::stored(key.borrow()), buffer.as_slice()).map(drop)?))?;
                if n % TOLD_EVERY == 0 {
                    told(n as u64);
                }
            }
        }
        health.watch(|| {
            if producers::has_table::<A>() {
                producers::make(&tx)?;
                let all: Vec<_> = producers.iter().map(|(name, row)| (name.clone(), Some(*row))).collect();
                producers::put(&tx, &all)?;
            }
            put_meta(&tx, CHECKPOINT, checkpoint)?;
            put_meta(&tx, ACCEPTED, accepted)
        })?;
        let tx = tx.into_inner();
        Ok(health.watch(|| Ok(tx.commit()?))?)
    }

    /// All of it at one moment, whatever is committed meanwhile.
    pub fn view(&self) -> Result<View<A>, StoreError> {
        View::new(&self.db, &self.health)
    }

    /// Up to `most` rows after the key `after`, by key, and whether these were the last.
    pub fn rows_after(&self, after: Option<A::Key>, most: usize) -> Result<(Rows<A>, bool), StoreError> {
        let view = self.view()?;
        let mut rows = Vec::new();
        view.each(after, |key, row| {
            rows.push((key, row));
            Ok::<_, StoreError>(rows.len() < most)
        })?;
        let last = rows.len() < most;
        Ok((rows, last))
    }

    /// Rows, and bytes of the file.
    pub fn size(&self) -> Result<Size, StoreError> {
        let rows = self.view()?.len()?;
        let metadata = fs::metadata(self.path());
        Ok(Size { rows, bytes: metadata.map_or(0, |metadata| metadata.len()) })
    }

    /// What was accepted of streams that are not what they were, and when: the oldest first.
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
        self.health.watch(|| {
            // What it ends with where `change` fails must not hide why.
            let mut tx = Quiet::new(self.db.begin_write()?);
            tx.set_quick_repair(true);
            change(&tx)?;
            Ok(tx.into_inner().commit()?)
        })
    }
}

fn put_meta<T: Serialize + ?Sized>(tx: &redb::WriteTransaction, key: &str, value: &T) -> Result<(), redb::Error> {
    let mut bytes = rmp_serde::to_vec_named(value).expect("meta entries are plain structs");
    checksum::seal(key.as_bytes(), &mut bytes, 0);
    tx.open_table(META)?.insert(key, bytes.as_slice())?;
    Ok(())
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod torture;
