//! The stores of one worker: where they are, whose they are, and how much memory each may take.

use crate::application::Application;
use crate::nats::names::Names;
use crate::nats::topology::Topology;
use crate::store::{Owner, Store, StoreError};
use std::path::PathBuf;

#[derive(Clone, Debug)]
pub struct Stores {
    names: Names,
    partitions: u32,
    data_dir: PathBuf,
    /// Memory of one partition, in bytes: for rows that are ready to use, and for pages of its store.
    pub row_bytes: u64,
    page_bytes: u64,
}

impl Stores {
    /// `cache_bytes` is shared by so many partitions as this worker folds.
    pub fn new<A>(topology: &Topology<A>, data_dir: PathBuf, cache_bytes: u64, folded: usize) -> Self {
        let share = cache_bytes / folded.max(1) as u64;
        let (names, partitions) = (topology.names.clone(), topology.partitions);
        // Most of the memory goes to rows; pages serve the rows that were let go. The rest is left for what a store has
        // changed and not written yet.
        Self { names, partitions, data_dir, row_bytes: share / 4 * 3, page_bytes: share / 8 }
    }

    /// Whose fold the store of a partition is.
    pub fn owner(&self, partition: u32) -> Owner {
        Owner { log: self.names.log(partition), partition, partitions: self.partitions }
    }

    /// Opens the store of a partition, or makes it. One that is damaged is set aside.
    pub fn open<A: Application>(&self, partition: u32) -> Result<Store<A>, StoreError> {
        let cache_bytes = usize::try_from(self.page_bytes).unwrap_or(usize::MAX);
        Store::open_or_replace(&self.data_dir, &self.owner(partition), cache_bytes)
    }
}
