//! What holds for every log: however content is split, repeated and replayed, its sum is the SHA-1 of the whole; and
//! wherever a fold is restarted, its store is the same.

use crate::support::batch;
use futures_util::FutureExt;
use jetfold::Batch;
use jetfold::Checkpoint;
use jetfold::store::{Owner, Store};
use jetfold::testing::restart_points;
use jetfold::{Share, Table};
use proptest::collection::vec;
use proptest::prelude::*;
use sha1::{Digest, Sha1};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use stream_sum::sum::row::{Expiry, Row};
use stream_sum::sum::running::{RunningSum, Sum};
use stream_sum::sum::stream_id::StreamId;
use stream_sum::sum::{Rules, Summer};

const PARTITIONS: u32 = 2;

fn summer() -> Summer {
    Summer::new(Rules { max_chunk_bytes: 64, expiry: Expiry { idle: 50, completed: 70 } })
}

/// A table that holds no row longer than it must.
fn table(at: Checkpoint) -> Table<Summer> {
    Table::new(Arc::new(summer()), Share { partition: 0, partitions: PARTITIONS }, 0, at)
}

fn id(n: usize) -> StreamId {
    crate::support::id_in(0, PARTITIONS, 3, n)
}

fn open(folder: &std::path::Path) -> Store<Summer> {
    let owner = Owner { log: "chunks-0".into(), partition: 0, partitions: PARTITIONS };
    Store::<Summer>::open(folder, &owner, 1 << 20).unwrap()
}

/// Folds a log into a store. After each batch, `then` says whether to commit, or to lose what is not committed and
/// start again from the store.
fn fold_log(log: &[Batch], then: &[Then]) -> (Vec<(StreamId, Row)>, Checkpoint, Vec<Sum>) {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Arc::new(open(folder.path()));
    store.begin(&Checkpoint::start_of(1)).unwrap();
    let mut table = table(Checkpoint::start_of(1));
    let mut finals = Vec::new();
    let mut restarts = then.iter().filter(|then| **then == Then::Restart).count();
    let mut steps = then.iter().cycle();
    let mut next = 0;
    while next < log.len() {
        // Few rows are looked up at once, without a runtime.
        finals.extend(table.consume(&store, &log[next]).now_or_never().unwrap().unwrap().outputs);
        next += 1;
        match steps.next() {
            Some(Then::Commit) => {
                let transaction = table.seal(0, &[]).unwrap();
                store.commit(&transaction).unwrap();
                table.committed(transaction.number);
            }
            // Each restart once, or the log would never end.
            Some(Then::Restart) if restarts > 0 => {
                restarts -= 1;
                drop(store);
                store = Arc::new(open(folder.path()));
                let checkpoint = store.checkpoint().unwrap().unwrap();
                next = checkpoint.position as usize;
                table = self::table(checkpoint);
            }
            _ => {}
        }
    }
    if let Some(transaction) = table.seal(0, &[]) {
        store.commit(&transaction).unwrap();
    }
    (store.rows_after(None, usize::MAX).unwrap().0, store.checkpoint().unwrap().unwrap(), finals)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    GoOn,
    Commit,
    Restart,
}

fn then() -> impl Strategy<Value = Vec<Then>> {
    vec(prop_oneof![3 => Just(Then::GoOn), 2 => Just(Then::Commit), 1 => Just(Then::Restart)], 1..12)
}

/// Any log at all: chunks in and out of order, of few streams, junk, and time that steps back.
fn any_log() -> impl Strategy<Value = Vec<Batch>> {
    let chunk = (0..4usize, 1..6u64, prop_oneof![4 => vec(any::<u8>(), 1..80), 1 => Just(Vec::new())]);
    let payload = prop_oneof![
        9 => vec(chunk, 1..6).prop_map(|chunks| {
            batch(&chunks.iter().map(|(n, seq_no, data)| (id(*n), *seq_no, data.as_slice())).collect::<Vec<_>>())
        }),
        1 => vec(any::<u8>(), 0..9),
    ];
    vec((payload, -5..30i64), 1..40).prop_map(|batches| {
        let mut time = 100;
        let numbered = batches.into_iter().zip(1..).map(|((payload, step), position)| {
            time += step;
            Batch { position, time, payload: payload.into(), stamp: None }
        });
        numbered.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn a_restart_after_any_batch_gives_the_same_outputs_rejects_and_store(log in any_log()) {
        prop_assert_eq!(restart_points(summer(), &log), Ok(()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_restart_point_gives_the_same_store(log in any_log(), then in then()) {
        let (rows, checkpoint, finals) = fold_log(&log, &[Then::GoOn]);
        let (rows_again, checkpoint_again, finals_again) = fold_log(&log, &then);
        prop_assert_eq!(rows, rows_again);
        prop_assert_eq!(checkpoint, checkpoint_again);
        // A replay may publish again, but nothing else: each final once at least, and the same.
        let distinct = |finals: &[Sum]| finals.iter().map(|sum| (sum.id, sum.seq_no, sum.value.0)).collect::<std::collections::BTreeSet<_>>();
        prop_assert_eq!(distinct(&finals), distinct(&finals_again));
    }

    #[test]
    fn any_split_duplication_and_replay_sums_to_the_sha1_of_the_whole(
        contents in vec(vec(any::<u8>(), 0..300), 1..4),
        cuts in vec(1..60usize, 1..20),
        order in vec((0..4usize, 0..3usize), 200),
        then in then(),
    ) {
        // Each content is cut into chunks; streams take turns, and now and then a chunk or an old one comes again.
        let mut cuts = cuts.into_iter().cycle();
        let chunks: Vec<Vec<&[u8]>> = contents
            .iter()
            .map(|content| {
                let mut rest = content.as_slice();
                let mut chunks = Vec::new();
                while !rest.is_empty() {
                    let (head, tail) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                    chunks.push(head);
                    rest = tail;
                }
                chunks.push(&[]);
                chunks
            })
            .collect();
        let mut sent = vec![0; contents.len()];
        let mut batches: Vec<Vec<u8>> = Vec::new();
        let mut turns = order.into_iter().cycle();
        while sent.iter().zip(&chunks).any(|(sent, chunks)| *sent < chunks.len()) {
            let (turn, again) = turns.next().unwrap();
            let open: Vec<_> = (0..contents.len()).filter(|n| sent[*n] < chunks[*n].len()).collect();
            let n = open[turn % open.len()];
            let seq = sent[n];
            sent[n] += 1;
            let first = seq.saturating_sub(again);
            let run: Vec<_> = (first..=seq).map(|k| (id(n), k as u64 + 1, chunks[n][k])).collect();
            batches.push(batch(&run));
            if again == 2 {
                batches.push(batches[batches.len() / 2].clone());
            }
        }
        let log: Vec<_> = batches
            .into_iter()
            .zip(1..)
            .map(|(payload, position)| Batch { position, time: 5, payload: payload.into(), stamp: None })
            .collect();
        let (rows, _, finals) = fold_log(&log, &then);
        let sums: HashMap<_, _> = finals.iter().map(|sum| (sum.id, sum.value.0)).collect();
        for (n, content) in contents.iter().enumerate() {
            prop_assert_eq!(sums.get(&id(n)).copied(), Some(Sha1::digest(content).into()));
        }
        let completed: BTreeMap<_, _> = rows.iter().filter_map(|(id, row)| Some((*id, row.final_sum(*id)?))).collect();
        prop_assert_eq!(completed.len(), contents.len());
    }

    #[test]
    fn a_running_sum_resumes_from_its_state_anywhere(content in vec(any::<u8>(), 1..400), cut in 0..400usize) {
        let cut = cut.min(content.len());
        let chunk = |seq_no, data| stream_sum::sum::chunk::Chunk {
            id: id(0), seq_no: stream_sum::sum::chunk::SeqNo::new(seq_no).unwrap(), data,
        };
        let head = RunningSum::open(&chunk(1, &content[..cut]));
        let mut sum = RunningSum::resume(head.seq_no(), head.state()).unwrap();
        sum.update(&chunk(2, &content[cut..])).unwrap();
        prop_assert_eq!(sum.value().0, <[u8; 20]>::from(Sha1::digest(&content)));
    }
}
