//! Chunk batches, decoded and folded: each record is accounted for as a model in a hundred lines does it.
//!
//! The first byte says how many partitions there are. Then each batch follows behind its length, in two bytes, little-endian; the rest
//! is one more.

#![no_main]

#[path = "../../tests/hostile/decoder.rs"]
mod decoder;
#[path = "../../tests/hostile/model.rs"]
mod model;
#[path = "../../tests/hostile/partition.rs"]
mod partition;

use jetfold::Share;
use libfuzzer_sys::fuzz_target;
use model::Model;
use partition::{MAX_CHUNK_BYTES, Partition};

fuzz_target!(|input: &[u8]| {
    let Some((partitions, mut rest)) = input.split_first() else { return };
    let share = Share { partition: 0, partitions: u32::from(*partitions % 4) + 1 };
    let (mut folding, mut model) = (Partition::new(share), Model::new(0, share.partitions, MAX_CHUNK_BYTES));
    while let Some((len, behind)) = rest.split_first_chunk() {
        let (batch, behind) = behind.split_at(usize::from(u16::from_le_bytes(*len)).min(behind.len()));
        rest = behind;
        assert_eq!(folding.fold(batch.to_vec()), model.fold(batch));
    }
    assert_eq!(folding.fold(rest.to_vec()), model.fold(rest));
    folding.commit();
});
