//! Bounds: small transactions, little memory, many partitions, large chunks, and what comes of them.

use crate::support::{
    Process, Program, Server, apply, batch, count, id_in, messages, parse_log, status, summer, total, wait_for,
    wait_until,
};
use serde_json::Value;
use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::Path;
use stream_sum::sum::stream_id::{RunPrefix, StreamId};

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

const RUN: RunPrefix = RunPrefix([0x10, 0x11, 0x12, 0x13]);

/// Two partitions, and a summer of the first. The log of the second takes 2 MiB, and nobody folds it.
async fn beside_a_small_log(server: &Server, folder: &Path) -> Process {
    apply(server, 2);
    limit(server, 2 << 20).await;
    let summing = summer(server, &folder.join("first"), "--worker first --partitions 0").spawn();
    summing.wait_for_log("opened the log", 1);
    summing
}

/// Changes how much the log of the second partition takes.
async fn limit(server: &Server, bytes: i64) {
    let jetstream = server.jetstream().await;
    let mut config = jetstream.get_stream("chunks-1").await.unwrap().cached_info().config.clone();
    config.max_bytes = bytes;
    jetstream.update_stream(config).await.unwrap();
}

fn chunker(server: &Server, flags: &str, report: &Path) -> Process {
    Program::at(server, &format!("chunker --id-prefix {RUN} --chunk-bytes 500 {flags} --report"))
        .arg(report)
        .env("STREAM_SUM_CHUNKER__DEADLINE", "200s")
        .spawn()
}

fn read(report: &Path) -> Value {
    serde_json::from_slice(&fs::read(report).unwrap()).unwrap()
}

/// Waits until a report says that the second partition stands still, and satisfies a condition.
fn stands_still(report: &Path, condition: impl Fn(&Value) -> bool) -> Value {
    wait_for("a report of the full log", || {
        report.exists() && {
            let report = read(report);
            report["waiting"][0]["partition"] == 1 && condition(&report)
        }
    });
    read(report)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_holds_up_its_own_streams_and_those_of_no_other() {
    const STREAMS: u64 = 4000;
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let first = beside_a_small_log(&server, folder.path()).await;
    let report = folder.path().join("report.json");
    let mut chunking = chunker(&server, &format!("--streams {STREAMS} --chunks 10"), &report);

    // All of the first partition's are made and summed, while most of the second's have not begun.
    let of_first = (0..STREAMS).filter(|n| StreamId::of_run(RUN, *n).partition(2) == 0).count() as u64;
    let jetstream = server.jetstream().await;
    let sums = jetstream.get_stream("sums").await.unwrap();
    let finals = async || sums.get_info().await.unwrap().state.messages;
    wait_until("the finals of the first", async || (finals().await == of_first).then_some(())).await;
    let standing = stands_still(&report, |report| count(report, "verified") == of_first);
    let waiting = &standing["waiting"];
    assert_eq!((waiting.as_array().unwrap().len(), &waiting[0]["reason"]), (1, &"log full".into()), "{standing}");
    // Four threads, each of which holds as many as a hundred; what they have sent and nobody has summed comes on top.
    let begun = count(&standing, "streams") - of_first;
    assert!((1..=600).contains(&count(&waiting[0], "streams")), "{standing}");
    assert!(standing["latency_ms"]["max"].as_f64().unwrap() < 15_000.0, "nothing is held back: {standing}");
    assert!(begun < STREAMS / 4, "{standing}");
    assert_eq!((count(&standing, "unfinished"), &standing["verdict"]), (begun, &"running".into()), "{standing}");
    wait_for("a line that names it", || {
        chunking.log().iter().any(|entry| {
            let message = entry["message"].as_str().unwrap_or_default();
            message.starts_with("partition 1 takes nothing (log full): ") && entry["streams"].as_u64() > Some(0)
        })
    });
    assert!(chunking.is_running());

    // With room, and somebody to fold it, the run ends as any.
    limit(&server, 256 << 20).await;
    let second = summer(&server, &folder.path().join("second"), "--worker second --partitions 1").spawn();
    let ended = chunking.wait().expect(0);
    let report = read(&report);
    assert_eq!((count(&report, "verified"), &report["verdict"]), (STREAMS, &"verified".into()), "{}", ended.stderr);
    assert_eq!((finals().await, report["waiting"].as_array().unwrap().len()), (STREAMS, 0));
    first.stop().expect(0);
    second.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_end_few_streams_wait_for_a_full_log_and_the_others_go_on() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let first = beside_a_small_log(&server, folder.path()).await;
    let report = folder.path().join("report.json");
    let chunking = chunker(&server, "--streams -1 --chunks 10", &report);
    let standing = stands_still(&report, |_| true);
    let later = stands_still(&report, |now| count(now, "verified") > count(&standing, "verified") + 5000);
    // What its log holds, and what waits for it.
    let rest = |report: &Value| count(report, "streams") - count(report, "verified");
    assert!(rest(&later) < rest(&standing).max(1000) + 500, "{standing} {later}");
    let ended = chunking.stop().expect(0);
    let report = read(&report);
    assert_eq!((&report["verdict"], &report["failure"]), (&"unfinished".into(), &Value::Null), "{report}");
    assert_eq!(ended.stdout().lines().last(), Some("verdict         unfinished"));
    first.stop().expect(0);
}
