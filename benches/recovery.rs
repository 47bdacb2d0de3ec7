//! How long a summer takes until it makes progress again: with its disk, with a snapshot alone, and with neither, beside
//! the raw drain of the same logs. `cargo bench --bench recovery`

use async_nats::jetstream::{self, consumer};
use futures_util::StreamExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use stream_sum::bus::names::Names;
use stream_sum::local_server::LocalServer;
use stream_sum::stream_id::StreamId;
use stream_sum::{Chunk, codec, nats_server};

const PARTITIONS: u32 = 8;
const LIVE_STREAMS: u32 = 100_000;
/// Of chunk batches, in all logs.
const LOG_BYTES: u64 = 400 << 20;
const ROUNDS: usize = 3;

struct Bench {
    url: String,
    names: Names,
    jetstream: jetstream::Context,
    probes: u64,
}

fn program(bench: &Bench, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stream-sum"));
    command.args(arguments.split_whitespace()).env("STREAM_SUM_NATS__SERVERS", &bench.url);
    command.env("STREAM_SUM_LOG__LEVEL", "warn").stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn summer(bench: &Bench, folder: &Path) -> Child {
    program(bench, "summer --worker bench").arg("--data-dir").arg(folder).spawn().expect("a summer")
}

fn end(mut child: Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().expect("a number")), signal).expect("it runs");
    child.wait().expect("it ends");
}

impl Bench {
    async fn log_bytes(&self) -> u64 {
        let mut bytes = 0;
        for partition in 0..PARTITIONS {
            let mut log = self.jetstream.get_stream(self.names.log(partition)).await.expect("a log");
            bytes += log.info().await.expect("an answer").state.bytes;
        }
        bytes
    }

    /// Has a new stream summed in every partition, and waits for all the finals.
    async fn progress(&mut self) {
        let mut finals = Vec::new();
        for partition in 0..PARTITIONS {
            let id = loop {
                self.probes += 1;
                let id = StreamId::new([[0xff; 8], self.probes.to_be_bytes()].concat().try_into().expect("16 bytes"));
                if id.partition(PARTITIONS) == partition {
                    break id;
                }
            };
            let mut batch = Vec::new();
            codec::encode_chunk(&mut batch, &Chunk { id, seq_no: stream_sum::chunk::SeqNo::FIRST, data: b"" });
            let ack = self.jetstream.publish(self.names.log_subject(partition), batch.into()).await.expect("a publish");
            ack.await.expect("an ack");
            finals.push(self.names.final_subject(id));
        }
        let sums = self.jetstream.get_stream(self.names.sums()).await.expect("sums");
        for subject in finals {
            while sums.get_last_raw_message_by_subject(&subject).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Seconds from the start of a summer to its progress in every partition.
    async fn time_to_progress(&mut self, folder: &Path) -> (f64, Child) {
        let began = Instant::now();
        let summing = summer(self, folder);
        self.progress().await;
        (began.elapsed().as_secs_f64(), summing)
    }

    /// Seconds in which every message of every log is pulled, and nothing done with it.
    async fn drain(&self) -> f64 {
        let began = Instant::now();
        let mut drains = Vec::new();
        for partition in 0..PARTITIONS {
            // A connection for two: what is outstanding on one must stay within 32 MiB.
            let jetstream = jetstream::new(async_nats::connect(&self.url).await.expect("a connection"));
            let log = self.names.log(partition);
            drains.push(tokio::spawn(async move {
                let mut log = jetstream.get_stream(log).await.expect("a log");
                let last = log.info().await.expect("an answer").state.last_sequence;
                let config = consumer::pull::Config { ack_policy: consumer::AckPolicy::None, ..Default::default() };
                let consumer = log.create_consumer(config).await.expect("a consumer");
                let pulling = consumer.stream().max_bytes_per_batch(4 << 20).max_messages_per_batch(10_000);
                let mut messages = pulling.messages().await.expect("messages");
                while let Some(message) = messages.next().await {
                    if message.expect("a message").info().expect("its place").stream_sequence == last {
                        return;
                    }
                }
            }));
        }
        for drain in drains {
            drain.await.expect("a drain");
        }
        began.elapsed().as_secs_f64()
    }
}

fn told(what: &str, mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let all: Vec<_> = seconds.iter().map(|seconds| format!("{seconds:.2}")).collect();
    println!("{what:<56} {median:>7.2} s   ({})", all.join(", "));
    median
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools");
    let nats_server = nats_server::find_for_tests(&tools).expect("a nats-server");
    let mut local = LocalServer::new(nats_server, folder.path(), None, None, "").expect("its files");
    let mut server = local.logged_command().expect("a log").spawn().expect("a server");
    while !local.listens(server.id()) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let client = async_nats::connect(local.url()).await.expect("a connection");
    let version = client.server_info().version;
    let (names, jetstream) = (Names::new(""), jetstream::new(client));
    let mut bench = Bench { url: local.url(), names, jetstream, probes: 0 };

    let apply = format!("topology apply --partitions {PARTITIONS}");
    assert!(program(&bench, &apply).status().expect("an end").success());
    let data = folder.path().join("data");
    let summing = summer(&bench, &data);
    let chunking = program(&bench, &format!("chunker --streams {LIVE_STREAMS} --chunks 1000000"))
        .env("STREAM_SUM_CHUNKER__LIVE_STREAMS", (LIVE_STREAMS / 4).to_string())
        .spawn()
        .expect("a chunker");
    while bench.log_bytes().await < LOG_BYTES {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // All of its streams stay open.
    end(chunking, Signal::SIGINT);
    bench.progress().await;
    let bytes = bench.log_bytes().await;
    println!(
        "nats-server {version}, R1, sync_interval 2 min; {PARTITIONS} logs of {} MiB together, {LIVE_STREAMS} live streams",
        bytes >> 20
    );

    let mut summing = Some(summing);
    let (mut same_disk, mut with_snapshot, mut with_nothing, mut drains) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        end(summing.take().expect("it runs"), Signal::SIGKILL);
        let (seconds, running) = bench.time_to_progress(&data).await;
        same_disk.push(seconds);

        // A clean stop puts a snapshot away.
        end(running, Signal::SIGTERM);
        fs::remove_dir_all(&data).expect("a folder");
        let (seconds, running) = bench.time_to_progress(&data).await;
        with_snapshot.push(seconds);

        end(running, Signal::SIGKILL);
        fs::remove_dir_all(&data).expect("a folder");
        let bucket = bench.jetstream.get_stream(format!("OBJ_{}", bench.names.state_bucket())).await.expect("a bucket");
        bucket.purge().await.expect("a purge");
        let (seconds, running) = bench.time_to_progress(&data).await;
        with_nothing.push(seconds);
        summing = Some(running);
        drains.push(bench.drain().await);
    }
    end(summing.take().expect("it runs"), Signal::SIGKILL);
    told("same disk, after SIGKILL", same_disk);
    told("empty disk, and a snapshot", with_snapshot);
    let nothing = told("empty disk, and no snapshot: the whole log", with_nothing);
    let drain = told("raw drain of the same logs", drains);
    println!("the whole log to its raw drain: {:.2}", nothing / drain);
    server.kill().expect("it runs");
    server.wait().expect("it ends");
}
