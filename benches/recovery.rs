//! How long a summer takes until it makes progress again: with its disk, with a snapshot alone, and with neither, beside
//! the raw drain of the same logs. `cargo bench --bench recovery`

mod support;

use nix::sys::signal::Signal;
use std::fs;
use std::time::Duration;
use support::loops;
use support::stack::Stack;

const PARTITIONS: u32 = 8;
const LIVE_STREAMS: u32 = 100_000;
/// Of chunk batches, in all logs.
const LOG_BYTES: u64 = 400 << 20;
const ROUNDS: usize = 3;

fn told(what: &str, mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let all: Vec<_> = seconds.iter().map(|seconds| format!("{seconds:.2}")).collect();
    println!("{what:<56} {median:>7.2} s   ({})", all.join(", "));
    median
}

#[tokio::main]
async fn main() {
    let mut stack = Stack::start(PARTITIONS, 1 << 30).await;
    let data = stack.data();
    let mut summing = Some(stack.summer(&data));
    let mut command = stack.program(&format!("chunker --streams {LIVE_STREAMS} --chunks 1000000"));
    let chunking = stack.spawn(command.env("STREAM_SUM_CHUNKER__LIVE_STREAMS", (LIVE_STREAMS / 4).to_string()));
    while stack.log_bytes().await < LOG_BYTES {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // All of its streams stay open.
    chunking.end(Signal::SIGINT);
    stack.progress().await;
    println!(
        "nats-server {}, R1, sync_interval 2 min; {PARTITIONS} logs of {} MiB together, {LIVE_STREAMS} live streams",
        stack.version,
        stack.log_bytes().await >> 20
    );

    let (mut same_disk, mut with_snapshot, mut with_nothing, mut drains) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        summing.take().expect("it runs").end(Signal::SIGKILL);
        let (seconds, running) = stack.time_to_progress(&data).await;
        same_disk.push(seconds);

        // A clean stop puts a snapshot away.
        running.end(Signal::SIGTERM);
        fs::remove_dir_all(&data).expect("a folder");
        let (seconds, running) = stack.time_to_progress(&data).await;
        with_snapshot.push(seconds);

        running.end(Signal::SIGKILL);
        fs::remove_dir_all(&data).expect("a folder");
        let bucket = stack.jetstream.get_stream(format!("OBJ_{}", stack.names.state_bucket())).await.expect("a bucket");
        bucket.purge().await.expect("a purge");
        let (seconds, running) = stack.time_to_progress(&data).await;
        with_nothing.push(seconds);
        summing = Some(running);
        drains.push(loops::drain(&stack).await);
    }
    told("same disk, after SIGKILL", same_disk);
    told("empty disk, and a snapshot", with_snapshot);
    let nothing = told("empty disk, and no snapshot: the whole log", with_nothing);
    let drain = told("raw drain of the same logs", drains);
    println!("the whole log to its raw drain: {:.2}", nothing / drain);
}
