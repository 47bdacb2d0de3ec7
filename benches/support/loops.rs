//! Loops that do a part of the work and promise nothing: what the program is measured against.

use super::load::Made;
use super::stack::Stack;
use async_nats::jetstream::{self, consumer, stream};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt, try_join_all};
use futures_util::stream::FuturesUnordered;
use jetfold::Batch;
use jetfold::Checkpoint;
use jetfold::log::life::Life;
use jetfold::log::pull::{Demand, Pull};
use jetfold::log::source::{Log, Opened, pull_bytes, sources_per_connection};
use jetfold::{Share, Table};
use sha1::{Digest, Sha1};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;
use stream_sum::sum::chunk::SeqNo;
use stream_sum::sum::codec;
use stream_sum::sum::held::fold_held;
use stream_sum::sum::names::FinalNames;
use stream_sum::sum::row::Expiry;
use stream_sum::sum::running::{Sum, Value};
use stream_sum::sum::{Rules, Summer};
use tokio::task::JoinHandle;

/// Publishes of one partition that wait for their acknowledgement at once. A JetStream context lets 5000 of all wait, and
/// whoever waits for a place there does not look at its own.
const WINDOW: usize = 512;

async fn all(tasks: Vec<JoinHandle<()>>) {
    try_join_all(tasks).await.expect("loops that end");
}

/// Publishes ready-made batches, one in flight on each log.
pub async fn publish(stack: &Stack, made: &Made) {
    let connection = stack.connect().await;
    let publishing = made.batches.iter().zip(0..).map(|(batches, partition)| {
        let (batches, jetstream) = (batches.clone(), connection.jetstream.clone());
        let subject = stack.names.log_subject(partition);
        tokio::spawn(async move {
            for batch in batches {
                jetstream.publish(subject.clone(), batch).await.expect("a publish").await.expect("an ack");
            }
        })
    });
    all(publishing.collect()).await;
}

/// Seconds in which every message of every log is pulled, and nothing done with it.
pub async fn drain(stack: &Stack) -> f64 {
    let began = Instant::now();
    let mut drains = Vec::new();
    for partition in 0..stack.partitions {
        // A connection each: what is outstanding on one must stay within 32 MiB.
        let connection = stack.connect().await;
        let name = stack.names.log(partition);
        drains.push(tokio::spawn(async move {
            let mut log = connection.jetstream.get_stream(&name).await.expect("a log");
            let last = log.info().await.expect("an answer").state.last_sequence;
            let config = consumer::pull::Config { ack_policy: consumer::AckPolicy::None, ..Default::default() };
            let consumer = log.create_consumer(config).await.expect("a consumer");
            let each = Demand { messages: 10_000, bytes: 4 << 20 };
            let pulling = Pull::new(&connection, &name, &consumer.cached_info().name, each);
            let mut pull = pulling.await.expect("a pull");
            while pull.next().await.expect("a message").info().expect("its place").stream_sequence < last {}
        }));
    }
    all(drains).await;
    began.elapsed().as_secs_f64()
}

/// Sends messages through a window of unconfirmed ones.
struct Window {
    jetstream: jetstream::Context,
    unconfirmed: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Window {
    fn new(jetstream: jetstream::Context) -> Self {
        Self { jetstream, unconfirmed: FuturesUnordered::new() }
    }

    async fn publish(&mut self, subject: String, payload: Bytes) {
        let ack = self.jetstream.publish(subject, payload).await.expect("a publish");
        self.unconfirmed.push(async move { _ = ack.await.expect("an ack") }.boxed());
        while self.unconfirmed.len() >= WINDOW {
            self.unconfirmed.next().await;
        }
    }

    async fn confirmed(mut self) {
        while self.unconfirmed.next().await.is_some() {}
    }
}

/// Seconds in which a final of each completed stream is published, each taken once a subject, and acknowledged.
pub async fn publish_once(stack: &Stack, made: &Made) -> f64 {
    let began = Instant::now();
    let mut publishing = Vec::new();
    for ids in &made.completed {
        let jetstream = stack.connect().await.jetstream;
        let value = Value([7; 20]);
        let finals = ids.iter().map(|id| {
            let sum = Sum { id: *id, seq_no: SeqNo::FIRST, value };
            (stack.names.final_subject(*id), Bytes::from(codec::encode_final(&sum)))
        });
        let finals: Vec<_> = finals.collect();
        publishing.push(tokio::spawn(async move {
            let mut window = Window::new(jetstream);
            for (subject, payload) in finals {
                window.publish(subject, payload).await;
            }
            window.confirmed().await;
        }));
    }
    all(publishing).await;
    began.elapsed().as_secs_f64()
}

/// A table in which nothing expires, and nothing is let go.
pub fn table(partition: u32, partitions: u32) -> Table<Summer> {
    let expiry = Expiry { idle: i64::MAX, completed: i64::MAX };
    let summer = Arc::new(Summer::new(Rules { max_chunk_bytes: 1 << 20, expiry }));
    Table::new(summer, Share { partition, partitions }, u64::MAX, Checkpoint::start_of(1))
}

/// A stream of its own for finals of the loop that promises nothing.
const PLAIN: &str = "plain";

/// Seconds in which every log is pulled and folded as a summer does it, and each final published, but neither is any of
/// it committed nor any final taken once only.
pub async fn fold_and_forget(stack: &Stack) -> f64 {
    let plain = stream::Config { name: PLAIN.to_owned(), subjects: vec![format!("{PLAIN}.>")], ..Default::default() };
    stack.jetstream.create_stream(plain).await.expect("a stream");
    let began = Instant::now();
    let publishing = stack.connect().await;
    let max_payload = publishing.client.server_info().max_payload;
    let a_connection = sources_per_connection(max_payload, stack.partitions as usize);
    let (life, bytes) = (Arc::new(Life::default()), pull_bytes(max_payload, a_connection));
    let mut pulling = publishing.clone();
    let mut folding = Vec::new();
    for partition in 0..stack.partitions {
        if (partition as usize).is_multiple_of(a_connection) {
            pulling = stack.connect().await;
        }
        let state = stack.log(partition).await;
        let mut table = table(partition, stack.partitions);
        let mut log = Log::new(pulling.clone(), &stack.names, partition, PLAIN, bytes, life.clone());
        let mut window = Window::new(publishing.jetstream.clone());
        folding.push(tokio::spawn(async move {
            let Opened { mut source, .. } = log.open(0).await.expect("a log");
            while table.position() < state.state.last_sequence {
                let batch = source.next().await.expect("a batch");
                for sum in fold_held(&mut table, &batch).outputs {
                    window.publish(format!("{PLAIN}.{}", sum.id), codec::encode_final(&sum).into()).await;
                }
            }
            window.confirmed().await;
        }));
    }
    all(folding).await;
    let seconds = began.elapsed().as_secs_f64();
    stack.jetstream.delete_stream(PLAIN).await.expect("a stream");
    seconds
}

/// Bytes a second of SHA-1 alone, over as many threads as there are processors.
pub fn bare_sha1(bytes: u64) -> f64 {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let piece = vec![7; 1 << 20];
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut sha1 = Sha1::new();
                for _ in 0..bytes / threads as u64 / piece.len() as u64 {
                    sha1.update(&piece);
                }
                std::hint::black_box(sha1.finalize());
            });
        }
    });
    bytes as f64 / began.elapsed().as_secs_f64()
}

/// Seconds in which the batches of each partition are decoded and folded, over as many threads as there are processors.
pub fn fold_alone(made: &Made) -> f64 {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let partitions = u32::try_from(made.batches.len()).expect("few");
    let next = AtomicU32::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let partition = next.fetch_add(1, Ordering::Relaxed);
                    let Some(batches) = made.batches.get(partition as usize) else { break };
                    let mut table = table(partition, partitions);
                    for (payload, position) in batches.iter().zip(1..) {
                        let batch = Batch { position, time: 1, payload: payload.clone(), stamp: None };
                        fold_held(&mut table, &batch);
                    }
                }
            });
        }
    });
    began.elapsed().as_secs_f64()
}
