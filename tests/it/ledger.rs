//! Every way in which a guarantee can break, provoked: `sums` is made without its once-only limit, and the test plays
//! the summer.

use crate::support::{Ended, Process, Program, Server, apply, copy, count, parse_log, summer, wait_for, wait_until};
use async_nats::jetstream;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::path::Path;
use stream_sum::run::workload::Workload;
use stream_sum::sum::codec::encode_final;
use stream_sum::sum::running::Sum;
use stream_sum::sum::running::Value as Digest;
use stream_sum::sum::stream_id::{RunPrefix, StreamId};

pub const RUN: RunPrefix = RunPrefix([0xaa, 0xbb, 0xcc, 0xdd]);
const WORKLOAD: Workload = Workload { seed: 7, chunks: 2, chunk_bytes: 8 };

pub fn expected(n: u64) -> Sum {
    WORKLOAD.expected(StreamId::of_run(RUN, n))
}

/// `sums` as it must never be: any number of messages a subject.
async fn lenient_sums(jetstream: &jetstream::Context) {
    let mut config = jetstream.get_stream("sums").await.unwrap().cached_info().config.clone();
    jetstream.delete_stream("sums").await.unwrap();
    config.max_messages_per_subject = -1;
    config.discard_new_per_subject = false;
    jetstream.create_stream(config).await.unwrap();
}

pub async fn say(jetstream: &jetstream::Context, id: StreamId, payload: Vec<u8>) -> u64 {
    let hex_id = id.to_string();
    let subject = format!("sums.{}.{}", &hex_id[..8], &hex_id[8..]);
    jetstream.publish(subject, payload.into()).await.unwrap().await.unwrap().sequence
}

pub fn chunker(server: &Server, streams: u64, deadline: &str, report: &Path) -> Process {
    Program::at(
        server,
        &format!("chunker --streams {streams} --chunks 2 --chunk-bytes 8 --seed 7 --id-prefix {RUN} --report"),
    )
    .arg(report)
    .env("STREAM_SUM_CHUNKER__DEADLINE", deadline)
    // The first steps of the ladder are told of as well.
    .env("STREAM_SUM_LOG__LEVEL", "debug")
    .spawn()
}

/// Waits until every chunk of `streams` streams is in the logs.
pub async fn published(jetstream: &jetstream::Context, streams: usize) {
    let log = jetstream.get_stream("chunks-0").await.unwrap();
    wait_until("all chunks", async || {
        let state = log.get_info().await.unwrap().state;
        let mut chunks = 0;
        for sequence in state.first_sequence.max(1)..=state.last_sequence {
            let message = log.get_raw_message(sequence).await.unwrap();
            chunks += stream_sum::sum::codec::chunks(&message.payload).filter(Result::is_ok).count();
        }
        (chunks == streams * 3).then_some(())
    })
    .await;
}

/// Waits until the final of stream `n` alone has been awaited for 4 s: the others were seen by then.
fn waits_for_the_last_alone(chunking: &Process, n: u64) {
    let last = StreamId::of_run(RUN, n).to_string();
    wait_for("a delay of the last stream alone", || {
        chunking.log().iter().any(|entry| {
            entry["message"] == "finals are delayed"
                && entry["by_s"] == 4.0
                && entry["streams"] == 1
                && entry["example"] == last.as_str()
        })
    });
}

pub struct Verified {
    pub ended: Ended,
    pub report: Value,
}

pub fn finish(chunking: Process, report: &Path, code: i32) -> Verified {
    let ended = chunking.wait().expect(code);
    let report = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    Verified { ended, report }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_broken_guarantee_is_named_and_the_exit_code_is_3() {
    let server = Server::start();
    apply(&server, 1);
    let jetstream = server.jetstream().await;
    lenient_sums(&jetstream).await;
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let chunking = chunker(&server, 7, "8s", &report);
    published(&jetstream, 7).await;
    let right = |n| encode_final(&expected(n));
    let id = |n| StreamId::of_run(RUN, n);

    say(&jetstream, id(0), right(0)).await;
    say(&jetstream, id(1), right(1)).await;
    say(&jetstream, id(1), right(1)).await;
    say(&jetstream, id(2), encode_final(&Sum { value: Digest([9; 20]), ..expected(2) })).await;
    say(&jetstream, id(3), b"no final".to_vec()).await;
    say(&jetstream, id(99), right(0)).await;
    // The right payload under another stream's subject is a wrong final of that stream.
    say(&jetstream, id(6), right(0)).await;
    chunking.wait_for_log("finals are delayed", 1);
    wait_for("the deadline", || {
        chunking.log().iter().any(|entry| entry["message"] == "finals are delayed" && entry["by_s"] == 8.0)
    });
    say(&jetstream, id(4), right(4)).await;

    let Verified { ended, report } = finish(chunking, &report, 3);
    for (field, n) in [
        ("streams", 7),
        ("chunks", 21),
        ("bytes", 7 * 16),
        ("verified", 1),
        ("duplicate", 1),
        ("mismatched", 3),
        ("late", 1),
        ("missing", 1),
        ("unexpected", 1),
        ("republished", 0),
        ("unfinished", 0),
    ] {
        assert_eq!(count(&report, field), n, "{field}: {report}\n{}", ended.stderr);
    }
    for (what, id) in [
        ("duplicate: ", id(1)),
        ("mismatched: ", id(2)),
        ("mismatched: ", id(3)),
        ("late: ", id(4)),
        ("missing: ", id(5)),
        ("mismatched: ", id(6)),
    ] {
        let named = ended.stderr.lines().any(|line| line.contains(what) && line.contains(&id.to_string()));
        assert!(named, "{what}{id}: {}", ended.stderr);
    }
    assert_eq!((&report["verdict"], &report["failure"]), (&"broken".into(), &Value::Null), "{report}");
    assert_eq!(ended.stdout().lines().last(), Some("verdict             broken"));
    let phantom = id(99).to_string();
    assert!(ended.stderr.lines().any(|line| line.contains("unexpected: ") && line.contains(&phantom[8..])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_in_the_last_moment_is_seen() {
    let server = Server::start();
    apply(&server, 1);
    let jetstream = server.jetstream().await;
    lenient_sums(&jetstream).await;
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let chunking = chunker(&server, 2, "40s", &report);
    published(&jetstream, 2).await;
    // All three on their way before any is answered, the second of the same stream before the last of the run.
    let client = server.client().await;
    for n in [0, 0, 1] {
        let id = StreamId::of_run(RUN, n).to_string();
        let subject = format!("sums.{}.{}", &id[..8], &id[8..]);
        client.publish(subject, encode_final(&expected(n)).into()).await.unwrap();
    }
    client.flush().await.unwrap();
    let Verified { report, .. } = finish(chunking, &report, 3);
    assert_eq!((count(&report, "duplicate"), count(&report, "verified")), (1, 1), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_that_sums_had_forgotten_is_republished_and_breaks_nothing() {
    let server = Server::start();
    apply(&server, 1);
    let jetstream = server.jetstream().await;
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let chunking = chunker(&server, 2, "40s", &report);
    published(&jetstream, 2).await;
    let id = StreamId::of_run(RUN, 0);
    let sequence = say(&jetstream, id, encode_final(&expected(0))).await;
    // The chunker must have seen it before it is gone.
    waits_for_the_last_alone(&chunking, 1);
    jetstream.get_stream("sums").await.unwrap().delete_message(sequence).await.unwrap();
    say(&jetstream, id, encode_final(&expected(0))).await;
    say(&jetstream, StreamId::of_run(RUN, 1), encode_final(&expected(1))).await;
    let Verified { report, ended } = finish(chunking, &report, 0);
    assert_eq!((count(&report, "verified"), count(&report, "republished")), (2, 1), "{report}");
    assert_eq!(report["verdict"], "verified", "{report}");
    assert_eq!(ended.stdout().lines().last(), Some("verdict           verified"));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_open_at_an_interrupt_are_unfinished_and_break_nothing() {
    let server = Server::start();
    apply(&server, 2);
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let chunking = Program::at(&server, "chunker --streams -1 --rate 2000 --report").arg(&report).spawn();
    let jetstream = server.jetstream().await;
    let log = jetstream.get_stream("chunks-1").await.unwrap();
    wait_until("chunks", async || (log.get_info().await.unwrap().state.messages > 5).then_some(())).await;
    let ended = chunking.stop().expect(0);
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert!(count(&report, "streams") > 0);
    assert_eq!(count(&report, "unfinished"), count(&report, "streams"), "{report}: {}", ended.stderr);
    assert_eq!((&report["verdict"], &report["failure"]), (&"unfinished".into(), &Value::Null), "{report}");
    assert_eq!(ended.stdout().lines().last(), Some("verdict         unfinished"));
}

#[test]
fn a_chunker_that_is_killed_leaves_a_whole_report_of_a_few_seconds_ago() {
    let server = Server::start();
    apply(&server, 2);
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, &folder.path().join("data"), "").spawn();
    summing.wait_for_log("opened the log", 2);
    let (reports, report) = (folder.path().join("reports"), folder.path().join("reports/report.json"));
    fs::create_dir(&reports).unwrap();
    let flags = format!("chunker --streams -1 --chunks 3 --rate 2000 --seed 7 --id-prefix {RUN} --report");
    let chunking = Program::at(&server, &flags).arg(&report).spawn();
    let read = || serde_json::from_slice::<Value>(&fs::read(&report).unwrap()).unwrap();
    // Every report that anybody ever finds is a whole one: the first, that of the run's beginning, and others.
    wait_for("the first report", || report.exists());
    wait_for("a report of the run's beginning", || read()["run"] == RUN.to_string());
    wait_for("a report in mid-run", || count(&read(), "verified") > 0);
    chunking.kill();
    let report = read();
    for (field, value) in [
        ("verdict", Value::from("running")),
        ("failure", Value::Null),
        ("seed", 7.into()),
        ("partitions", 2.into()),
        ("replicas", 1.into()),
        ("version", env!("CARGO_PKG_VERSION").into()),
    ] {
        assert_eq!(report[field], value, "{field}: {report}");
    }
    assert!(report["server_version"].as_str().is_some_and(|version| version.starts_with("2.")), "{report}");
    assert_eq!(
        (&report["config"]["chunker"]["rate"], &report["config"]["topology"]["prefix"]),
        (&2000.into(), &"".into())
    );
    assert!(report["written"].as_str() > report["started"].as_str(), "{report}");
    let interval = &report["interval"];
    assert!(count(interval, "finals") > 0 && interval["latency_ms"]["p99"].as_f64() > Some(0.0), "{report}");
    assert_eq!(fs::read_dir(&reports).unwrap().count(), 1, "nothing else is left there");
    summing.stop().expect(0);
}

#[test]
fn a_run_that_never_began_leaves_a_report_that_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    fs::write(&report, r#"{"verdict": "verified"}"#).unwrap();
    let flags = "chunker --streams 5 --server nats://127.0.0.1:9 --report";
    let ended = Program::new(flags).arg(&report).env("STREAM_SUM_NATS__STARTUP_TIMEOUT", "200ms").run().expect(1);
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!((&report["verdict"], count(&report, "streams")), (&"unfinished".into(), 0), "{report}");
    assert_eq!(format!("stream-sum: {}", report["failure"].as_str().unwrap()), ended.sentence());
    assert!(report["run"].is_null() && report["started"].is_string(), "{report}");
}

#[test]
fn a_report_to_standard_output_stands_whole_before_the_ledger() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, folder.path(), "").spawn();
    // Which is a file here, and stays the one that it is.
    let ended = Program::at(&server, "chunker --streams 5 --report /dev/stdout").run().expect(0);
    let said = ended.stdout();
    let (report, ledger) = said.split_at(said.find("\n}\n").unwrap() + 3);
    let report: Value = serde_json::from_str(report).unwrap();
    assert_eq!((&report["verdict"], count(&report, "verified")), (&"verified".into(), 5));
    assert!(ledger.starts_with("streams ") && ledger.ends_with("verdict           verified\n"), "{said}");
    summing.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sums_that_was_rolled_back_under_a_run_is_watched_on() {
    let mut server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let (report, older) = (folder.path().join("report.json"), folder.path().join("older"));
    let chunking = chunker(&server, 3, "40s", &report);
    published(&server.jetstream().await, 3).await;
    let id = |n| StreamId::of_run(RUN, n);
    let sums = server.store().join("$G/streams/sums");
    say(&server.jetstream().await, id(0), encode_final(&expected(0))).await;
    server.stop(Signal::SIGTERM);
    copy(&sums, &older);
    server.start_again();
    say(&server.jetstream().await, id(1), encode_final(&expected(1))).await;
    waits_for_the_last_alone(&chunking, 2);
    server.stop(Signal::SIGTERM);
    fs::remove_dir_all(&sums).unwrap();
    copy(&older, &sums);
    server.start_again();
    // The second final is forgotten and comes again; the first is there still, and is no news.
    let jetstream = server.jetstream().await;
    assert_eq!(jetstream.get_stream("sums").await.unwrap().cached_info().state.messages, 1);
    say(&jetstream, id(1), encode_final(&expected(1))).await;
    // With the last one the run is over.
    say(&jetstream, id(2), encode_final(&expected(2))).await;
    let Verified { ended, report } = finish(chunking, &report, 0);
    assert_eq!((count(&report, "verified"), count(&report, "republished")), (3, 1), "{report}: {}", ended.stderr);
    assert!(ended.stderr.contains("sums is not what it was"), "{}", ended.stderr);
}

#[test]
fn hundreds_of_streams_that_end_badly_are_counted_and_not_named_one_by_one() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    // Nobody sums.
    let chunking = Program::at(&server, "chunker --streams 300 --chunks 1 --report").arg(&report);
    let ended = chunking.env("STREAM_SUM_CHUNKER__DEADLINE", "300ms").run().expect(3);
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!(count(&report, "missing"), 300, "{report}");
    let named = parse_log(&ended.stderr).iter().filter(|entry| entry["level"] == "ERROR").count();
    assert!((20..=25).contains(&named), "{named}: {}", ended.stderr);
}
