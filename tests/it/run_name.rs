//! A run with a name, over several lives of its chunker: killed, paused, started twice, or with something else in mind.

use crate::support::{Ended, Process, Program, Server, apply, count, messages, summer, wait_until};
use async_nats::jetstream;
use nix::sys::signal::Signal;
use rand::RngExt;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// What must be 0 of whatever ends well.
const BAD: [&str; 6] = ["missing", "mismatched", "duplicate", "unexpected", "late", "unfinished"];

fn chunker(server: &Server, arguments: &str, report: &Path) -> Program {
    Program::at(server, &format!("chunker {arguments} --report")).arg(report)
}

fn read(report: &Path) -> Value {
    serde_json::from_slice(&fs::read(report).unwrap()).unwrap()
}

#[track_caller]
fn accounts_for(report: &Value, streams: u64) {
    assert_eq!((count(report, "streams"), count(report, "verified")), (streams, streams), "{report}");
    assert_eq!(BAD.map(|field| count(report, field)), [0; 6], "{report}");
    assert_eq!(report["verdict"], "verified", "{report}");
}

/// Nothing was rejected: no chunk has come behind a gap, for a stream that is not known, or after the end of one.
async fn nothing_was_rejected(jetstream: &jetstream::Context) {
    let rejects = messages(jetstream, "rejects").await;
    let reasons: Vec<_> = rejects.iter().map(|reject| &reject.headers).collect();
    assert!(rejects.is_empty(), "{reasons:?}");
}

async fn stored(jetstream: &jetstream::Context, stream: &str) -> u64 {
    jetstream.get_stream(stream).await.unwrap().cached_info().state.messages
}

async fn wait_for_finals(jetstream: &jetstream::Context, finals: u64) {
    wait_until("finals", async || (stored(jetstream, "sums").await >= finals).then_some(())).await;
}

/// Two summers for four partitions.
fn summers(server: &Server, folder: &Path) -> [Process; 2] {
    let start = |worker: &str, partitions: &str| {
        let flags = format!("--worker {worker} --partitions {partitions}");
        summer(server, &folder.join(worker), &flags).spawn()
    };
    [start("a", "0-1"), start("b", "2-3")]
}

fn says(ended: Ended, code: i32, what: &[&str]) {
    let ended = ended.expect(code);
    for what in what {
        assert!(ended.sentence().contains(what), "{what}: {}", ended.sentence());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunker_that_is_killed_again_and_again_goes_on_and_its_ledger_accounts_for_the_whole_run() {
    const STREAMS: u64 = 20_000;
    let server = Server::start();
    apply(&server, 4);
    let jetstream = server.jetstream().await;
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let _summers = summers(&server, folder.path());
    let mut kills: Vec<u64> = (0..5).map(|_| rand::rng().random_range(0..STREAMS * 9 / 10)).collect();
    kills.sort_unstable();
    println!("killed at {kills:?} finals");
    // Who sends, how fast, and in which pieces changes from life to life: the streams do not.
    let life = |n: usize| {
        let flags = format!("--run nightly --streams {STREAMS} --chunks 20 --workers {}", n % 3 + 1);
        let batch = format!("{}KiB", [256, 4, 64][n % 3]);
        chunker(&server, &flags, &report).env("STREAM_SUM_CHUNKER__BATCH_BYTES", &batch)
    };
    for (n, finals) in kills.into_iter().enumerate() {
        let mut running = life(n).spawn();
        wait_for_finals(&jetstream, finals).await;
        assert!(running.is_running(), "it ended too soon: {}", running.stderr_so_far());
        running.kill();
    }
    life(5).run().expect(0);
    let whole = read(&report);
    accounts_for(&whole, STREAMS);
    assert_eq!(stored(&jetstream, "sums").await, STREAMS);
    nothing_was_rejected(&jetstream).await;

    // It is complete: the next life finds all of it, and sends nothing.
    let before = messages_of_logs(&jetstream).await;
    life(6).run().expect(0);
    let again = read(&report);
    accounts_for(&again, STREAMS);
    assert_eq!((count(&again, "resumed"), count(&again, "chunks")), (STREAMS, 0), "{again}");
    assert_eq!(["run", "seed"].map(|field| &again[field]), ["run", "seed"].map(|field| &whole[field]));
    assert_eq!(messages_of_logs(&jetstream).await, before);
}

/// How many batches the logs were sent.
async fn messages_of_logs(jetstream: &jetstream::Context) -> u64 {
    let mut sent = 0;
    for partition in 0..4 {
        let log = jetstream.get_stream(format!("chunks-{partition}")).await.unwrap();
        sent += log.cached_info().state.last_sequence;
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_life_that_was_paused_wakes_gives_way_and_breaks_nothing() {
    const STREAMS: u64 = 3000;
    let server = Server::start();
    apply(&server, 4);
    let jetstream = server.jetstream().await;
    let folder = tempfile::tempdir().unwrap();
    let _summers = summers(&server, folder.path());
    let flags = format!("--run nightly --streams {STREAMS} --chunks 20 --rate 15000");
    let reports = ["earlier.json", "later.json"].map(|name| folder.path().join(name));
    let [earlier, later] = reports.each_ref().map(|report| chunker(&server, &flags, report));
    let earlier = earlier.spawn();
    wait_for_finals(&jetstream, STREAMS / 10).await;
    earlier.signal(Signal::SIGSTOP);
    let paused_at = stored(&jetstream, "sums").await;
    let mut later = later.spawn();
    wait_for_finals(&jetstream, (paused_at + STREAMS / 3).max(STREAMS / 2)).await;
    assert!(later.is_running(), "both are to send at once");
    earlier.signal(Signal::SIGCONT);
    let gave_way = earlier.wait();
    assert_eq!(BAD[..5].iter().map(|field| count(&read(&reports[0]), field)).sum::<u64>(), 0, "{}", read(&reports[0]));
    says(gave_way, 1, &["another chunker has gone on with the run nightly"]);
    later.wait().expect(0);
    accounts_for(&read(&reports[1]), STREAMS);
    nothing_was_rejected(&jetstream).await;
}

/// The one way to a gap: the rows of the streams that the earlier life is amid of have expired, and the later one has begun those
/// streams again, when the earlier one wakes.
#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_life_that_was_paused_for_longer_than_streams_are_remembered_sends_nothing_more() {
    let server = Server::start();
    Program::at(&server, "topology apply --partitions 4")
        .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "256MiB")
        .env("STREAM_SUM_TOPOLOGY__IDLE_EXPIRY", "4s")
        .run()
        .expect(0);
    let jetstream = server.jetstream().await;
    let folder = tempfile::tempdir().unwrap();
    let _summers = summers(&server, folder.path());
    let flags = "--run nightly --streams 40 --workers 1 --chunks 1000 --rate";
    let reports = ["earlier.json", "later.json"].map(|name| folder.path().join(name));
    let earlier = chunker(&server, &format!("{flags} 10000"), &reports[0]).spawn();
    // Some twenty batches a second and log.
    let sent = async |batches| {
        let least = messages_of_logs(&jetstream).await + batches;
        wait_until("batches", async || (messages_of_logs(&jetstream).await >= least).then_some(())).await;
    };
    sent(120).await;
    earlier.signal(Signal::SIGSTOP);
    // What others send lets log time pass.
    let others = Program::at(&server, "chunker --rate 400 --chunks 1 --workers 1");
    let others = others.env("STREAM_SUM_CHUNKER__LIVE_STREAMS", "1").spawn();
    sent(4 * 120).await;
    let first = Instant::now();
    while first.elapsed() < Duration::from_secs(5) {
        sent(40).await;
    }
    others.kill();
    let later = chunker(&server, &format!("{flags} 4000"), &reports[1]).spawn();
    sent(40).await;
    earlier.signal(Signal::SIGCONT);
    says(earlier.wait(), 1, &["another chunker has gone on with the run nightly"]);
    let said = later.wait().expect(0).stderr;
    assert!(said.contains("a stream of this run takes longer than half of topology.idle_expiry"), "{said}");
    accounts_for(&read(&reports[1]), 40);
    nothing_was_rejected(&jetstream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_chunkers_of_one_run_the_later_one_accounts_for_it() {
    const STREAMS: u64 = 3000;
    let server = Server::start();
    apply(&server, 4);
    let jetstream = server.jetstream().await;
    let folder = tempfile::tempdir().unwrap();
    let flags = format!("--run nightly --streams {STREAMS} --chunks 20 --rate 20000");
    let reports = ["first.json", "second.json"].map(|name| folder.path().join(name));
    let first = chunker(&server, &flags, &reports[0]).spawn();
    wait_until("chunks", async || (messages_of_logs(&jetstream).await > 0).then_some(())).await;
    let second = chunker(&server, &flags, &reports[1]).spawn();
    let _summers = summers(&server, folder.path());
    says(first.wait(), 1, &["another chunker has gone on with the run nightly"]);
    second.wait().expect(0);
    accounts_for(&read(&reports[1]), STREAMS);
    nothing_was_rejected(&jetstream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_begun_otherwise_is_refused_before_anything_is_sent() {
    let server = Server::start();
    apply(&server, 4);
    let jetstream = server.jetstream().await;
    let folder = tempfile::tempdir().unwrap();
    let _summers = summers(&server, folder.path());
    Program::at(&server, "chunker --run nightly --streams 10 --chunks 5 --chunk-bytes 16").run().expect(0);
    let before = messages_of_logs(&jetstream).await;
    for (flags, is) in [
        ("--streams 11 --chunks 5 --chunk-bytes 16", "--streams 11 --chunks 5 --chunk-bytes 16"),
        ("--streams 10 --chunks 6 --chunk-bytes 16", "--streams 10 --chunks 6 --chunk-bytes 16"),
        ("--streams 10 --chunks 5", "--streams 10 --chunks 5 --chunk-bytes 32"),
    ] {
        let ended = Program::at(&server, &format!("chunker --run nightly {flags}")).run();
        says(ended, 2, &["the run nightly was begun with --streams 10 --chunks 5 --chunk-bytes 16", is]);
    }
    assert_eq!(messages_of_logs(&jetstream).await, before);
    // Under another name, it is another run.
    let other = Program::at(&server, "chunker --run weekly --streams 11 --chunks 6").run().expect(0);
    assert!(other.stdout().contains("resumed                  0"), "{}", other.stdout());
}

#[test]
fn what_a_run_with_a_name_can_t_be_given_is_one_sentence() {
    for (flags, what) in [
        ("--run nightly --streams 1 --seed 7", "--seed is given for a run with a name"),
        ("--run nightly --streams 1 --id-prefix 0badcafe", "--id-prefix is given for a run with a name"),
        ("--run nightly", "the run nightly would have no end"),
        ("--run night.ly --streams 1", "A-Z a-z 0-9 _ -"),
    ] {
        says(Program::new(&format!("chunker {flags}")).run(), 2, &[what]);
    }
    let from_key = Program::new("chunker --streams 1 --seed 7").env("STREAM_SUM_CHUNKER__RUN", "nightly").run();
    says(from_key, 2, &["--seed is given for a run with a name", "chunker.run"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_older_than_what_sums_keeps_is_refused() {
    let server = Server::start();
    Program::at(&server, "topology apply --partitions 4")
        .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "256MiB")
        .env("STREAM_SUM_TOPOLOGY__SUMS_RETENTION", "5s")
        .run()
        .expect(0);
    let jetstream = server.jetstream().await;
    let folder = tempfile::tempdir().unwrap();
    let _summers = summers(&server, folder.path());
    Program::at(&server, "chunker --run nightly --streams 10").run().expect(0);
    wait_until("the finals to expire", async || (stored(&jetstream, "sums").await == 0).then_some(())).await;
    let before = messages_of_logs(&jetstream).await;
    let ended = Program::at(&server, "chunker --run nightly --streams 10").run();
    says(ended, 2, &["the run nightly was begun at ", "sums keeps finals for 5s", "begin another with --run"]);
    assert_eq!(messages_of_logs(&jetstream).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_finals_were_purged_is_refused_and_one_whose_record_was_taken_away_too() {
    let server = Server::start();
    apply(&server, 4);
    let jetstream = server.jetstream().await;
    let folder = tempfile::tempdir().unwrap();
    let _summers = summers(&server, folder.path());
    let chunk = || Program::at(&server, "chunker --run nightly --streams 10").run();
    chunk().expect(0);
    let bucket = jetstream.get_object_store("stream-sum-state").await.unwrap();
    let record = bucket.info("runs/nightly").await.unwrap();
    bucket.delete("runs/nightly").await.unwrap();
    says(chunk(), 2, &["the run nightly, which would make them, was never begun"]);
    // As it was, and of sums only the first final is gone.
    let mut back = jetstream::object_store::ObjectMetadata { name: record.name, ..Default::default() };
    back.metadata = record.metadata;
    bucket.put(back, &mut &b""[..]).await.unwrap();
    chunk().expect(0);
    jetstream.get_stream("sums").await.unwrap().purge().sequence(2).await.unwrap();
    says(chunk(), 2, &["sums has lost finals that were stored after the run nightly was begun at "]);
}
