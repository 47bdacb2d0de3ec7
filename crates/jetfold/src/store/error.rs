//! Why a store can't be used.

use crate::store::Owner;
use crate::words::Words;
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the data folder {} cannot be used: {source}. Name one that can be written with {}", path.display(), words.data_dir)]
    Folder { path: PathBuf, source: io::Error, words: &'static Words },
    #[error(
        "the store {} is in use by another process: stop that one, or give each {} a {} of its own",
        path.display(), words.worker, words.data_dir
    )]
    InUse { path: PathBuf, words: &'static Words },
    #[error(
        "the store {} belongs to partition {} of {} of the log {}, not to partition {} of {} of {}: name another {}",
        path.display(), found.partition, found.partitions, found.log, wanted.partition, wanted.partitions, wanted.log, words.data_dir
    )]
    Foreign { path: PathBuf, found: Box<Owner>, wanted: Box<Owner>, words: &'static Words },
    #[error(
        "the store {} has {what}, which this version does not know: run the version that wrote it, or move the file away to \
         have it made again from a snapshot or the log",
        path.display()
    )]
    UnknownFormat { path: PathBuf, what: String },
    /// Its bytes are not what was written. It can be made again.
    #[error("the store {} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error(
        "the store {path} is damaged ({what}), as {before} before it were, which lie beside it as {path}.damaged-…: see that \
         the disk is sound, and move those away",
        path = path.display()
    )]
    DamagedAgain { path: PathBuf, what: String, before: usize },
    #[error("the store {} failed: {source}", path.display())]
    Failed { path: PathBuf, source: Box<redb::Error> },
}
