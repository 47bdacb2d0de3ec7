//! The stores of one worker: where they are, whose they are, and how much memory each may take.

use crate::application::Application;
use crate::nats::names::Names;
use crate::nats::topology::Topology;
use crate::store::{Owner, Store, StoreError};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Debug)]
pub struct Stores {
    names: Names,
    partitions: u32,
    data_dir: PathBuf,
    cache_bytes: u64,
    /// Memory for the pages of one store, in bytes.
    page_bytes: u64,
    /// How many partitions share the memory for rows.
    sharing: Arc<AtomicU64>,
}

impl Stores {
    /// `cache_bytes` is shared by `most` partitions at the most.
    pub fn new<A>(topology: &Topology<A>, data_dir: PathBuf, cache_bytes: u64, most: usize) -> Self {
        let page_bytes = cache_bytes / most.max(1) as u64 / 8;
        let (names, partitions) = (topology.names.clone(), topology.partitions);
        Self { names, partitions, data_dir, cache_bytes, page_bytes, sharing: Arc::new(AtomicU64::new(most as u64)) }
    }

    /// So many partitions are folded or followed from now on.
    pub fn share_among(&self, partitions: usize) {
        self.sharing.store(partitions as u64, Ordering::Relaxed);
    }

    /// Memory for the rows of one partition that are ready to use, in bytes. Most of the memory goes to them; pages serve the rows
    /// that were let go. The rest is left for what a store has changed and not written yet.
    pub fn row_bytes(&self) -> u64 {
        self.cache_bytes / self.sharing.load(Ordering::Relaxed).max(1) / 4 * 3
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
