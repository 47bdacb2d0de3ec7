//! `View`: a store at one moment, whatever is committed meanwhile. Everything that is read is verified here.

use crate::application::Application;
use crate::caught::Quiet;
use crate::checkpoint::Checkpoint;
use crate::identity::accept::Accepted;
use crate::key::Key;
use crate::store::checksum;
use crate::store::file::Health;
use crate::store::sealed::{self, Undecoded};
use crate::store::{ACCEPTED, CHECKPOINT, FORMAT, META, OWNER, Owner, Rows, StoreError, THIS_FORMAT, rows_table};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, Value};
use serde::de::DeserializeOwned;
use std::borrow::Borrow;
use std::marker::PhantomData;
use std::ops::Bound;
use std::sync::Arc;

/// One moment of a store.
pub struct View<A> {
    pub(super) tx: Quiet<ReadTransaction>,
    pub(super) health: Arc<Health>,
    of: PhantomData<fn() -> A>,
}

impl<A: Application> View<A> {
    pub(super) fn new(db: &Database, health: &Arc<Health>) -> Result<Self, StoreError> {
        let tx = health.watch(|| Ok(db.begin_read()?))?;
        Ok(Self { tx: Quiet::new(tx), health: health.clone(), of: PhantomData })
    }

    /// `None` in a store that has not begun.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        self.meta(CHECKPOINT)
    }

    /// What was accepted, the oldest first.
    pub fn accepted(&self) -> Result<Vec<Accepted>, StoreError> {
        Ok(self.meta(ACCEPTED)?.unwrap_or_default())
    }

    /// Whose fold this is. `None` in a file that was made and nothing more.
    pub(super) fn owner(&self) -> Result<Option<Owner>, StoreError> {
        if self.health.watch(|| Ok(self.tx.list_tables()?.next().is_none()))? {
            return Ok(None);
        }
        self.known_format()?;
        self.whole()?;
        let owner = self.meta(OWNER)?;
        Ok(Some(owner.ok_or_else(|| self.health.damaged("it does not say whose it is".to_owned()))?))
    }

    fn known_format(&self) -> Result<(), StoreError> {
        let unknown = |what| StoreError::UnknownFormat { path: self.health.path().to_owned(), what };
        if let Some(format) = self.meta::<u32>(FORMAT)? {
            return if format == THIS_FORMAT { Ok(()) } else { Err(unknown(format!("format {format}"))) };
        }
        // The first format had neither this entry nor checksums.
        let first = self.raw(OWNER)?.is_some_and(|bytes| {
            checksum::opened(OWNER.as_bytes(), &bytes).is_none() && rmp_serde::from_slice::<Owner>(&bytes).is_ok()
        });
        Err(if first {
            unknown("format 1, without checksums".to_owned())
        } else {
            self.health.damaged("it does not say its format".to_owned())
        })
    }

    /// Sees that what a store is opened with is there, and nothing else: an entry whose key was changed is missed nowhere else.
    fn whole(&self) -> Result<(), StoreError> {
        let keys = self.health.watch(|| {
            let table = Quiet::new(self.tx.open_table(META)?);
            table.iter()?.map(|entry| Ok(entry?.0.value().to_owned())).collect::<Result<Vec<_>, redb::Error>>()
        })?;
        if let Some(key) = keys.iter().find(|key| ![FORMAT, OWNER, CHECKPOINT, ACCEPTED].contains(&key.as_str())) {
            return Err(self.health.damaged(format!("there is a meta entry {key:?}")));
        }
        self.accepted()?;
        if self.checkpoint()?.is_none() && self.len()? > 0 {
            return Err(self.health.damaged("it has rows and no checkpoint".to_owned()));
        }
        Ok(())
    }

    fn raw(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.health.watch(|| {
            let table = Quiet::new(self.tx.open_table(META)?);
            Ok(table.get(key)?.map(|value| value.value().to_vec()))
        })
    }

    fn meta<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        let Some(bytes) = self.raw(key)? else { return Ok(None) };
        let Some(bytes) = checksum::opened(key.as_bytes(), &bytes) else {
            return Err(self.health.damaged(format!("the checksum of its meta entry {key} is wrong")));
        };
        rmp_serde::from_slice(bytes).map(Some).map_err(|error| StoreError::UnknownFormat {
            path: self.health.path().to_owned(),
            what: format!("a meta entry {key} of another shape ({error})"),
        })
    }

    /// The number of rows.
    pub fn len(&self) -> Result<u64, StoreError> {
        self.health.watch(|| Ok(self.tx.open_table(rows_table::<A>())?.len()?))
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.len()? == 0)
    }

    /// The row of a key, expired or not, as the last committed transaction has left it.
    pub fn get(&self, key: &<A::Key as Key>::Ref) -> Result<Option<A::Row>, StoreError> {
        Ok(self.rows(&[key.to_owned()])?.pop().map(|(_, row)| row))
    }

    /// The rows of those of `keys` that have one, in the order of `keys`.
    pub(super) fn rows(&self, keys: &[A::Key]) -> Result<Rows<A>, StoreError> {
        let found = self.health.watch(|| {
            let table = Quiet::new(self.tx.open_table(rows_table::<A>())?);
            let mut found = Vec::new();
            for key in keys {
                let stored = A::Key::stored(key.borrow());
                let bytes = Stored::<A>::as_bytes(&stored);
                if let Some(value) = table.get(&stored)? {
                    found.push((key.clone(), sealed::open::<A::Row>(bytes.as_ref(), value.value())));
                }
            }
            Ok(found)
        })?;
        let decoded = |(key, row)| {
            let row = self.decoded(&key, row)?;
            Ok((key, row))
        };
        found.into_iter().map(decoded).collect()
    }

    /// Hands out the rows after the key `after`, by key, for as long as `f` returns true.
    ///
    /// Who reads all of them knows that they are all: their number is compared with the one that the store knows.
    pub fn each<E: From<StoreError>>(
        &self,
        after: Option<A::Key>,
        mut f: impl FnMut(A::Key, A::Row) -> Result<bool, E>,
    ) -> Result<(), E> {
        let from = match &after {
            Some(key) => Bound::Excluded(A::Key::stored(key.borrow())),
            None => Bound::Unbounded,
        };
        let range = self.health.watch(|| {
            let table = Quiet::new(self.tx.open_table(rows_table::<A>())?);
            Ok(table.range((from, Bound::Unbounded))?)
        })?;
        let mut range = Quiet::new(range);
        let (all, mut last, mut rows) = (after.is_none(), after.clone(), 0);
        loop {
            let next = self.health.watch(|| match range.next() {
                None => Ok(None),
                Some(entry) => {
                    let (key, row) = entry?;
                    let stored = key.value();
                    let row = sealed::open::<A::Row>(Stored::<A>::as_bytes(&stored).as_ref(), row.value());
                    Ok(Some((A::Key::loaded(stored), row)))
                }
            })?;
            let Some((key, row)) = next else { break };
            let row = self.decoded(&key, row)?;
            if last.is_some_and(|last| last >= key) {
                return Err(self.health.damaged(format!("the row of {key:?} is out of order")).into());
            }
            last = Some(key.clone());
            rows += 1;
            if !f(key, row)? {
                return Ok(());
            }
        }
        let len = self.len()?;
        if all && rows != len {
            return Err(self.health.damaged(format!("{rows} of its {len} rows are there")).into());
        }
        Ok(())
    }

    fn decoded(&self, key: &A::Key, row: Result<A::Row, Undecoded>) -> Result<A::Row, StoreError> {
        row.map_err(|undecoded| match undecoded {
            Undecoded::Damaged => self.health.damaged(format!("the checksum of the row of {key:?} is wrong")),
            Undecoded::Unknown => StoreError::UnknownFormat {
                path: self.health.path().to_owned(),
                what: format!("a row of another shape for {key:?}"),
            },
        })
    }
}

/// How the file knows keys.
type Stored<A> = <<A as Application>::Key as Key>::Stored;
