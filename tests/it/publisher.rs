//! Publishers of stamped records, against a real nats-server: what is in the logs is what was pushed, once and in order.

mod answers;
mod lost;
mod named;
mod refusals;

use crate::lossy_route::LossyRoute;
use crate::support::{PATIENCE, Server, messages, wait_until};
use jetfold::Key;
use jetfold::Publisher;
use jetfold::nats::admin::Admin;
use jetfold::nats::connect::{self, Connection};
use jetfold::nats::topology::{self, Topology};
use jetfold::values::{Size, Span};
use jetfold::{Application, Cx, Never, Slot, Undecodable};
use jetfold::{Config, System};
use jetfold::{STAMP, Stamp};
use nix::sys::signal::Signal;
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const PARTITIONS: u32 = 3;

/// Counts the records of each key. A record is a line: its key, a space, and the number of the input's line that it is from.
#[derive(Clone, Copy, Debug)]
struct Counting;

impl Application for Counting {
    const NAME: &'static str = "counting";

    type Key = String;
    type Row = u64;
    type Record<'a> = &'a str;
    type Output = Never;
    type Reason = Never;
    type Tally = ();

    fn records<'a>(&self, payload: &'a [u8]) -> impl Iterator<Item = Result<&'a str, Undecodable>> {
        let lines = payload.split_inclusive(|byte| *byte == b'\n').enumerate();
        lines.map(|(index, line)| {
            let (key, _) = parsed(line).ok_or(Undecodable { index, what: "no record" })?;
            Ok(key)
        })
    }

    fn key<'r>(&self, record: &'r &str) -> &'r str {
        record
    }

    fn fold(&self, slot: Slot<'_, u64>, _: &&str, _: &mut Cx<'_, Self>) -> Result<(), Never> {
        let count = slot.get().unwrap_or(&0) + 1;
        slot.set(count);
        Ok(())
    }

    fn largest_record(&self) -> usize {
        1 << 10
    }
}

fn parsed(line: &[u8]) -> Option<(&str, u64)> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (key, number) = line.trim_end().split_once(' ')?;
    Some((key, number.parse().ok()?))
}

/// A record as the log holds it: of so many bytes at least.
fn record(key: &str, number: u64, bytes: usize) -> Vec<u8> {
    let mut record = format!("{key} {number}").into_bytes();
    record.resize(bytes.max(record.len()), b' ');
    record.push(b'\n');
    record
}

/// The keys of one line of the input: several, of one partition or of more.
fn keys(number: u64) -> Vec<String> {
    (0..=number % 3).map(|nth| format!("key{}", (number * 7 + nth * 5) % 11)).collect()
}

fn config(url: String, folder: &Path) -> Config {
    let mut config = Config::default();
    config.nats.servers = vec![url];
    config.nats.request_timeout = Span(Duration::from_millis(500));
    config.topology.partitions = PARTITIONS;
    config.topology.log_max_bytes = Size(64 << 20);
    config.topology.outputs_max_bytes = Size(16 << 20);
    config.worker.data_dir = folder.to_owned();
    config
}

/// The system on a server, made.
async fn system(server: &Server, folder: &Path) -> System<Counting> {
    let system = System::new(Counting, config(server.url(), folder));
    system.apply().await.unwrap();
    system
}

/// What a publisher is made of, without a system.
async fn connected(server: &Server, folder: &Path) -> (Connection, Topology<Counting>) {
    let config = config(server.url(), folder);
    let connection = connect::connect(&config.nats, "test").await.unwrap();
    let topology = topology::Config { prefix: "counting".into(), ..config.topology };
    let admin = Admin::new(&connection, topology, Counting, server.url());
    let topology = admin.check().await.unwrap();
    (connection, topology)
}

fn log(partition: u32) -> String {
    format!("counting-log-{partition}")
}

/// A worker that tells how often each key was counted.
struct Working {
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Working {
    fn start(system: &System<Counting>) -> Self {
        let stop = CancellationToken::new();
        let worker = system.worker().answering(|view, key| {
            let count = view.get(&String::from_utf8_lossy(key))?.unwrap_or(0);
            Ok(count.to_string().into_bytes())
        });
        let running = worker.run(stop.clone());
        Self { stop, running: tokio::spawn(async move { running.await.unwrap() }) }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}

/// Waits until each key of the lines up to this one is counted, and sees that it is not counted more often.
async fn counted(system: &System<Counting>, lines: u64) {
    let all: Vec<_> = (1..=lines).flat_map(keys).collect();
    for n in 0..11 {
        let key = format!("key{n}");
        let expected = all.iter().filter(|other| **other == key).count();
        wait_until(&format!("{expected} of {key}"), async || {
            let told = system.ask(&key, key.clone()).await.ok()?;
            let count: usize = std::str::from_utf8(&told).unwrap().parse().unwrap();
            assert!(count <= expected, "{key} was counted {count} times, and sent {expected} times");
            (count == expected).then_some(())
        })
        .await;
    }
}

/// The batches of each log, with their stamps: lives and numbers rise as they should.
async fn batches(server: &Server) -> Vec<Vec<(Stamp, Vec<u8>)>> {
    let jetstream = server.jetstream().await;
    let mut logs = Vec::new();
    for partition in 0..PARTITIONS {
        let stamped = messages(&jetstream, &log(partition)).await.into_iter().map(|message| {
            let stamp: Stamp = message.headers.get(STAMP).unwrap().as_str().parse().unwrap();
            assert_eq!(message.subject.as_str(), format!("counting.log.{partition}.{}", stamp.producer));
            (stamp, message.payload.to_vec())
        });
        let stamped: Vec<_> = stamped.collect();
        for pair in stamped.windows(2).filter(|pair| pair[0].0.producer == pair[1].0.producer) {
            let ((before, _), (after, _)) = (&pair[0], &pair[1]);
            assert_eq!(after.number, before.number + 1, "each number once: {before}, {after}");
            assert!(after.life >= before.life && after.offset >= before.offset, "{before}, {after}");
        }
        logs.push(stamped);
    }
    logs
}

/// Sees that the logs have exactly these records, in their order.
async fn the_logs_have(server: &Server, lines: impl Iterator<Item = u64> + Clone) {
    for (partition, batches) in (0..).zip(batches(server).await) {
        let mut found = Vec::new();
        let mut before = 0;
        for (stamp, payload) in &batches {
            for line in payload.split_inclusive(|byte| *byte == b'\n') {
                let (key, number) = parsed(line).unwrap();
                assert!(number > before && number <= stamp.offset, "{number} is in another batch than {stamp}");
                found.push((key.to_owned(), number));
            }
            before = stamp.offset;
        }
        let pushed = lines.clone().flat_map(|number| keys(number).into_iter().map(move |key| (key, number)));
        let expected: Vec<_> = pushed.filter(|(key, _)| String::partition(key, PARTITIONS) == partition).collect();
        let differs = found.iter().zip(&expected).position(|(found, expected)| found != expected);
        assert!(found == expected, "{} of {} in {partition}: {differs:?}", found.len(), expected.len());
    }
}

/// Pushes one line of the input.
async fn push(publisher: &mut Publisher<Counting>, number: u64, bytes: usize) -> Result<(), jetfold::PublishError> {
    for key in keys(number) {
        publisher.push_at(number, &key, |out| out.extend(record(&key, number, bytes))).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_several_keys_are_stored_once_and_in_order_and_are_counted() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let system = system(&server, folder.path()).await;
    let working = Working::start(&system);
    let mut publisher = system.publisher().await.unwrap();
    for number in 1..=5_000 {
        push(&mut publisher, number, 200).await.unwrap();
        if number == 2_000 {
            publisher.flush().await.unwrap();
        }
    }
    publisher.finish().await.unwrap();
    the_logs_have(&server, 1..=5_000).await;
    counted(&system, 5_000).await;
    working.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_acknowledgement_is_lost_is_in_the_log_once() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    system(&server, folder.path()).await;
    let route = LossyRoute::to(&server, "_INBOX.");
    let system = System::new(Counting, config(route.url(), folder.path()));
    let mut publisher = system.publisher().await.unwrap();
    let mut named = system.publisher_named("shop").await.unwrap();
    named.flush().await.unwrap();
    for number in 1..=12 {
        // What is lost besides is what was asked for because an acknowledgement was.
        route.lose(1 + number % 3);
        push(&mut publisher, number, 0).await.unwrap();
        publisher.flush().await.unwrap();
    }
    assert!(route.has_lost_them());
    publisher.finish().await.unwrap();
    let of_named = |stamp: &Stamp| stamp.producer == "shop";
    let fences: usize = batches(&server).await.iter().flatten().filter(|(stamp, _)| of_named(stamp)).count();
    assert_eq!(fences, PARTITIONS as usize);
    the_logs_have(&server, 1..=12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_is_given_up_has_pushed_nothing_and_loses_nothing() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let system = system(&server, folder.path()).await;
    let mut publisher = system.publisher().await.unwrap();
    server.signal(Signal::SIGSTOP);
    let mut number = 0;
    let given_up = loop {
        number += 1;
        let key = keys(number).remove(0);
        let pushing = publisher.push_at(number, &key, |out| out.extend(record(&key, number, 64 << 10)));
        if timeout(Duration::from_millis(50), pushing).await.is_err() {
            break number;
        }
        assert!(number < 1_000, "there is a bound");
    };
    server.signal(Signal::SIGCONT);
    for number in given_up..given_up + 5 {
        let key = keys(number).remove(0);
        publisher.push_at(number, &key, |out| out.extend(record(&key, number, 64 << 10))).await.unwrap();
    }
    timeout(PATIENCE, publisher.finish()).await.unwrap().unwrap();
    let mut found = Vec::new();
    for (_, payload) in batches(&server).await.iter().flatten() {
        found.extend(payload.split_inclusive(|byte| *byte == b'\n').map(|line| parsed(line).unwrap().1));
    }
    found.sort_unstable();
    assert_eq!(found, (1..given_up + 5).collect::<Vec<_>>());
}
