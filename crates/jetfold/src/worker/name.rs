//! What a worker is called, over all its lives.

use crate::nats::names::Names;
use crate::store::StoreError;
use crate::values::{parsed, serde_as_text};
use crate::words::Words;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The name of a worker; empty if it is to be made from the host's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerName(String);

impl FromStr for WorkerName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let valid = text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if valid { Ok(Self(text.to_owned())) } else { Err("up to 64 characters of A-Z a-z 0-9 _ -") }
    }
}

impl fmt::Display for WorkerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_text!(WorkerName);

/// The configured name, or the host's with 8 hex characters that are drawn once and kept in the data folder: two
/// workers of one host with folders of their own never share a name.
pub(super) fn worker_name(
    configured: &WorkerName,
    data_dir: &Path,
    words: &'static Words,
) -> Result<String, StoreError> {
    if !configured.0.is_empty() {
        return Ok(configured.0.clone());
    }
    let path = data_dir.join("worker-id");
    let refuse = |source| StoreError::Folder { path: path.clone(), source, words };
    let kept = || match fs::read(&path) {
        Ok(bytes) => {
            let id = worker_id(&bytes);
            if id.is_none() {
                tracing::error!(path = %path.display(), "the worker's id is damaged: it is drawn again, and the worker has another name");
            }
            Ok(id)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(refuse(error)),
    };
    let suffix = match kept()? {
        Some(suffix) => suffix,
        None => {
            let drawn = hex::encode(rand::random::<[u8; 4]>());
            put(&path, &drawn).map_err(refuse)?;
            // Of two processes that drew at once, the last to write has decided.
            kept()?.unwrap_or(drawn)
        }
    };
    let host: String = gethostname::gethostname()
        .to_string_lossy()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' })
        .take(48)
        .collect();
    Ok(format!("{host}-{suffix}"))
}

/// The name of a worker, taken within its folder: no other process has it there for as long as this is held. The group must not hear
/// of a worker that can't open its stores.
pub(super) struct Taken {
    path: PathBuf,
    /// Locked.
    _file: File,
}

impl Taken {
    /// Takes the name of a worker of one system: others may have their stores in the same folder.
    pub fn new(worker: &str, names: &Names, data_dir: &Path, words: &'static Words) -> Result<Self, StoreError> {
        let path = data_dir.join(format!("{}-{worker}.lock", names.members_bucket()));
        let refuse = |source| StoreError::Folder { path: path.clone(), source, words };
        let file = File::create(&path).map_err(refuse)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path, _file: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: data_dir.to_owned(), words }),
            Err(TryLockError::Error(source)) => Err(refuse(source)),
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // Whoever has opened it in this moment holds a file that is gone. Stores have locks of their own.
        fs::remove_file(&self.path).ok();
    }
}

/// What a file holds that the id of a worker was put into, if that is what it holds.
fn worker_id(bytes: &[u8]) -> Option<String> {
    let text = str::from_utf8(bytes).ok()?.trim();
    let is_id = text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    is_id.then(|| text.to_owned())
}

/// Writes a small file whole or not at all.
fn put(path: &Path, text: &str) -> io::Result<()> {
    let fresh = path.with_extension(std::process::id().to_string());
    fs::write(&fresh, text)?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_a_worker_is_eight_hex_characters_and_all_else_is_damage() {
        assert_eq!(worker_id(b"0badcafe\n"), Some("0badcafe".to_owned()));
        for bytes in [&b""[..], b"0badcaf", b"0badcafe0", b"0badcafg", b"0BADCAFE", b"\xffbadcafe", b"0 adcafe"] {
            assert_eq!(worker_id(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn names_that_jetstream_would_not_take_are_refused() {
        assert!("worker_1-a".parse::<WorkerName>().is_ok());
        for text in ["a.b", "a b", "a*", "ä"] {
            assert!(text.parse::<WorkerName>().is_err(), "{text}");
        }
    }
}
