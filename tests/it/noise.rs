//! What goes wrong again and again, or for all partitions at once, is said once in a while with how often it did.

use crate::support::{Server, apply, summer, total, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Instant;

/// How often each kind of trouble is told of: its message and cause, whatever numbers they hold.
fn kinds(log: &[Value]) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for entry in log.iter().filter(|entry| entry["level"] == "WARN" || entry["level"] == "ERROR") {
        let words = ["message", "why", "cause", "refusal", "sign"].map(|field| entry[field].to_string());
        let kind = words.join(" ").chars().filter(|c| !c.is_ascii_digit()).collect();
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

#[test]
fn an_outage_is_one_line_of_each_kind_however_many_partitions_meet_it() {
    let mut server = Server::start();
    apply(&server, 8);
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, folder.path(), "--worker a").env("STREAM_SUM_NATS__REQUEST_TIMEOUT", "300ms").spawn();
    summing.wait_for_log("opened the log", 8);
    let began = Instant::now();
    server.stop(Signal::SIGKILL);
    let said = |words: &str| {
        let words = words.to_owned();
        move |entry: &Value| entry.to_string().contains(&words)
    };
    for words in ["the server's heartbeat stayed out", "request timed out"] {
        wait_for(words, || summing.log().iter().any(said(words)));
    }
    server.start_again();
    wait_for("all logs", || summing.log().iter().filter(|entry| entry["message"] == "opened the log").count() >= 16);
    let most = 1 + usize::try_from(began.elapsed().as_secs() / 10).unwrap();
    let log = summing.log();
    let kinds = kinds(&log);
    assert!(kinds.len() >= 3 && kinds.values().all(|times| *times <= most), "{most} of each: {kinds:#?}");
    summing.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_of_one_reason_are_one_line_with_how_many_chunks_they_are() {
    let server = Server::start();
    apply(&server, 2);
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, folder.path(), "--worker a").spawn();
    summing.wait_for_log("opened the log", 2);
    let jetstream = server.jetstream().await;
    let began = Instant::now();
    for n in 0..200 {
        jetstream.publish(format!("chunks.{}", n % 2), "junk".into()).await.unwrap().await.unwrap();
    }
    wait_for("all of them", || {
        let status = crate::support::status(&server);
        (0..2).all(|partition| status["partitions"][partition]["workers"][0]["position"] == 100)
    });
    let ended = summing.stop().expect(0);
    let log = crate::support::parse_log(&ended.stderr);
    let lines = log.iter().filter(|entry| entry["message"] == "rejected chunks").count();
    let most = 1 + usize::try_from(began.elapsed().as_secs() / 10).unwrap();
    assert!((1..=most).contains(&lines), "{lines} lines");
    assert_eq!(total(&log, "stopped", "rejected"), 200, "what is not said is counted");
}
