//! The pure floor: what a chunk costs before any of it touches a network or a disk. `cargo bench --bench fold`

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use jetfold::Batch;
use jetfold::Checkpoint;
use jetfold::{Share, Table};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use sha1::{Digest, Sha1};
use std::sync::Arc;
use std::time::{Duration, Instant};
use stream_sum::Chunk;
use stream_sum::run::interleaved::Interleaved;
use stream_sum::run::workload::Workload;
use stream_sum::sum::chunk::SeqNo;
use stream_sum::sum::codec;
use stream_sum::sum::held::fold_held;
use stream_sum::sum::row::Expiry;
use stream_sum::sum::stream_id::{RunPrefix, StreamId};
use stream_sum::sum::{Rules, Summer};

/// Bytes of one batch: what a chunker fills by default.
const BATCH_BYTES: usize = 256 << 10;

/// Batches between two checkpoints.
const TRANSACTION: u64 = 256;

/// Streams that take turns at random, and never end.
struct Streams {
    seq_nos: Vec<u64>,
    data: Vec<u8>,
    turns: SmallRng,
}

impl Streams {
    fn new(live: usize, chunk_bytes: usize) -> Self {
        Self { seq_nos: vec![1; live], data: vec![7; chunk_bytes], turns: SmallRng::seed_from_u64(1) }
    }

    fn push(&mut self, payload: &mut Vec<u8>, n: usize) {
        let id = StreamId::of_run(RunPrefix([1; 4]), n as u64);
        let seq_no = SeqNo::new(self.seq_nos[n]).expect("1 and more");
        self.seq_nos[n] += 1;
        codec::encode_chunk(payload, &Chunk { id, seq_no, data: &self.data });
    }

    /// Batches that open every stream.
    fn open(&mut self) -> Vec<Bytes> {
        let mut batches = Vec::new();
        let mut payload = Vec::new();
        for n in 0..self.seq_nos.len() {
            self.push(&mut payload, n);
            if payload.len() >= BATCH_BYTES {
                batches.push(std::mem::take(&mut payload).into());
            }
        }
        // An empty batch is none: it would be rejected.
        batches.extend((!payload.is_empty()).then(|| payload.into()));
        batches
    }

    /// The next batch, and how many chunks it holds.
    fn batch(&mut self) -> (Bytes, u64) {
        let (mut payload, mut chunks) = (Vec::with_capacity(BATCH_BYTES + 2 * self.data.len()), 0);
        while payload.len() < BATCH_BYTES {
            let n = self.turns.random_range(0..self.seq_nos.len());
            self.push(&mut payload, n);
            chunks += 1;
        }
        (payload.into(), chunks)
    }
}

struct Folding {
    table: Table<Summer>,
    position: u64,
}

impl Folding {
    fn new() -> Self {
        let hour = 3_600_000_000_000;
        let expiry = Expiry { idle: hour, completed: hour };
        let summer = Arc::new(Summer::new(Rules { max_chunk_bytes: 1 << 20, expiry }));
        let share = Share { partition: 0, partitions: 1 };
        Self { table: Table::new(summer, share, u64::MAX, Checkpoint::start_of(1)), position: 0 }
    }

    /// Decodes and folds, and ends a transaction now and then, as a summer does.
    fn fold(&mut self, payload: Bytes) {
        self.position += 1;
        let batch = Batch { position: self.position, time: 1, payload, stamp: None };
        let folded = fold_held(&mut self.table, &batch);
        assert!(folded.rejected.is_none());
        if self.position.is_multiple_of(TRANSACTION) {
            self.table.seal(0, &[]);
        }
    }
}

/// Nanoseconds a chunk, over streams that are all open.
fn extending(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a chunk of an open stream");
    group.throughput(Throughput::Elements(1));
    for (chunk_bytes, live) in [(32, 1_000), (32, 100_000), (32, 1_000_000), (1 << 10, 1_000), (64 << 10, 1_000)] {
        let name = BenchmarkId::new(format!("{chunk_bytes} bytes"), format!("{live} live streams"));
        group.bench_function(name, |bencher| {
            let mut streams = Streams::new(live, chunk_bytes);
            let mut folding = Folding::new();
            streams.open().into_iter().for_each(|payload| folding.fold(payload));
            bencher.iter_custom(|chunks| {
                let (mut folded, mut elapsed) = (0, Duration::ZERO);
                while folded < chunks {
                    let (payload, count) = streams.batch();
                    let began = Instant::now();
                    folding.fold(payload);
                    elapsed += began.elapsed();
                    folded += count;
                }
                elapsed.mul_f64(chunks as f64 / folded as f64)
            });
        });
    }
    group.finish();
}

/// Nanoseconds a chunk, over whole streams: opened, extended, completed.
fn completing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a chunk of whole streams");
    for chunks in [3, 100] {
        let workload = Workload { seed: 1, chunks, chunk_bytes: 32 };
        let mut streams = Interleaved::new(workload, 1, 0);
        let count = 4_000;
        (0..count).for_each(|n| _ = streams.open(StreamId::of_run(RunPrefix([1; 4]), n)));
        let mut payload = Vec::new();
        let mut batches: Vec<Bytes> = Vec::new();
        while let Some(turn) = streams.next_chunk() {
            codec::encode_chunk(&mut payload, &turn.chunk);
            if payload.len() >= BATCH_BYTES {
                batches.push(std::mem::take(&mut payload).into());
            }
        }
        batches.extend((!payload.is_empty()).then(|| payload.into()));
        group.throughput(Throughput::Elements(count * (chunks + 1)));
        group.bench_function(format!("{chunks} chunks a stream"), |bencher| {
            let fold = |mut folding: Folding| {
                batches.iter().for_each(|payload| folding.fold(payload.clone()));
                folding
            };
            bencher.iter_batched(Folding::new, fold, BatchSize::PerIteration);
        });
    }
    group.finish();
}

/// What generating a chunk costs: its content, its share of the expected sum, and its encoding.
fn generating(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("generating a chunk");
    for chunk_bytes in [32, 1 << 10] {
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("{chunk_bytes} bytes"), |bencher| {
            let mut streams = Interleaved::new(Workload { seed: 1, chunks: u64::MAX, chunk_bytes }, 1, 0);
            (0..100).for_each(|n| _ = streams.open(StreamId::of_run(RunPrefix([1; 4]), n)));
            let mut payload = Vec::with_capacity(BATCH_BYTES + 2 * chunk_bytes);
            bencher.iter(|| {
                let turn = streams.next_chunk().expect("streams without end");
                codec::encode_chunk(&mut payload, &turn.chunk);
                if payload.len() >= BATCH_BYTES {
                    payload.clear();
                }
            });
        });
    }
    group.finish();
}

/// What no fold can be faster than.
fn floor(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("floor");
    for bytes in [32, 1 << 10, 64 << 10] {
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("SHA-1 of {bytes} bytes more"), |bencher| {
            let data = vec![7; bytes];
            let mut sha1 = Sha1::new();
            bencher.iter(|| sha1.update(&data));
        });
    }
    group.throughput(Throughput::Elements(1));
    let (payload, chunks) = Streams::new(1_000, 32).batch();
    group.throughput(Throughput::Elements(chunks));
    group.bench_function("decoding a batch, 32 bytes a chunk", |bencher| {
        bencher.iter(|| codec::chunks(&payload).map(|chunk| chunk.expect("a chunk").data.len()).sum::<usize>());
    });
    group.finish();
}

criterion_group!(benches, floor, generating, extending, completing);
criterion_main!(benches);
