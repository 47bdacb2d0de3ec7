//! Chunk batches: a million of them through the table that a summer folds with.

use crate::decoder;
use crate::dice::{Dice, messages};
use crate::forge::{Forge, chunk};
use crate::heap;
use crate::model::Model;
use crate::partition::{INTERVAL, MAX_CHUNK_BYTES, MOST_ROWS, Partition, RULES};
use jetfold::{Application, Share};
use stream_sum::sum::Summer;

/// Sends so many batches to a partition, and to the model of it.
fn send(seed: u64, share: Share, many: u64) {
    let mut forge = Forge::new(Dice::of(seed));
    let mut model = Model::new(share.partition, share.partitions, MAX_CHUNK_BYTES);
    let mut partition = Partition::new(share);
    let (mut refused, mut records, mut rejected, mut folded) = (0, 0, 0, 0);
    for _ in 0..messages(many) {
        let batch = forge.batch();
        forge.dice.is_sent(&batch);
        let len = batch.len();
        let expected = model.fold(&batch);
        let (found, largest) = heap::largest(|| partition.fold(batch));
        assert_eq!(found, expected);
        // A table that grows has each of its rows twice for a moment; of a batch there is no more than a few dozen bytes for each of its own.
        let rows = (partition.store.len() as u64 + MOST_ROWS + INTERVAL * 40 + len as u64) * 256;
        assert!(largest as u64 <= 64 * len as u64 + rows, "{largest} bytes at once for a batch of {len}");
        refused += u64::from(found.records == 0);
        records += found.records;
        rejected += found.rejected.len() as u64;
        folded += if found.records == 0 { 0 } else { found.records - found.duplicates - found.rejected.len() as u64 };
    }
    // The mix is worth something only if much is taken, and much is not.
    let sent = messages(many);
    assert!(refused > sent / 10 && refused < sent * 9 / 10, "{refused} of {sent} undecodable");
    let rejected = rejected - refused;
    println!(
        "{sent} batches: {refused} undecodable, of the others {records} records, {rejected} rejected, {folded} folded"
    );
    assert!(rejected > records / 20 && folded > records / 20, "{rejected} and {folded} of {records}");
}

// Side by side, since tests run beside each other.

#[test]
fn a_first_quarter_million_of_batches_is_accounted_for_record_by_record() {
    send(1, Share { partition: 0, partitions: 1 }, 250_000);
}

#[test]
fn a_second_quarter_million_of_batches_is_accounted_for_record_by_record() {
    send(2, Share { partition: 0, partitions: 1 }, 250_000);
}

#[test]
fn a_third_quarter_million_of_batches_is_accounted_for_where_most_belongs_to_other_partitions() {
    send(3, Share { partition: 1, partitions: 3 }, 250_000);
}

#[test]
fn a_fourth_quarter_million_of_batches_is_accounted_for_where_most_belongs_here() {
    send(4, Share { partition: 0, partitions: 2 }, 250_000);
}

#[test]
fn each_byte_at_each_place_of_a_batch_is_taken_or_refused_as_the_format_says() {
    let mut batch = Vec::new();
    chunk(&mut batch, &[1; 16], 1, 2);
    chunk(&mut batch, &[1; 16], 300, 3);
    let summer = Summer::new(RULES);
    for at in 0..batch.len() {
        for byte in 0..=255 {
            let mut batch = batch.clone();
            batch[at] = byte;
            let found = summer.records(&batch).collect::<Result<Vec<_>, _>>();
            let expected = decoder::chunks(&batch);
            match (&found, &expected) {
                (Ok(found), Ok(expected)) => {
                    let found = found.iter().map(|chunk| (*chunk.id.as_bytes(), chunk.seq_no.get(), chunk.data));
                    assert!(found.eq(expected.iter().copied()), "byte {byte} at {at}");
                }
                (Err(found), Err(expected)) => assert_eq!(found.index, *expected, "byte {byte} at {at}"),
                _ => panic!("byte {byte} at {at}: {found:?}, and {expected:?}"),
            }
        }
    }
}

#[test]
fn what_a_header_announces_and_nobody_sends_takes_no_memory() {
    let announced = [
        vec![0xdd, 0xff, 0xff, 0xff, 0xff],
        vec![0xdc, 0xff, 0xff],
        vec![0x93, 0xc6, 0xff, 0xff, 0xff, 0xff],
        vec![0xdd, 0, 0, 0, 3, 0xc6, 0x7f, 0xff, 0xff, 0xff],
        [&[0x93, 0xc4, 16][..], &[1; 16], &[1, 0xc6, 0xff, 0xff, 0xff, 0xff]].concat(),
        [&[0x93, 0xc4, 16][..], &[1; 16], &[1, 0xc6, 0x10, 0, 0, 0, 7]].concat(),
        [&[0x93, 0xc4, 16][..], &[1; 16], &[1, 0xc5, 0xff, 0xff, 7]].concat(),
        [&[0x93, 0xc4, 16][..], &[1; 16], &[1, 0xdb, 0xff, 0xff, 0xff, 0xff]].concat(),
        [&[0x93, 0xc4, 16][..], &[1; 16], &[0xdd, 0xff, 0xff, 0xff, 0xff]].concat(),
    ];
    for payload in announced {
        let mut partition = Partition::new(Share { partition: 0, partitions: 1 });
        let (found, largest) = heap::largest(|| partition.fold(payload.clone()));
        assert_eq!(found.rejected, [(0, "undecodable")], "{}", hex::encode(&payload));
        assert!(largest < 4 << 10, "{largest} bytes for {}", hex::encode(&payload));
    }
}

#[test]
fn the_largest_message_of_the_smallest_chunks_takes_a_bounded_multiple_of_its_bytes() {
    // What a server takes by default.
    const MESSAGE: usize = 1 << 20;
    let (mut batch, mut id) = (Vec::new(), [0; 16]);
    while batch.len() < MESSAGE - 22 {
        // Each of another stream, and every other one refused for another reason than its neighbours.
        let n = batch.len() as u64;
        id[..8].copy_from_slice(&n.to_be_bytes());
        chunk(&mut batch, &id, 1 + n / 22 % 2, 0);
    }
    let mut partition = Partition::new(Share { partition: 0, partitions: 1 });
    let before = heap::held();
    let (found, largest) = heap::largest(|| partition.fold(batch));
    assert_eq!((found.records, found.finals.len(), found.rejected.len()), (47_662, 23_831, 23_831));
    assert!(largest < 24 * MESSAGE, "{largest} bytes at once");
    drop(found);
    while !partition.table.position().is_multiple_of(INTERVAL) {
        partition.fold(Vec::new());
    }
    partition.store.clear();
    partition.store.shrink_to_fit();
    let after = heap::held() - before;
    assert!(after < (8 * MESSAGE).cast_signed(), "{after} bytes are held for it once it is committed");
}
