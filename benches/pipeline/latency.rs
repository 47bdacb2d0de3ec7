//! Latency at a fixed rate, by a schedule that waits for nobody: the floor, which no final can come under.

use crate::support::stack::Stack;
use async_nats::jetstream::consumer;
use bytes::Bytes;
use futures_util::StreamExt;
use hdrhistogram::Histogram;
use std::time::{Duration, Instant};
use stream_sum::sum::names::FinalNames;
use stream_sum::sum::stream_id::{RunPrefix, StreamId};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// In milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
}

impl Latency {
    pub fn p50(&self) -> f64 {
        self.p50
    }

    pub fn p99(&self) -> f64 {
        self.p99
    }
}

/// Nothing takes longer, unless it will never come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of a final.
const FINAL_BYTES: usize = 44;

/// From when a batch of `batch_bytes` is due to the arrival of what is published for it: the batch is published,
/// acknowledged and pulled, then a message is published, once a subject, acknowledged and delivered. `rate` is in
/// batches a second, over all logs in turn.
pub async fn floor(stack: &Stack, batch_bytes: usize, rate: u64, seconds: u64) -> Latency {
    let run = RunPrefix(rand::random());
    let (partitions, total) = (u64::from(stack.partitions), rate * seconds);
    let step = usize::try_from(partitions).expect("few");

    let watching = stack.connect().await.jetstream;
    let sums = watching.get_stream(stack.names.outputs()).await.expect("sums");
    let config = consumer::pull::OrderedConfig {
        filter_subject: stack.names.finals_of_run(run),
        deliver_policy: consumer::DeliverPolicy::New,
        ..Default::default()
    };
    let mut finals = sums.create_consumer(config).await.expect("a consumer").messages().await.expect("messages");

    let (pulling, confirming) = (stack.connect().await.jetstream, stack.connect().await.jetstream);
    for partition in 0..partitions {
        let (log, confirming, names) =
            (u32::try_from(partition).expect("few"), confirming.clone(), stack.names.clone());
        let log = pulling.get_stream(names.log(log)).await.expect("a log");
        let config = consumer::pull::Config {
            ack_policy: consumer::AckPolicy::None,
            deliver_policy: consumer::DeliverPolicy::New,
            ..Default::default()
        };
        let consumer = log.create_consumer(config).await.expect("a consumer");
        let mut messages = consumer.stream().max_bytes_per_batch(2 << 20).messages().await.expect("messages");
        tokio::spawn(async move {
            for n in (partition..total).step_by(step) {
                messages.next().await.expect("a message").expect("a message");
                let subject = names.final_subject(StreamId::of_run(run, n));
                let ack = confirming.publish(subject, vec![7; FINAL_BYTES].into()).await.expect("a publish");
                tokio::spawn(async move { ack.await.expect("an ack") });
            }
        });
    }

    let began = Instant::now() + Duration::from_millis(100);
    let due = move |n: u64| began + Duration::from_nanos(n * 1_000_000_000 / rate);
    let (publishing, batch) = (stack.connect().await.jetstream, Bytes::from(vec![7; batch_bytes]));
    let subjects: Vec<_> = (0..stack.partitions).map(|partition| stack.names.log_subject(partition)).collect();
    let (runtime, sending) = (Handle::current(), publishing.clone());
    // A thread of its own: timers of an async runtime are a millisecond late.
    let schedule = tokio::task::spawn_blocking(move || {
        for (n, subject) in (0..total).zip(subjects.iter().cycle()) {
            std::thread::sleep(due(n).saturating_duration_since(Instant::now()));
            let ack = runtime.block_on(sending.publish(subject.clone(), batch.clone())).expect("a publish");
            runtime.spawn(async move { ack.await.expect("an ack") });
        }
    });

    let mut latency_us = Histogram::<u64>::new(3).expect("three digits");
    for _ in 0..total {
        let message = timeout(PATIENCE, finals.next()).await.expect("a final in time");
        let message = message.expect("a final").expect("a final");
        let id = stack.names.stream_of_final(&message.subject).expect("an ID");
        let late = due(id.nth_of_run(run).expect("of this run")).elapsed();
        latency_us.saturating_record(u64::try_from(late.as_micros()).expect("not for ever"));
    }
    schedule.await.expect("a schedule");
    let ms = |quantile| latency_us.value_at_quantile(quantile) as f64 / 1e3;
    Latency { p50: ms(0.5), p99: ms(0.99) }
}
