//! The stores of one worker: where they are, whose they are, and how much memory each may take.

use crate::application::Application;
use crate::bus::topology::Topology;
use crate::store::{Owner, Store, StoreError};
use std::path::PathBuf;

#[derive(Clone, Debug)]
pub struct Stores {
    topology: Topology,
    data_dir: PathBuf,
    /// Memory of one partition, in bytes: for rows that are ready to use, and for pages of its store.
    pub row_bytes: u64,
    page_bytes: u64,
}

impl Stores {
    /// `cache_bytes` is shared by the `partitions` partitions that this worker folds.
    pub fn new(topology: Topology, data_dir: PathBuf, cache_bytes: u64, partitions: usize) -> Self {
        let share = cache_bytes / partitions.max(1) as u64;
        // Most of the memory goes to rows; pages serve the rows that were let go. The rest is left for what a store has
        // changed and not written yet.
        Self { topology, data_dir, row_bytes: share / 4 * 3, page_bytes: share / 8 }
    }

    /// Whose fold the store of a partition is.
    pub fn owner(&self, partition: u32) -> Owner {
        Owner { log: self.topology.names.log(partition), partition, partitions: self.topology.partitions }
    }

    /// Opens the store of a partition, or makes it. One that is damaged is set aside.
    pub fn open<A: Application>(&self, partition: u32) -> Result<Store<A>, StoreError> {
        let cache_bytes = usize::try_from(self.page_bytes).unwrap_or(usize::MAX);
        Store::open_or_replace(&self.data_dir, &self.owner(partition), cache_bytes)
    }
}
