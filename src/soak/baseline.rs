//! The baseline: messages that go to a stream of their own and come back, with the same replicas and over the same links, and that no worker
//! of this program touches. What is slow there is the servers' affair.

use crate::soak::seconds::Seconds;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::consumer::{DeliverPolicy, ReplayPolicy};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy};
use async_nats::jetstream::{self, Context};
use futures_util::StreamExt;
use jetfold::nats::connect::Connection;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// A message so often, whatever becomes of those before.
const PERIOD: Duration = Duration::from_millis(20);

/// Messages that wait for their acknowledgements, at the most: as many as come in two minutes.
const MOST_UNACKED: usize = 6000;

/// How long an acknowledgement may take before the message is published again.
const ACKED: Duration = Duration::from_secs(5);

/// A consumer from which nothing has come for so long is made anew, because messages are sent all the time.
const SILENCE: Duration = Duration::from_secs(4);

/// What the stream keeps.
const MOST_BYTES: i64 = 32 << 20;

const AGAIN: Duration = Duration::from_millis(100);

/// The name of the stream, behind the prefix of a system.
pub const STREAM: &str = "soak-baseline";

#[derive(Clone)]
pub struct Baseline {
    pub seconds: Arc<Mutex<Seconds>>,
    began: Instant,
}

impl Baseline {
    pub fn new(began: Instant) -> Self {
        Self { seconds: Arc::default(), began }
    }

    /// Sends and receives until it is dropped. `name` is the stream's, and `subject` where it is published.
    pub async fn run(self, connection: Connection, name: String, subject: String, replicas: usize) {
        let config = Config {
            name: name.clone(),
            subjects: vec![subject.clone()],
            num_replicas: replicas,
            max_bytes: MOST_BYTES,
            discard: DiscardPolicy::Old,
            retention: RetentionPolicy::Limits,
            ..Config::default()
        };
        while connection.jetstream.get_or_create_stream(config.clone()).await.is_err() {
            sleep(AGAIN).await;
        }
        let sending = self.send(connection.jetstream.clone(), subject);
        let receiving = self.receive(connection.jetstream.clone(), name);
        tokio::join!(sending, receiving);
    }

    async fn send(&self, jetstream: Context, subject: String) {
        let mut ticks = interval(PERIOD);
        // Each is due when it is, however late it can be sent.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut unacked = JoinSet::new();
        loop {
            let due = ticks.tick().await.saturating_duration_since(self.began);
            while unacked.try_join_next().is_some() {}
            if unacked.len() < MOST_UNACKED {
                let payload = due.as_micros().to_string();
                unacked.spawn(stored(jetstream.clone(), subject.clone(), payload));
            }
        }
    }

    async fn receive(&self, jetstream: Context, name: String) {
        let mut next = 1;
        // The last ones that were counted: what was sent again comes twice.
        let mut counted: VecDeque<Duration> = VecDeque::new();
        loop {
            if let Ok(mut messages) = consumer(&jetstream, &name, next).await {
                while let Ok(Some(Ok(message))) = timeout(SILENCE, messages.next()).await {
                    let now = self.began.elapsed();
                    if let Ok(info) = message.info() {
                        next = info.stream_sequence + 1;
                    }
                    let due = std::str::from_utf8(&message.payload).ok().and_then(|due| due.parse().ok());
                    let Some(due) = due.map(Duration::from_micros) else { continue };
                    if counted.contains(&due) {
                        continue;
                    }
                    counted.push_back(due);
                    if counted.len() > MOST_UNACKED {
                        counted.pop_front();
                    }
                    let mut seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
                    seconds.record(now, now.saturating_sub(due));
                }
            }
            sleep(AGAIN).await;
        }
    }
}

async fn stored(jetstream: Context, subject: String, payload: String) {
    loop {
        let publishing = async { jetstream.publish(subject.clone(), payload.clone().into()).await?.await };
        match timeout(ACKED, publishing).await {
            Ok(Ok(_)) => return,
            Ok(Err(_)) | Err(_) => sleep(AGAIN).await,
        }
    }
}

async fn consumer(
    jetstream: &Context,
    name: &str,
    next: u64,
) -> Result<jetstream::consumer::pull::Ordered, Box<dyn std::error::Error + Send + Sync>> {
    let stream = jetstream.get_stream_no_info(name).await?;
    let config = OrderedConfig {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: next },
        replay_policy: ReplayPolicy::Instant,
        ..OrderedConfig::default()
    };
    Ok(stream.create_consumer(config).await?.messages().await?)
}
