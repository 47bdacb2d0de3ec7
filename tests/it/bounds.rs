//! Bounds: small transactions, little memory, many partitions, large chunks, and what comes of them.

use crate::support::{
    Program, Server, apply, batch, count, id_in, messages, parse_log, status, summer, total, wait_until,
};
use serde_json::Value;
use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::Path;

/// Runs a chunker to its end, and says how many streams were verified.
fn verified(server: &Server, flags: &str, environment: &[(&str, &str)]) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let program = Program::at(server, &format!("chunker {flags} --report")).arg(&report);
    environment.iter().fold(program, |program, (name, value)| program.env(name, value)).run().expect(0);
    count(&serde_json::from_slice::<Value>(&fs::read(report).unwrap()).unwrap(), "verified")
}

fn commits(server: &Server, folder: &Path, environment: &[(&str, &str)]) -> u64 {
    let program = summer(server, folder, "");
    let summing = environment.iter().fold(program, |program, (name, value)| program.env(name, value)).spawn();
    summing.wait_for_log("opened the log", 1);
    // 670 KB in batches of 4 KiB at the most.
    let small = [("STREAM_SUM_CHUNKER__BATCH_BYTES", "4KiB")];
    assert_eq!(verified(server, "--streams 200 --chunks 50", &small), 200);
    total(&parse_log(&summing.stop().expect(0).stderr), "stopped", "commits")
}

#[test]
fn a_transaction_ends_by_its_bytes_as_well_as_by_time() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let never = ("STREAM_SUM_SUMMER__CHECKPOINT_INTERVAL", "1h");
    let by_bytes =
        commits(&server, &folder.path().join("a"), &[never, ("STREAM_SUM_SUMMER__CHECKPOINT_BYTES", "16KiB")]);
    assert!(by_bytes > 20, "{by_bytes}");
    let at_the_end = commits(&server, &folder.path().join("a"), &[never]);
    assert_eq!(at_the_end, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_ends_as_soon_as_the_log_is_drained() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let jetstream = server.jetstream().await;
    let data = vec![7; 200 << 10];
    for n in 0..4 {
        let payload = batch(&[(id_in(0, 1, 3, n), 1, &data)]);
        jetstream.publish("chunks.0", payload.into()).await.unwrap().await.unwrap();
    }
    // Neither the time nor the bytes of a whole transaction are ever reached.
    let summing = summer(&server, folder.path(), "--worker a")
        .env("STREAM_SUM_SUMMER__CHECKPOINT_INTERVAL", "1h")
        .env("STREAM_SUM_SUMMER__CHECKPOINT_BYTES", "8MiB")
        .spawn();
    wait_until("all of it to be committed", async || committed(&server).then_some(())).await;
    summing.kill();
}

/// Whether the one worker of one partition has committed all that there is.
fn committed(server: &Server) -> bool {
    status(server)["partitions"][0]["workers"][0]["lag"] == 0
}

#[tokio::test(flavor = "multi_thread")]
async fn pull_requests_that_end_by_number_or_by_bytes_are_followed_by_others_at_once() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let jetstream = server.jetstream().await;
    let id = id_in(0, 1, 3, 0);
    let data = vec![7; 200 << 10];
    // A request asks for ten thousand messages and 4 MiB: small ones end it by their number, large ones by their bytes.
    let sizes = [vec![1; 25_000], vec![200 << 10; 60], vec![1; 25_000], vec![200 << 10; 60]].concat();
    let mut acks = VecDeque::new();
    for (bytes, seq_no) in sizes.into_iter().zip(1..) {
        let payload = batch(&[(id, seq_no, &data[..bytes])]);
        acks.push_back(jetstream.publish("chunks.0", payload.into()).await.unwrap());
        if acks.len() > 1000 {
            acks.pop_front().unwrap().await.unwrap();
        }
    }
    for ack in acks {
        ack.await.unwrap();
    }
    let summing = summer(&server, folder.path(), "--worker a").spawn();
    wait_until("all of it to be committed", async || committed(&server).then_some(())).await;
    assert_eq!(total(&parse_log(&summing.stop().expect(0).stderr), "stopped", "opened"), 1);
}

#[test]
fn more_live_streams_than_memory_are_read_back_from_the_store() {
    let server = Server::start();
    apply(&server, 2);
    let folder = tempfile::tempdir().unwrap();
    // Room for 170 rows a partition, and 4,000 streams that take turns.
    let summing = summer(&server, folder.path(), "")
        .env("STREAM_SUM_SUMMER__CACHE_BYTES", "100KiB")
        .env("STREAM_SUM_SUMMER__CHECKPOINT_INTERVAL", "20ms")
        .spawn();
    let many = [("STREAM_SUM_CHUNKER__LIVE_STREAMS", "1000")];
    assert_eq!(verified(&server, "--streams 8000 --chunks 10", &many), 8000);
    let log = parse_log(&summing.stop().expect(0).stderr);
    assert!(total(&log, "stopped", "commits") > 20, "{log:?}");
}

#[test]
fn more_partitions_than_one_connection_carries() {
    let server = Server::start();
    Program::at(&server, "topology apply --partitions 48")
        .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "64MiB")
        .env("STREAM_SUM_TOPOLOGY__SUMS_MAX_BYTES", "64MiB")
        .run()
        .expect(0);
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, folder.path(), "").spawn();
    summing.wait_for_log("opened the log", 48);
    assert_eq!(verified(&server, "--streams 1000 --chunks 3", &[]), 1000);
    summing.stop().expect(0);
}

#[test]
fn the_largest_chunks_and_batches_go_through() {
    let server = Server::start();
    apply(&server, 2);
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, folder.path(), "").spawn();
    // A batch as large as the server's limit lets it be: it stays 64 KiB below.
    let largest = [("STREAM_SUM_CHUNKER__BATCH_BYTES", "64MiB")];
    assert_eq!(verified(&server, "--streams 20 --chunks 4 --chunk-bytes 524288", &largest), 20);
    assert_eq!(verified(&server, "--streams 200 --chunks 40 --chunk-bytes 3000", &largest), 200);
    assert_eq!(verified(&server, "--streams 20 --chunks 0", &largest), 20);
    summing.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_that_sums_forgot_before_the_commit_is_published_again() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let uncommitted = summer(&server, folder.path(), "").env("STREAM_SUM_SUMMER__CHECKPOINT_INTERVAL", "1h").spawn();
    uncommitted.wait_for_log("opened the log", 1);
    assert_eq!(verified(&server, "--streams 10 --chunks 3", &[]), 10);
    let jetstream = server.jetstream().await;
    let sums = jetstream.get_stream("sums").await.unwrap();
    assert!(sums.delete_message(10).await.unwrap());
    // Its last commit finds the furthest final gone, and must not be made.
    let ended = uncommitted.stop().expect(0);
    assert!(ended.stderr.contains("sums has lost a message that it acknowledged"), "{}", ended.stderr);
    assert!(ended.stderr.contains("stopped before the last batches were committed"), "{}", ended.stderr);
    let summing = summer(&server, folder.path(), "").spawn();
    wait_until("the final", async || (sums.get_info().await.unwrap().state.messages == 10).then_some(())).await;
    let log = parse_log(&summing.stop().expect(0).stderr);
    let confirmed = ["finals_published", "finals_already_there"].map(|field| total(&log, "stopped", field));
    assert_eq!(confirmed, [1, 9]);
    let subjects: BTreeSet<_> = messages(&jetstream, "sums").await.iter().map(|m| m.subject.to_string()).collect();
    assert_eq!(subjects.len(), 10);
}
