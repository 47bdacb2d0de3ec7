//! NATS goes away and comes back.

use crate::support::{Program, Server, apply, count, parse_log, summer, total, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_nats_is_waited_out_by_all() {
    let mut server = Server::start();
    apply(&server, 3);
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, &folder.path().join("data"), "").spawn();
    let report = folder.path().join("report.json");
    let chunking = Program::at(&server, "chunker --streams 2500 --chunks 10 --rate 5000 --report").arg(&report).spawn();
    let grown = async |server: &Server, by: u64| {
        let sums = server.jetstream().await.get_stream("sums").await.unwrap();
        let before = sums.cached_info().state.messages;
        wait_until("finals", async || (sums.get_info().await.ok()?.state.messages >= before + by).then_some(())).await;
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
    assert_eq!(count(&report, "verified"), 2500, "{report}");
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
