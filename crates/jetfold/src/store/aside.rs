//! Damaged stores that were set aside: renamed, and kept for whoever wants to know, as they were but for what redb notes in
//! the first page when it opens one.
//!
//! `log-0.redb` becomes `log-0.redb.damaged-20261126T020811Z`, in the same folder; the time is UTC.

use crate::store::StoreError;
use crate::words::Words;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// Of one log. A disk that damages one store after the other is not mended by making more of them.
pub const MOST: usize = 3;

const MARK: &str = ".damaged-";

/// Renames the store at `path`, in which `what` is damaged, and says so. Where it is then; `None` if somebody else has
/// taken it away.
pub fn set_aside(path: &Path, what: &str, words: &'static Words) -> Result<Option<PathBuf>, StoreError> {
    let refuse = |source| StoreError::Folder { path: path.to_owned(), source, words };
    let before = found(path).map_err(refuse)?;
    if before.len() >= MOST {
        return Err(StoreError::DamagedAgain { path: path.to_owned(), what: what.to_owned(), before: before.len() });
    }
    let aside = free(path, OffsetDateTime::now_utc());
    match fs::rename(path, &aside) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refuse(error)),
    }
    tracing::error!(
        store = %path.display(), aside = %aside.display(), what,
        "a store is damaged: it was set aside, and is made again from a snapshot or the log"
    );
    Ok(Some(aside))
}

/// The damaged stores that were set aside in place of the one at `path`, the oldest first.
pub fn found(path: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(folder) = path.parent() else { return Ok(Vec::new()) };
    let begins = with(path, MARK);
    let Some(begins) = begins.file_name() else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(begins.as_encoded_bytes()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// A name that nothing has.
fn free(path: &Path, at: OffsetDateTime) -> PathBuf {
    let (date, time) = (at.date(), at.time());
    let stamp = format!(
        "{MARK}{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second()
    );
    let first = with(path, &stamp);
    let more = (2..).map(|n| with(path, &format!("{stamp}-{n}")));
    let mut names = std::iter::once(first).chain(more);
    names.find(|name| name.symlink_metadata().is_err()).expect("a folder is not endless")
}

fn with(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_kept_under_a_name_of_its_own_and_the_fourth_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chunks-1.redb");
        for other in ["chunks-10.redb.damaged-x", "chunks-1.redb", "chunks-1.redb.damage"] {
            fs::write(folder.path().join(other), "another").unwrap();
        }
        for n in 0..MOST {
            fs::write(&path, format!("damaged {n}")).unwrap();
            let aside = set_aside(&path, "a row", &Words::DEFAULT).unwrap().unwrap();
            assert!(!path.exists());
            assert_eq!(fs::read_to_string(&aside).unwrap(), format!("damaged {n}"));
            assert_eq!(found(&path).unwrap().len(), n + 1);
        }
        assert_eq!(set_aside(&path, "a row", &Words::DEFAULT).unwrap_err().to_string(), {
            let path = path.display();
            format!(
                "the store {path} is damaged (a row), as 3 before it were, which lie beside it as {path}.damaged-…: see that \
                 the disk is sound, and move those away"
            )
        });
        for n in 0..MOST {
            fs::remove_file(&found(&path).unwrap()[0]).unwrap();
            assert_eq!(found(&path).unwrap().len(), MOST - 1 - n);
        }
        assert_eq!(set_aside(&path, "a row", &Words::DEFAULT).unwrap(), None, "somebody has taken it away");
    }

    #[test]
    fn a_name_says_when_and_is_never_given_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chunks-0.redb");
        let at = OffsetDateTime::from_unix_timestamp(1_795_658_891).unwrap();
        for name in ["20261126T020811Z", "20261126T020811Z-2", "20261126T020811Z-3"] {
            let next = free(&path, at);
            assert_eq!(next, folder.path().join(format!("chunks-0.redb.damaged-{name}")));
            fs::write(next, "").unwrap();
        }
    }
}
