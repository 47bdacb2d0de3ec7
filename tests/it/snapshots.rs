//! Snapshots: a lost folder comes back, the log is purged behind them, and a small log never stands still.

use crate::support::{
    PATIENCE, Process, Program, Server, batch, count, id_in, parse_log, status, summer, total, wait_for, wait_until,
};
use async_nats::jetstream;
use jetfold::archive::bucket::Snapshots;
use jetfold::nats::connect::{self, Connection};
use jetfold::store::{Owner, Store};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use stream_sum::cli::config::{Config, Sources};
use stream_sum::sum::Summer;
use stream_sum::sum::names::names;
use stream_sum::sum::row::Row;
use stream_sum::sum::stream_id::StreamId;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A topology with logs of a given size.
pub fn apply(server: &Server, partitions: u32, log_max_bytes: &str) {
    Program::at(server, &format!("topology apply --partitions {partitions}"))
        .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", log_max_bytes)
        .env("STREAM_SUM_TOPOLOGY__SUMS_MAX_BYTES", "256MiB")
        .run()
        .expect(0);
}

async fn connection(server: &Server) -> Connection {
    let environment = [("STREAM_SUM_NATS__SERVERS".into(), server.url().into())];
    let config = Config::load(Sources { environment: environment.into(), ..Sources::default() }).unwrap();
    connect::connect(&config.nats, "stream-sum test").await.unwrap()
}

pub async fn snapshots(server: &Server) -> Snapshots {
    Snapshots::new(connection(server).await, &names(""))
}

fn read(report: &Path) -> Value {
    serde_json::from_slice(&fs::read(report).unwrap()).unwrap()
}

/// Stops a chunker that would go on for ever: every stream that it has closed is verified.
fn stopped(chunking: Process, report: &Path) -> Value {
    chunking.stop().expect(0);
    let report = read(report);
    assert_eq!(count(&report, "verified") + count(&report, "unfinished"), count(&report, "streams"), "{report}");
    report
}

fn rows(folder: &Path, partition: u32, partitions: u32) -> Vec<(StreamId, Row)> {
    let owner = Owner { log: format!("chunks-{partition}"), partition, partitions };
    Store::<Summer>::open(folder, &owner, 1 << 20).unwrap().rows_after(None, usize::MAX).unwrap().0
}

pub async fn first_sequence(server: &Server, log: &str) -> u64 {
    server.jetstream().await.get_stream(log).await.unwrap().cached_info().state.first_sequence
}

/// Waits until everything in the log of one partition is committed.
pub async fn caught_up(server: &Server, worker: &str) {
    wait_until("everything to be committed", async || {
        let status = status(server);
        let partitions = status["partitions"].as_array().unwrap();
        let folded = |partition: &Value| {
            let workers = partition["workers"].as_array().unwrap();
            workers.iter().any(|told| told["worker"] == worker && told["lag"] == 0)
        };
        partitions.iter().all(folded).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_summer_whose_folder_is_lost_comes_back_from_snapshots_under_load() {
    let server = Server::start();
    apply(&server, 2, "4MiB");
    let folder = tempfile::tempdir().unwrap();
    let (data, report) = (folder.path().join("data"), folder.path().join("report.json"));
    let first = summer(&server, &data, "").spawn();
    let mut chunking =
        Program::at(&server, "chunker --chunks 20 --chunk-bytes 256 --rate 8000 --report").arg(&report).spawn();
    wait_for("both logs to be purged", || {
        let log = first.log();
        let purged = |name: &str| {
            log.iter().any(|entry| entry["message"] == "purged the log up to a snapshot" && entry["log"] == name)
        };
        purged("chunks-0") && purged("chunks-1")
    });
    first.kill();
    fs::remove_dir_all(&data).unwrap();
    assert!(chunking.is_running(), "under load");
    let second = summer(&server, &data, "").spawn();
    second.wait_for_log("restored a snapshot", 2);
    let finals = async || server.jetstream().await.get_stream("sums").await.unwrap().cached_info().state.messages;
    let before = finals().await;
    wait_until("a thousand finals more", async || (finals().await > before + 1000).then_some(())).await;
    let report = stopped(chunking, &report);
    assert_eq!(finals().await, count(&report, "verified"), "none is there twice");
    let log = second.log();
    second.stop().expect(0);
    assert!(total(&log, "restored a snapshot", "position") > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_summer_whose_folder_is_lost_before_any_snapshot_folds_the_whole_log_again() {
    let server = Server::start();
    apply(&server, 2, "256MiB");
    let folder = tempfile::tempdir().unwrap();
    let (data, report) = (folder.path().join("data"), folder.path().join("report.json"));
    let first = summer(&server, &data, "").spawn();
    let mut chunking = Program::at(&server, "chunker --chunks 20 --rate 8000 --report").arg(&report).spawn();
    let finals = async || server.jetstream().await.get_stream("sums").await.unwrap().cached_info().state.messages;
    wait_until("some finals", async || (finals().await > 500).then_some(())).await;
    first.kill();
    fs::remove_dir_all(&data).unwrap();
    assert!(chunking.is_running(), "under load");
    let second = summer(&server, &data, "").spawn();
    let before = finals().await;
    wait_until("a thousand finals more", async || (finals().await > before + 1000).then_some(())).await;
    let report = stopped(chunking, &report);
    assert_eq!(finals().await, count(&report, "verified"), "none is there twice");
    // Its last commits, and what they say, may come with its end.
    let log = parse_log(&second.stop().expect(0).stderr);
    assert_eq!(total(&log, "restored a snapshot", "position"), 0);
    let again =
        total(&log, "finals and rejects were there already: these batches had been folded before", "already_there");
    assert!(again > 0, "the finals of the lost store were there already");
}

pub async fn publish(jetstream: &jetstream::Context, n: usize, closing: bool) {
    let id = id_in(0, 1, 3, n);
    let chunks: &[(StreamId, u64, &[u8])] = &[(id, 1, b"some data"), (id, 2, b"more of it"), (id, 3, b"")];
    let payload = batch(if closing { chunks } else { &chunks[..2] });
    jetstream.publish("chunks.0", payload.into()).await.unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_store_and_one_that_folded_the_whole_log_are_equal_row_by_row() {
    let server = Server::start();
    apply(&server, 1, "64MiB");
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let jetstream = server.jetstream().await;
    for n in 0..200 {
        publish(&jetstream, n, n % 3 == 0).await;
    }
    let first = summer(&server, &path("first"), "--worker first --partitions all").spawn();
    caught_up(&server, "first").await;
    // A clean stop leaves a snapshot.
    first.stop().expect(0);
    let listed = snapshots(&server).await.list(0).await.unwrap();
    assert_eq!(listed.iter().map(|listed| listed.name.position).collect::<Vec<_>>(), [200]);
    for n in 150..300 {
        publish(&jetstream, n, n % 2 == 0).await;
    }
    let restored = summer(&server, &path("restored"), "--worker restored --partitions all").spawn();
    restored.wait_for_log("restored a snapshot", 1);
    caught_up(&server, "restored").await;
    restored.kill();
    // Without a snapshot, the whole log is folded.
    jetstream.get_stream("OBJ_stream-sum-state").await.unwrap().purge().await.unwrap();
    let whole = summer(&server, &path("whole"), "--worker whole --partitions all").spawn();
    caught_up(&server, "whole").await;
    assert_eq!(total(&whole.log(), "restored a snapshot", "position"), 0);
    whole.kill();
    let (restored, whole) = (rows(&path("restored"), 0, 1), rows(&path("whole"), 0, 1));
    assert_eq!(whole.len(), 300);
    assert!(restored == whole, "row by row");
}

/// A summer that has folded `streams` live streams and stops, which leaves a snapshot.
async fn fold_and_stop(server: &Server, folder: &Path, streams: std::ops::Range<usize>) {
    let jetstream = server.jetstream().await;
    for n in streams {
        publish(&jetstream, n, false).await;
    }
    let summing = summer(server, folder, "--worker a --partitions all").spawn();
    caught_up(server, "a").await;
    summing.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_further_than_every_snapshot_is_kept() {
    let server = Server::start();
    apply(&server, 1, "64MiB");
    let folder = tempfile::tempdir().unwrap();
    fold_and_stop(&server, folder.path(), 0..10).await;
    assert!(!snapshots(&server).await.list(0).await.unwrap().is_empty(), "it is put away at a clean stop");
    let killed = summer(&server, folder.path(), "--worker a").spawn();
    let jetstream = server.jetstream().await;
    for n in 10..20 {
        publish(&jetstream, n, false).await;
    }
    caught_up(&server, "a").await;
    killed.kill();
    let again = summer(&server, folder.path(), "--worker a").spawn();
    again.wait_for_log("opened the log", 1);
    let log = again.log();
    let opened = log.iter().find(|entry| entry["message"] == "opened the log").unwrap();
    assert_eq!(opened["position"], 20, "{opened}");
    assert!(log.iter().all(|entry| entry["message"] != "restored a snapshot"));
    again.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_snapshots_are_kept_and_a_damaged_one_is_passed_over_loudly_for_the_older() {
    let server = Server::start();
    apply(&server, 1, "64MiB");
    let folder = tempfile::tempdir().unwrap();
    for n in 0..4 {
        fold_and_stop(&server, &folder.path().join("data"), n * 10..n * 10 + 10).await;
    }
    let snapshots = snapshots(&server).await;
    let positions =
        async || -> Vec<u64> { snapshots.list(0).await.unwrap().iter().map(|listed| listed.name.position).collect() };
    assert_eq!(positions().await, [40, 30, 10], "and the one that settles first");
    // Nothing else is left of those that were removed.
    let stream = server.jetstream().await.get_stream("OBJ_stream-sum-state").await.unwrap();
    let state = stream.cached_info().state.clone();
    assert_eq!(state.subjects_count, 6, "three names and three sets of pieces");
    // The newest loses a piece: the last message but its name's.
    assert!(stream.delete_message(state.last_sequence - 1).await.unwrap());
    let other = summer(&server, &folder.path().join("other"), "--worker b --partitions all").spawn();
    other.wait_for_log("restored a snapshot", 1);
    let log = other.log();
    let passed = log.iter().find(|entry| entry["level"] == "ERROR").unwrap();
    let said = passed["message"].as_str().unwrap();
    assert!(said.contains("passed over for an older one") && said.contains("0 of its 1 pieces are there"), "{said}");
    assert_eq!(total(&log, "restored a snapshot", "position"), 30);
    caught_up(&server, "b").await;
    other.kill();
    assert_eq!(rows(&folder.path().join("other"), 0, 1).len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_interrupted_put_leaves_is_swept_and_never_restored() {
    let server = Server::start();
    apply(&server, 1, "256MiB");
    let folder = tempfile::tempdir().unwrap();
    let jetstream = server.jetstream().await;
    // Enough for several pieces.
    for n in 0..40 {
        let ids: Vec<StreamId> = (0..1000)
            .map(|k: u64| {
                let mut bytes = [n; 16];
                bytes[8..].copy_from_slice(&k.to_be_bytes());
                StreamId::new(bytes)
            })
            .collect();
        let chunks: Vec<(StreamId, u64, &[u8])> = ids.iter().map(|id| (*id, 1, &id.as_bytes()[..])).collect();
        jetstream.publish("chunks.0", batch(&chunks).into()).await.unwrap().await.unwrap();
    }
    let dying = summer(&server, &folder.path().join("data"), "--worker a --partitions all")
        .env("STREAM_SUM_CRASH_AT", "snapshot")
        .spawn();
    caught_up(&server, "a").await;
    dying.signal(Signal::SIGTERM);
    assert_eq!(dying.wait().status.code(), None, "it died as it wrote");
    let snapshots = snapshots(&server).await;
    assert!(snapshots.list(0).await.unwrap().is_empty());
    let pieces = async || jetstream.get_stream("OBJ_stream-sum-state").await.unwrap().cached_info().state.messages;
    assert!(pieces().await > 0, "some of it was put");
    assert_eq!(snapshots.sweep(Duration::from_secs(600)).await.unwrap(), 0, "somebody may be at it still");
    assert_eq!(snapshots.sweep(Duration::ZERO).await.unwrap(), 1);
    assert_eq!(pieces().await, 0);
    let other = summer(&server, &folder.path().join("other"), "--worker b --partitions all").spawn();
    caught_up(&server, "b").await;
    other.stop().expect(0);
    assert_eq!(snapshots.list(0).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_log_wraps_again_and_again_with_summers_slower_than_chunkers() {
    let server = Server::start();
    apply(&server, 2, "2MiB");
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let mut chunking =
        Program::at(&server, "chunker --streams 1200 --chunks 100 --chunk-bytes 1024 --report").arg(&report).spawn();
    // Full before anybody folds.
    wait_until("a full log", async || {
        let log = server.jetstream().await.get_stream("chunks-0").await.ok()?;
        (log.cached_info().state.bytes > 1 << 20).then_some(())
    })
    .await;
    let summing = summer(&server, &folder.path().join("data"), "").spawn();
    // It is held up as well: the chunker is always ahead.
    let deadline = Instant::now() + 3 * PATIENCE;
    while chunking.is_running() {
        assert!(Instant::now() < deadline, "the log stands still");
        summing.signal(Signal::SIGSTOP);
        std::thread::sleep(Duration::from_millis(100));
        summing.signal(Signal::SIGCONT);
        std::thread::sleep(Duration::from_millis(200));
    }
    chunking.wait().expect(0);
    let report = read(&report);
    assert_eq!((count(&report, "verified"), count(&report, "unfinished")), (1200, 0), "{report}");
    // How large batches are is a matter of how busy the machine is: what went through both is counted in bytes.
    assert!(count(&report, "bytes") > 2 * 25 * (2 << 20), "{report}");
    summing.stop().expect(0);
    for log in ["chunks-0", "chunks-1"] {
        let state = server.jetstream().await.get_stream(log).await.unwrap().cached_info().state.clone();
        assert!(state.bytes <= 2 << 20);
        assert!(state.first_sequence > 1, "{log} wrapped: {state:?}");
    }
    // However often the log was purged past older ones: two are kept, and one or two that settle.
    let snapshots = snapshots(&server).await;
    for partition in 0..2 {
        let kept = snapshots.list(partition).await.unwrap().len();
        assert!((2..=4).contains(&kept), "{kept}");
    }
    // Purged further, the log makes the oldest useless: nobody is told so whose store is further than both.
    let oldest = snapshots.list(0).await.unwrap().last().unwrap().checkpoint.position;
    let stream = server.jetstream().await.get_stream("chunks-0").await.unwrap();
    let last = stream.cached_info().state.last_sequence;
    assert!(oldest + 1 < last, "{oldest} {last}");
    stream.purge().sequence(last).await.unwrap();
    let summing = summer(&server, &folder.path().join("data"), "").spawn();
    Program::at(&server, "chunker --streams 20").run().expect(0);
    let log = summing.stop().expect(0).stderr;
    assert!(!log.contains("passed over"), "{log}");
}

/// A summer of one partition whose snapshot waits to settle, and the position of that. The log is a third full.
pub async fn settling(server: &Server, folder: &Path, delay: &str) -> (Process, u64) {
    apply(server, 1, "4MiB");
    let summing =
        summer(server, folder, "--worker a --partitions all").env("STREAM_SUM_SUMMER__PURGE_DELAY", delay).spawn();
    Program::at(server, "chunker --streams 70 --chunks 20 --chunk-bytes 1024").run().expect(0);
    summing.wait_for_log("wrote a snapshot", 1);
    let position = total(&summing.log(), "wrote a snapshot", "position");
    (summing, position)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_purged_up_to_a_snapshot_that_has_settled_and_not_before() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let (summing, position) = settling(&server, folder.path(), "3s").await;
    summing.wait_for_log("purged the log up to a snapshot", 1);
    // Another line of the log may follow, but none of another snapshot: too little was folded since.
    let log = summing.log();
    let at = |message: &str| {
        let entry = log.iter().find(|entry| entry["message"] == message).unwrap();
        OffsetDateTime::parse(entry["timestamp"].as_str().unwrap(), &Rfc3339).unwrap()
    };
    let waited = at("purged the log up to a snapshot") - at("wrote a snapshot");
    assert!(waited >= Duration::from_secs(3), "{waited}");
    let stream = server.jetstream().await.get_stream("chunks-0").await.unwrap();
    assert_eq!(stream.cached_info().state.first_sequence, position, "the message at the position stays");
    summing.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_made_anew_while_a_snapshot_settles_is_not_purged() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let (summing, position) = settling(&server, folder.path(), "2s").await;
    summing.signal(Signal::SIGSTOP);
    let jetstream = server.jetstream().await;
    jetstream.delete_stream("chunks-0").await.unwrap();
    apply(&server, 1, "4MiB");
    for n in 0..usize::try_from(position).unwrap() + 10 {
        publish(&jetstream, n, false).await;
    }
    summing.signal(Signal::SIGCONT);
    let refused = "the archive stands still: the log is not what the store was folded from";
    wait_for("the archive to refuse", || {
        summing.log().iter().any(|entry| entry["message"].as_str().is_some_and(|said| said.starts_with(refused)))
    });
    assert_eq!(first_sequence(&server, "chunks-0").await, 1);
    assert_eq!(total(&summing.log(), "purged the log up to a snapshot", "first"), 0);
    summing.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_summer_that_was_left_behind_by_a_purge_restores_what_another_has_put_away() {
    let server = Server::start();
    apply(&server, 1, "2MiB");
    let folder = tempfile::tempdir().unwrap();
    let behind = folder.path().join("behind");
    let start = |folder: &Path, worker: &str| -> Process {
        summer(&server, folder, &format!("--worker {worker} --partitions all")).spawn()
    };
    let chunk = |streams: u64| {
        Program::at(&server, &format!("chunker --streams {streams} --chunks 20 --chunk-bytes 1024")).run().expect(0)
    };
    let first = start(&behind, "a");
    chunk(5);
    caught_up(&server, "a").await;
    first.kill();
    let ahead = start(&folder.path().join("ahead"), "b");
    chunk(400);
    wait_until("the log to be purged", async || (first_sequence(&server, "chunks-0").await > 10).then_some(())).await;
    let again = start(&behind, "a");
    again.wait_for_log("restored a snapshot", 1);
    chunk(50);
    caught_up(&server, "a").await;
    caught_up(&server, "b").await;
    again.kill();
    ahead.kill();
    assert!(rows(&behind, 0, 1) == rows(&folder.path().join("ahead"), 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_rows_leave_the_store_and_its_file_stops_growing() {
    let server = Server::start();
    Program::at(&server, "topology apply --partitions 1")
        .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "64MiB")
        .env("STREAM_SUM_TOPOLOGY__SUMS_MAX_BYTES", "256MiB")
        .env("STREAM_SUM_TOPOLOGY__COMPLETED_EXPIRY", "1s")
        .env("STREAM_SUM_TOPOLOGY__IDLE_EXPIRY", "1s")
        .run()
        .expect(0);
    let folder = tempfile::tempdir().unwrap();
    // A stream that nobody ends: it is forgotten as well.
    publish(&server.jetstream().await, 0, false).await;
    let summing = summer(&server, folder.path(), "--worker a --partitions all")
        .env("STREAM_SUM_SUMMER__CHECKPOINT_INTERVAL", "50ms")
        .spawn();
    let chunking = Program::at(&server, "chunker --chunks 1 --rate 8000").spawn();
    let told = || status(&server)["partitions"][0]["workers"][0].clone();
    let finals = async || server.jetstream().await.get_stream("sums").await.unwrap().cached_info().state.messages;
    // 4,000 streams a second, each remembered for one.
    wait_until("enough streams to have forgotten most", async || (finals().await > 40_000).then_some(())).await;
    let worker = told();
    assert!(worker["rows"].as_u64().unwrap() < 15_000, "{worker}");
    let bytes = worker["store_bytes"].as_u64().unwrap();
    wait_until("as many again", async || (finals().await > 80_000).then_some(())).await;
    let worker = told();
    assert!(worker["rows"].as_u64().unwrap() < 15_000, "{worker}");
    assert!(worker["store_bytes"].as_u64().unwrap() <= bytes * 2, "{bytes} before, and then {worker}");
    chunking.stop().expect(0);
    summing.stop().expect(0);
    let rows = rows(folder.path(), 0, 1);
    assert!(!rows.iter().any(|(id, _)| *id == id_in(0, 1, 3, 0)), "the open stream was forgotten");
}
