//! NATS goes away and comes back.

use crate::support::{
    Process, Program, Server, apply, batch, count, id_in, parse_log, summer, total, wait_for, wait_until,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_nats_is_waited_out_by_all() {
    let mut server = Server::start();
    apply(&server, 3);
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, &folder.path().join("data"), "").spawn();
    let report = folder.path().join("report.json");
    let mut chunking =
        Program::at(&server, "chunker --streams 5000 --chunks 10 --rate 5000 --report").arg(&report).spawn();
    // More finals, or all that there will be.
    let mut grown = async |server: &Server, by: u64| {
        let sums = server.jetstream().await.get_stream("sums").await.unwrap();
        let before = sums.cached_info().state.messages;
        wait_until("finals", async || {
            let grown = sums.get_info().await.ok()?.state.messages >= before + by;
            (grown || !chunking.is_running()).then_some(())
        })
        .await;
    };
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        grown(&server, 100).await;
        server.stop(signal);
        // Long enough for both to notice and to try in vain.
        std::thread::sleep(std::time::Duration::from_secs(1));
        server.start_again();
    }
    grown(&server, 100).await;
    chunking.wait().expect(0);
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!(count(&report, "verified"), 5000, "{report}");
    let ended = summing.stop().expect(0);
    let opened = total(&parse_log(&ended.stderr), "stopped", "opened");
    assert!(opened >= 5, "logs were opened again after each outage: {opened}\n{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_deleted_by_somebody_is_made_again() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, folder.path(), "--worker w").spawn();
    summing.wait_for_log("opened the log", 1);
    let jetstream = server.jetstream().await;
    let log = jetstream.get_stream("chunks-0").await.unwrap();
    for times in 2..5 {
        log.delete_consumer("summer-w").await.unwrap();
        summing.wait_for_log("opened the log", times);
    }
    Program::at(&server, "chunker --streams 100 --chunks 3").run().expect(0);
    summing.stop().expect(0);
}

#[test]
fn a_stop_while_nats_is_away_is_obeyed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["summer", "chunker --streams 5"] {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let starting = Program::new(command)
                .args(&["--server", "nats://127.0.0.1:9"])
                .env("STREAM_SUM_NATS__STARTUP_TIMEOUT", "1h")
                .current_dir(folder.path())
                .spawn();
            // Until it watches for signals, one would end it in its own way.
            wait_for("signals watched", || starting.watches_signals());
            starting.signal(signal);
            starting.wait_for(Duration::from_secs(10)).expect(0);
        }
    }
}

#[test]
fn a_second_signal_does_not_wait() {
    let mut server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let summing = uncommitted(&server, folder.path());
    // With NATS gone, what is folded can't be committed: the drain takes its time.
    server.stop(Signal::SIGKILL);
    summing.signal(Signal::SIGTERM);
    summing.wait_for_log("stopping: draining and committing; a second signal stops at once", 1);
    summing.signal(Signal::SIGINT);
    assert_eq!(summing.wait_for(Duration::from_secs(5)).code(), 130);
}

#[test]
fn a_drain_that_nats_does_not_answer_ends_in_time() {
    let mut server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let summing = uncommitted(&server, folder.path());
    server.stop(Signal::SIGKILL);
    summing.signal(Signal::SIGTERM);
    let ended = summing.wait_for(Duration::from_secs(11)).expect(0);
    assert!(ended.stderr.contains("stopped before the last batches were committed"), "{}", ended.stderr);
}

/// A summer that has folded batches and committed none.
fn uncommitted(server: &Server, folder: &Path) -> Process {
    apply(server, 1);
    let summing = summer(server, folder, "").env("STREAM_SUM_SUMMER__CHECKPOINT_INTERVAL", "1h").spawn();
    summing.wait_for_log("opened the log", 1);
    Program::at(server, "chunker --streams 10 --chunks 3").run().expect(0);
    summing
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_noticed_by_its_missing_heartbeat() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, folder.path(), "").spawn();
    summing.wait_for_log("opened the log", 1);
    // Its connections stay as they are: only silence tells.
    server.signal(Signal::SIGSTOP);
    wait_for("the silence noticed", || {
        summing.log().iter().any(|entry| entry["why"] == "the server's heartbeat stayed out")
    });
    server.signal(Signal::SIGCONT);
    Program::at(&server, "chunker --streams 100 --chunks 3").run().expect(0);
    summing.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_has_more_and_delivers_nothing_is_made_again() {
    if Server::leaves_out_before((2, 11), "nats-server 2.10 can't pause a consumer") {
        return;
    }
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, folder.path(), "--worker w").spawn();
    summing.wait_for_log("opened the log", 1);
    // Its heartbeats go on: only asking it tells.
    let until = OffsetDateTime::now_utc() + Duration::from_secs(3600);
    let pause = serde_json::json!({ "pause_until": until.format(&Rfc3339).unwrap() });
    let client = server.client().await;
    let paused = client.request("$JS.API.CONSUMER.PAUSE.chunks-0.summer-w", pause.to_string().into()).await.unwrap();
    let paused: Value = serde_json::from_slice(&paused.payload).unwrap();
    assert_eq!(paused["paused"], true, "{paused}");
    Program::at(&server, "chunker --streams 100 --chunks 3").run().expect(0);
    let log = summing.log();
    let why: Vec<_> = log.iter().filter_map(|entry| entry["why"].as_str()).collect();
    assert_eq!(why, ["nothing has come after 0, though there is more"]);
    summing.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_longer_than_a_stream_is_remembered_ends_no_stream() {
    let mut server = Server::start();
    Program::at(&server, "topology apply --partitions 1")
        .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "64MiB")
        .env("STREAM_SUM_TOPOLOGY__SUMS_MAX_BYTES", "64MiB")
        .env("STREAM_SUM_TOPOLOGY__IDLE_EXPIRY", "1s")
        .env("STREAM_SUM_TOPOLOGY__COMPLETED_EXPIRY", "1s")
        .run()
        .expect(0);
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, folder.path(), "").spawn();
    let publish = async |server: &Server, n: usize, seq_no: u64, data: &[u8]| {
        let payload = batch(&[(id_in(0, 1, 4, n), seq_no, data)]);
        server.jetstream().await.publish("chunks.0", payload.into()).await.unwrap().await.unwrap();
    };
    let messages = async |server: &Server, stream: &str| {
        server.jetstream().await.get_stream(stream).await.unwrap().cached_info().state.messages
    };
    for n in 0..5 {
        publish(&server, n, 1, b"a").await;
    }
    server.stop(Signal::SIGTERM);
    // The one thing to wait for is that time has passed.
    std::thread::sleep(Duration::from_millis(2500));
    server.start_again();
    for n in 0..5 {
        publish(&server, n, 2, b"").await;
    }
    wait_until("the finals", async || (messages(&server, "sums").await == 5).then_some(())).await;
    assert_eq!(messages(&server, "rejects").await, 0);
    // Messages enough, on the other hand, move the log's clock on: who is told of a stream that was, and who is not.
    publish(&server, 9, 1, b"a").await;
    let mut told = Vec::new();
    for n in 0.. {
        std::thread::sleep(Duration::from_millis(100));
        publish(&server, 9, 3 + n, b"").await;
        let rejects = messages(&server, "rejects").await;
        if rejects == told.len() as u64 {
            continue;
        }
        let rejects = crate::support::messages(&server.jetstream().await, "rejects").await;
        told = rejects.iter().map(|reject| reject.headers.get("Reject-Reason").unwrap().to_string()).collect();
        if told.last().unwrap() == "unknown" {
            break;
        }
    }
    told.dedup();
    assert_eq!(told, ["gap", "broken", "expired", "unknown"]);
    summing.stop().expect(0);
}
