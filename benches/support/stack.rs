//! A nats-server of its own with a topology, and processes of the program beside it. All of it ends with the benchmark.

use async_nats::jetstream;
use jetfold::PartitionStanding;
use jetfold::nats::connect::{self, Connection};
use jetfold::nats::names::Names;
use jetfold::nats::standing;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use stream_sum::Chunk;
use stream_sum::cli::config::{Config, Sources};
use stream_sum::local::nats_server;
use stream_sum::local::server::LocalServer;
use stream_sum::sum::chunk::SeqNo;
use stream_sum::sum::codec;
use stream_sum::sum::names::{FinalNames, names};
use stream_sum::sum::stream_id::StreamId;
use tempfile::TempDir;

const WORKER: &str = "bench";

/// Between two looks at how far something is.
const LOOKS: Duration = Duration::from_millis(10);

/// A process that is killed where nobody ends it.
pub struct Running(Child);

impl Running {
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().try_into().expect("a number")), signal).expect("it runs");
    }

    pub fn end(mut self, signal: Signal) {
        self.signal(signal);
        self.0.wait().expect("it ends");
    }

    pub fn succeed(&mut self) {
        let status = self.0.wait().expect("it ends");
        assert!(status.success(), "{status}");
    }

    /// Bytes of memory that it holds.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    /// Seconds of processor time that it has used.
    pub fn processor_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("it runs");
        let fields: Vec<_> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
        let ticks = |n: usize| fields[n].parse::<f64>().expect("a number");
        // User and system time, the 14th and 15th of all, in hundredths of a second.
        (ticks(11) + ticks(12)) / 100.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

pub struct Stack {
    pub folder: TempDir,
    pub url: String,
    pub names: Names,
    pub partitions: u32,
    pub jetstream: jetstream::Context,
    /// What the server says it is.
    pub version: String,
    pub server: Running,
    connection: Connection,
    log_max_bytes: u64,
    probes: u64,
}

impl Stack {
    pub async fn start(partitions: u32, log_max_bytes: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools");
        let program = nats_server::find_for_tests(&tools).expect("a nats-server");
        let mut local = LocalServer::new(program, folder.path(), None, None, "").expect("its files");
        let server = Running(local.logged_command().expect("a log").spawn().expect("a server"));
        while !local.listens(server.0.id()) {
            std::thread::sleep(LOOKS);
        }
        let url = local.url();
        let connection = connect(&url).await;
        let jetstream = connection.jetstream.clone();
        let version = connection.client.server_info().version;
        let names = names("");
        let stack =
            Self { folder, url, names, partitions, jetstream, version, server, connection, log_max_bytes, probes: 0 };
        let mut apply = stack.program(&format!("topology apply --partitions {partitions}"));
        assert!(apply.status().expect("an end").success());
        stack
    }

    pub async fn connect(&self) -> Connection {
        connect(&self.url).await
    }

    pub fn program(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stream-sum"));
        command.args(arguments.split_whitespace()).env("STREAM_SUM_NATS__SERVERS", &self.url);
        command.env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", self.log_max_bytes.to_string());
        command.env("STREAM_SUM_LOG__LEVEL", "warn").stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    pub fn spawn(&self, command: &mut Command) -> Running {
        Running(command.spawn().expect("it starts"))
    }

    pub fn summer(&self, data: &Path) -> Running {
        let mut command = self.program(&format!("summer --worker {WORKER}"));
        self.spawn(command.arg("--data-dir").arg(data))
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub async fn log(&self, partition: u32) -> jetstream::stream::Info {
        let log = self.jetstream.get_stream(self.names.log(partition)).await.expect("a log");
        log.get_info().await.expect("an answer")
    }

    pub async fn log_bytes(&self) -> u64 {
        let mut bytes = 0;
        for partition in 0..self.partitions {
            bytes += self.log(partition).await.state.bytes;
        }
        bytes
    }

    /// Seconds between the first and the last message of all logs, once none has come for a second.
    pub async fn publishing_seconds(&self) -> f64 {
        let mut bytes = 0;
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = self.log_bytes().await;
            if now > 0 && now == bytes {
                break;
            }
            bytes = now;
        }
        let mut times = Vec::new();
        for partition in 0..self.partitions {
            let state = self.log(partition).await.state;
            times.extend([state.first_timestamp, state.last_timestamp]);
        }
        let (first, last) = (times.iter().min().expect("logs"), times.iter().max().expect("logs"));
        (*last - *first).as_seconds_f64()
    }

    /// How far the summer is.
    pub async fn standings(&self) -> Vec<PartitionStanding> {
        let expected = BTreeSet::from([WORKER.to_owned()]);
        let asked = standing::ask(&self.connection, &self.names, expected, Duration::from_secs(1), Duration::ZERO);
        asked.await.expect("a question").into_iter().flat_map(|worker| worker.partitions).collect()
    }

    /// Waits until the summer has committed all that the logs hold.
    pub async fn committed(&self) {
        let mut ends = Vec::new();
        for partition in 0..self.partitions {
            ends.push(self.log(partition).await.state.last_sequence);
        }
        loop {
            let standings = self.standings().await;
            let done = |standing: &PartitionStanding| standing.position >= ends[standing.partition as usize];
            if standings.len() == ends.len() && standings.iter().all(done) {
                return;
            }
            tokio::time::sleep(LOOKS).await;
        }
    }

    /// Forgets all finals.
    pub async fn purge_sums(&self) {
        let sums = self.jetstream.get_stream(self.names.outputs()).await.expect("sums");
        sums.purge().await.expect("a purge");
    }

    pub async fn finals(&self) -> u64 {
        let sums = self.jetstream.get_stream(self.names.outputs()).await.expect("sums");
        sums.get_info().await.expect("an answer").state.messages
    }

    /// Has a new stream summed in every partition, and waits for all the finals.
    pub async fn progress(&mut self) {
        let mut finals = Vec::new();
        for partition in 0..self.partitions {
            let id = loop {
                self.probes += 1;
                let id = StreamId::new([[0xff; 8], self.probes.to_be_bytes()].concat().try_into().expect("16 bytes"));
                if id.partition(self.partitions) == partition {
                    break id;
                }
            };
            let mut batch = Vec::new();
            codec::encode_chunk(&mut batch, &Chunk { id, seq_no: SeqNo::FIRST, data: b"" });
            let ack = self.jetstream.publish(self.names.log_subject(partition), batch.into()).await.expect("a publish");
            ack.await.expect("an ack");
            finals.push(self.names.final_subject(id));
        }
        let sums = self.jetstream.get_stream(self.names.outputs()).await.expect("sums");
        for subject in finals {
            while sums.get_last_raw_message_by_subject(&subject).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Seconds from the start of a summer to its progress in every partition.
    pub async fn time_to_progress(&mut self, data: &Path) -> (f64, Running) {
        let began = Instant::now();
        let summing = self.summer(data);
        self.progress().await;
        (began.elapsed().as_secs_f64(), summing)
    }
}

async fn connect(url: &str) -> Connection {
    let servers = ("nats.servers", url.to_owned());
    let config = Config::load(Sources { flags: vec![servers], ..Sources::default() }).expect("the defaults");
    connect::connect(&config.nats, "stream-sum bench").await.expect("a connection")
}
