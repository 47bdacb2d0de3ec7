//! The file of a store, watched: whether its bytes are what was written, and that nothing more is written once they are
//! not.
//!
//! redb trusts a file that it has closed, and panics or fails somewhere within if the bytes were changed since. Whatever
//! comes of that ends here, as [`StoreError::Damaged`].

use crate::caught::caught;
use crate::store::{StoreError, unborn};
use redb::{BackendError, StorageBackend};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// What is known of a store's file. Shared by all that read or write it.
#[derive(Debug)]
pub struct Health {
    path: PathBuf,
    /// What is damaged, once that was found.
    damage: OnceLock<String>,
    /// What the disk has refused first. Whatever comes of that is no damage.
    refused: OnceLock<(io::ErrorKind, String)>,
}

impl Health {
    pub fn new(path: PathBuf) -> Self {
        Self { path, damage: OnceLock::new(), refused: OnceLock::new() }
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
            Err(said) => Err(self.panicked(said)),
        }
    }

    /// What it means that redb has panicked.
    pub fn panicked(&self, said: String) -> StoreError {
        match self.refusal() {
            Some(refused) => self.failed(refused),
            None => self.damaged(said),
        }
    }

    /// What the disk has refused, as an error.
    fn refusal(&self) -> Option<redb::Error> {
        self.refused.get().map(|(kind, refused)| io::Error::new(*kind, refused.clone()).into())
    }

    pub fn failed(&self, error: redb::Error) -> StoreError {
        let path = self.path.clone();
        let error = match error {
            // Whoever comes later has to learn why, too.
            redb::Error::PreviousIo => self.refusal().unwrap_or(error),
            error => error,
        };
        match (self.damage(), damage(&error)) {
            (Some(what), _) => StoreError::Damaged { path, what: what.to_owned() },
            (None, Some(what)) => self.damaged(what),
            (None, None) => StoreError::Failed { path, source: Box::new(error) },
        }
    }
}

/// What is damaged, if that is what an error says. A disk that is full, or gives no answer, has damaged nothing.
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

/// A file that takes no more writes once it was found damaged, or once the disk has refused anything: what is set aside is as it was
/// found, and nobody builds on a write of which nobody knows how much has landed.
#[derive(Debug)]
pub struct Watched<F> {
    file: F,
    health: Arc<Health>,
    /// Whether anybody has looked at it.
    seen: AtomicBool,
}

impl<F: StorageBackend> Watched<F> {
    pub fn new(file: F, health: Arc<Health>) -> Self {
        Self { file, health, seen: AtomicBool::new(false) }
    }

    /// Empties a file that was [never made](unborn), so that redb makes it. redb asks for the length first of all, once it
    /// has locked the file.
    fn emptied(&self, len: u64) -> io::Result<u64> {
        if self.seen.swap(true, Ordering::Relaxed) || !unborn::is_unborn(&self.file, len)? {
            return Ok(len);
        }
        tracing::warn!(store = %self.health.path.display(), "a store that was begun and never made is made anew");
        self.file.set_len(0)?;
        Ok(0)
    }

    /// Remembers what the disk refuses. That a file ends too early is nothing that it could help.
    fn noted<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| {
            if error.kind() != io::ErrorKind::UnexpectedEof {
                self.health.refused.get_or_init(|| (error.kind(), error.to_string()));
            }
        })
    }

    fn may_change(&self) -> io::Result<()> {
        if let Some(what) = self.health.damage() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()));
        }
        // redb goes on after some writes that were refused, because it has the page still.
        match self.health.refused.get() {
            Some((kind, refused)) => Err(io::Error::new(*kind, refused.clone())),
            None => Ok(()),
        }
    }
}

impl<F: StorageBackend> StorageBackend for Watched<F> {
    fn len(&self) -> io::Result<u64> {
        self.noted(self.file.len().and_then(|len| self.emptied(len)))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.noted(self.file.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.may_change()?;
        self.noted(self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.may_change()?;
        self.noted(self.file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.may_change()?;
        self.noted(self.file.write(offset, data))
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

#[cfg(test)]
mod tests {
    use super::*;
    use redb::backends::FileBackend;

    fn health() -> Health {
        Health::new("chunks-0.redb".into())
    }

    fn io_error(kind: io::ErrorKind) -> redb::Error {
        io::Error::new(kind, "as the system says").into()
    }

    #[test]
    fn damage_is_told_from_a_disk_that_refuses() {
        let is_damage = |error: redb::Error| matches!(health().failed(error), StoreError::Damaged { .. });
        for error in [
            redb::Error::Corrupted("a page".to_owned()),
            redb::Error::UpgradeRequired(1),
            redb::Error::TableDoesNotExist("meta".to_owned()),
            redb::Error::TableIsMultimap("meta".to_owned()),
            io_error(io::ErrorKind::UnexpectedEof),
            io_error(io::ErrorKind::InvalidData),
        ] {
            assert!(is_damage(error));
        }
        for error in [
            io_error(io::ErrorKind::StorageFull),
            io_error(io::ErrorKind::PermissionDenied),
            io::Error::from_raw_os_error(libc::EIO).into(),
            redb::Error::PreviousIo,
            redb::Error::DatabaseAlreadyOpen,
        ] {
            assert!(!is_damage(error));
        }
    }

    #[test]
    fn what_was_found_first_is_what_is_said_from_then_on() {
        let health = health();
        let damaged = |result: Result<(), StoreError>| match result {
            Err(StoreError::Damaged { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        assert!(damaged(health.watch(|| panic!("a page is none"))).starts_with("a page is none (in "));
        assert!(damaged(health.watch(|| unreachable!("nothing is called any more"))).starts_with("a page is none"));
        assert!(damaged(Err(health.failed(redb::Error::PreviousIo))).starts_with("a page is none"));
    }

    #[test]
    fn a_panic_that_comes_of_what_the_disk_has_refused_is_no_damage() {
        let health = Arc::new(health());
        let watched = Watched::new(FileBackend::new(tempfile::tempfile().unwrap()).unwrap(), health.clone());
        assert!(watched.read(0, &mut [0]).is_err(), "it ends too early, and that is noted nowhere");
        assert!(health.refused.get().is_none());
        assert!(watched.set_len(u64::MAX).is_err());
        let failed = health.watch(|| -> Result<(), _> { panic!("unwrapped") }).unwrap_err();
        assert!(matches!(failed, StoreError::Failed { .. }), "{failed:?}");
        assert_eq!(health.damage(), None);
    }

    #[test]
    fn once_the_disk_has_refused_anything_nothing_more_is_written_and_everybody_hears_why() {
        let health = Arc::new(health());
        let watched = Watched::new(FileBackend::new(tempfile::tempfile().unwrap()).unwrap(), health.clone());
        watched.write(0, b"before").unwrap();
        let refused = watched.set_len(u64::MAX).unwrap_err().to_string();
        for result in [watched.write(0, b"behind"), watched.set_len(1), watched.sync_data()] {
            assert_eq!(result.unwrap_err().to_string(), refused);
        }
        let mut found = [0; 6];
        watched.read(0, &mut found).unwrap();
        assert_eq!(&found, b"before");
        let said = health.failed(redb::Error::PreviousIo).to_string();
        assert!(said.contains(&refused), "{said}");
    }
}
