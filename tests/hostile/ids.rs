//! IDs that are chosen to meet: in the table of rows, in the tree of a store, in the hash that partitions are chosen by.

use crate::forge::{chunk, of_one_hash};
use crate::model::Id;
use crate::partition::RULES;
use jetfold::store::{Owner, Store};
use jetfold::{Batch, Checkpoint, Share, Table};
use nix::sys::resource::{UsageWho, getrusage};
use std::sync::Arc;
use stream_sum::sum::Summer;

const STREAMS: u32 = 4_000;

/// Chunks of one batch.
const BATCH: usize = 500;

/// How often each kind is folded, in turns: the least that one takes counts.
const ROUNDS: usize = 4;

/// What folding so many streams takes.
#[derive(Clone, Copy)]
struct Cost {
    /// Of the thread, in microseconds: what others do on the machine does not count.
    cpu: i64,
    /// Of the store's file, in bytes.
    file: u64,
}

fn cpu() -> i64 {
    // Only Linux tells one thread from others.
    #[cfg(target_os = "linux")]
    let who = UsageWho::RUSAGE_THREAD;
    #[cfg(not(target_os = "linux"))]
    let who = UsageWho::RUSAGE_SELF;
    let used = getrusage(who).unwrap();
    let micros = |time: nix::sys::time::TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    micros(used.user_time()) + micros(used.system_time())
}

/// Opens, extends and closes a stream for each ID, in that order, with a commit after each batch: so that rows are let go of, and read
/// back from the store.
fn fold(ids: &[Id]) -> Cost {
    let folder = tempfile::tempdir().unwrap();
    let owner = Owner { log: "chunks-0".into(), partition: 0, partitions: 1 };
    let store = Store::<Summer>::open(folder.path(), &owner, 1 << 20).unwrap();
    store.begin(&Checkpoint::start_of(1)).unwrap();
    let share = Share { partition: 0, partitions: 1 };
    let row_bytes = 1_000 * Table::<Summer>::HELD_ROW_BYTES;
    let mut table = Table::new(Arc::new(Summer::new(RULES)), share, row_bytes, Checkpoint::start_of(1));
    let mut batches = Vec::new();
    for (number, len) in [(1, 9), (2, 9), (3, 0)] {
        for ids in ids.chunks(BATCH) {
            let mut payload = Vec::new();
            ids.iter().for_each(|id| chunk(&mut payload, id, number, len));
            batches.push(payload);
        }
    }
    let (mut finals, began) = (0, cpu());
    for (payload, position) in batches.into_iter().zip(1..) {
        let batch = Batch { position, time: 1, payload: payload.into(), stamp: None };
        let mut staged = table.stage(&batch.payload);
        for (id, row) in store.rows(&mut std::mem::take(&mut staged.missing)).unwrap() {
            table.supply(&id, row);
        }
        finals += table.fold(&batch, staged).outputs.len();
        let transaction = table.seal(position - 1, &[]).unwrap();
        store.commit(&transaction).unwrap();
        table.committed(transaction.number);
    }
    assert_eq!(finals, ids.len());
    Cost { cpu: cpu() - began, file: store.size().unwrap().bytes }
}

fn kinds() -> Vec<(&'static str, Vec<Id>)> {
    let numbered = |n: u32| u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let random = (0..STREAMS).map(|n| numbered(n).to_le_bytes()).collect();
    let with = |place: usize| {
        move |n: u32| {
            let mut id = [7; 16];
            id[place..place + 4].copy_from_slice(&n.to_be_bytes());
            id
        }
    };
    let of_one_hash = of_one_hash();
    let meeting = (0..STREAMS).map(|n| {
        let begin = of_one_hash[n as usize % of_one_hash.len()];
        [&begin[..], &(n / of_one_hash.len() as u32).to_be_bytes()].concat().try_into().unwrap()
    });
    vec![
        ("random", random),
        ("counted up in the last bytes", (0..STREAMS).map(with(12)).collect()),
        ("counted down", (0..STREAMS).rev().map(with(12)).collect()),
        ("the same last bytes", (0..STREAMS).map(with(0)).collect()),
        ("the same first and last bytes", (0..STREAMS).map(with(6)).collect()),
        ("of one hash, eight at a time", meeting.collect()),
    ]
}

#[test]
fn streams_whose_ids_are_chosen_to_meet_cost_no_more_than_others() {
    let kinds = kinds();
    let mut least: Vec<Option<Cost>> = vec![None; kinds.len()];
    for _ in 0..ROUNDS {
        for ((_, ids), least) in kinds.iter().zip(&mut least) {
            let Cost { cpu, file } = fold(ids);
            let before = least.unwrap_or(Cost { cpu, file });
            *least = Some(Cost { cpu: cpu.min(before.cpu), file: file.min(before.file) });
        }
    }
    let least: Vec<_> = least.into_iter().flatten().collect();
    for ((what, _), cost) in kinds.iter().zip(&least) {
        let times = cost.cpu as f64 / least[0].cpu as f64;
        let bytes = cost.file as f64 / least[0].file as f64;
        println!("{what}: {times:.2} times the work, {bytes:.2} times the bytes on disk");
        assert!(times < 2.0 && bytes < 2.0, "{what}: {times:.2} times the work, {bytes:.2} times the bytes on disk");
    }
}
