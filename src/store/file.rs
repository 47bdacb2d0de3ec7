//! The file of a store, watched: whether its bytes are what was written, and that nothing more is written once they are
//! not.
//!
//! redb trusts a file that it has closed, and panics or fails somewhere within where the bytes were changed since. Whatever
//! comes of that ends here, as [`StoreError::Damaged`].

use crate::caught::caught;
use crate::store::StoreError;
use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// What is known of a store's file. Shared by all that read or write it.
#[derive(Debug)]
pub struct Health {
    path: PathBuf,
    /// What is damaged, once that was found.
    damage: OnceLock<String>,
}

impl Health {
    pub fn new(path: PathBuf) -> Self {
        Self { path, damage: OnceLock::new() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn damage(&self) -> Option<&str> {
        self.damage.get().map(String::as_str)
    }

    /// Records what is damaged: what was found first counts, for the rest may come of it.
    pub fn damaged(&self, what: String) -> StoreError {
        let what = self.damage.get_or_init(|| what).clone();
        StoreError::Damaged { path: self.path.clone(), what }
    }

    /// Lets `call` work with redb, unless damage was found before.
    pub fn watch<T>(&self, call: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StoreError> {
        if let Some(what) = self.damage() {
            return Err(self.damaged(what.to_owned()));
        }
        match caught(call) {
            Ok(result) => result.map_err(|error| self.failed(error)),
            Err(said) => Err(self.damaged(said)),
        }
    }

    pub fn failed(&self, error: redb::Error) -> StoreError {
        let path = self.path.clone();
        match (self.damage(), damage(&error)) {
            (Some(what), _) => StoreError::Damaged { path, what: what.to_owned() },
            (None, Some(what)) => self.damaged(what),
            (None, None) => StoreError::Failed { path, source: Box::new(error) },
        }
    }
}

/// What is damaged, where that is what an error says. A disk that is full, or gives no answer, has damaged nothing.
fn damage(error: &redb::Error) -> Option<String> {
    match error {
        redb::Error::Corrupted(what) => Some(what.clone()),
        redb::Error::Io(error) => match error.kind() {
            io::ErrorKind::UnexpectedEof => Some("it ends too early".to_owned()),
            io::ErrorKind::InvalidData => Some("it is no store".to_owned()),
            _ => None,
        },
        // The tables are made with the file. No version of this program has written a format of redb's that is older.
        redb::Error::TableDoesNotExist(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableIsNotMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::UpgradeRequired(_) => Some(error.to_string()),
        _ => None,
    }
}

/// A file that takes no more writes once it was found damaged: what is set aside is as it was found.
#[derive(Debug)]
pub struct Watched {
    file: FileBackend,
    health: Arc<Health>,
}

impl Watched {
    pub fn new(file: FileBackend, health: Arc<Health>) -> Self {
        Self { file, health }
    }

    fn may_change(&self) -> io::Result<()> {
        match self.health.damage() {
            Some(what) => Err(io::Error::new(io::ErrorKind::InvalidData, what.to_owned())),
            None => Ok(()),
        }
    }
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.may_change()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.may_change()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
