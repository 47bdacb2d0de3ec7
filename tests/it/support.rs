//! A real nats-server, the real program, and waiting for conditions.

mod program;
mod server;
mod terminal;

pub use program::{Ended, Process, Program};
pub use server::{Server, cluster};
pub use terminal::Terminal;

use async_nats::jetstream;
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use stream_sum::local::nats_server;
use stream_sum::sum::stream_id::StreamId;

/// How long a condition may take on a machine that does many things at once.
pub const PATIENCE: Duration = Duration::from_secs(60);

fn nats_server_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools");
        nats_server::find_for_tests(&tools).unwrap_or_else(|error| panic!("{error}"))
    })
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap())
}

pub fn parse_log(text: &str) -> Vec<Value> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The sum of a field over log entries of one message.
pub fn total(log: &[Value], message: &str, field: &str) -> u64 {
    log.iter().filter(|entry| entry["message"] == message).filter_map(|entry| entry[field].as_u64()).sum()
}

#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits for something that has to be asked for.
pub async fn wait_until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A topology of `partitions` on a server, small enough for any disk.
pub fn apply(server: &Server, partitions: u32) {
    Program::at(server, &format!("topology apply --partitions {partitions}"))
        .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "256MiB")
        .env("STREAM_SUM_TOPOLOGY__SUMS_MAX_BYTES", "256MiB")
        .run()
        .expect(0);
}

/// A summer with a data folder, and whatever else it takes.
pub fn summer(server: &Server, folder: &Path, more: &str) -> Program {
    Program::at(server, &format!("summer {more}")).arg("--data-dir").arg(folder)
}

/// What `status --json` prints, whether all partitions are folded or not.
pub fn status(server: &Server) -> Value {
    let ended = Program::at(server, "status --json").run();
    assert!([0, 1].contains(&ended.code()), "{}", ended.stderr);
    serde_json::from_str(&ended.stdout()).unwrap_or_else(|error| panic!("{error}: {}", ended.stderr))
}

/// Publishes a message byte by byte, with headers that no client library would send, and waits until the server has read it: who
/// hangs up with something unread takes back what the server has not read either.
pub fn publish_raw(server: &Server, subject: &str, headers: &str, payload: &[u8]) {
    let mut raw = TcpStream::connect(server.url().trim_start_matches("nats://")).unwrap();
    raw.write_all(b"CONNECT {\"verbose\":false,\"headers\":true}\r\n").unwrap();
    write!(raw, "HPUB {subject} {} {}\r\n{headers}", headers.len(), headers.len() + payload.len()).unwrap();
    raw.write_all(payload).unwrap();
    raw.write_all(b"\r\nPING\r\n").unwrap();
    raw.set_read_timeout(Some(PATIENCE)).unwrap();
    let answered = BufReader::new(raw).lines().any(|line| line.unwrap() == "PONG");
    assert!(answered, "the server hung up");
}

/// The number of a field of a chunker's report.
pub fn count(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("no {field} in {report}"))
}

/// A chunk batch, byte by byte as a foreign client would write it.
pub fn batch(chunks: &[(StreamId, u64, &[u8])]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, seq_no, data) in chunks {
        payload.extend([0x93, 0xc4, 16]);
        payload.extend(id.as_bytes());
        match u8::try_from(*seq_no) {
            Ok(seq_no) if seq_no < 128 => payload.push(seq_no),
            Ok(seq_no) => payload.extend([0xcc, seq_no]),
            Err(_) => {
                payload.push(0xcf);
                payload.extend(seq_no.to_be_bytes());
            }
        }
        match u8::try_from(data.len()) {
            Ok(len) => payload.extend([0xc4, len]),
            Err(_) => {
                payload.push(0xc6);
                payload.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
            }
        }
        payload.extend(*data);
    }
    payload
}

/// The `n`-th ID, of those that begin with `tag`, that belongs to a partition.
pub fn id_in(partition: u32, partitions: u32, tag: u8, n: usize) -> StreamId {
    let ids = (0..u64::MAX).map(|n| {
        let mut bytes = [tag; 16];
        bytes[8..].copy_from_slice(&n.to_be_bytes());
        StreamId::new(bytes)
    });
    ids.filter(|id| id.partition(partitions) == partition).nth(n).unwrap()
}

/// Every message of a stream, read one by one as any client can.
pub async fn messages(jetstream: &jetstream::Context, stream: &str) -> Vec<jetstream::message::StreamMessage> {
    let stream = jetstream.get_stream(stream).await.unwrap();
    let state = &stream.cached_info().state;
    let mut all = Vec::new();
    for sequence in state.first_sequence.max(1)..=state.last_sequence {
        if let Ok(message) = stream.get_raw_message(sequence).await {
            all.push(message);
        }
    }
    all
}

/// Copies a folder with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Bytes that do not repeat, cheaply.
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}
