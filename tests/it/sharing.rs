//! Several summers: side by side, on the same partitions, and one that sleeps through its own succession.

use crate::support::{
    PATIENCE, Process, Program, Server, apply, count, parse_log, summer, total, wait_for, wait_until,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Duration;

fn chunker(server: &Server, flags: &str, report: &Path) -> Process {
    Program::at(server, &format!("chunker {flags} --report")).arg(report).spawn()
}

fn verified(report: &Path) -> u64 {
    count(&serde_json::from_slice::<Value>(&fs::read(report).unwrap()).unwrap(), "verified")
}

async fn finals(server: &Server) -> u64 {
    server.jetstream().await.get_stream("sums").await.unwrap().cached_info().state.messages
}

/// How many streams a summer has completed and committed so far, by its log at debug level.
fn positions(summing: &Process) -> Vec<(String, u64)> {
    let mut positions: Vec<(String, u64)> = Vec::new();
    for entry in summing.log() {
        if entry["message"] == "committed" {
            let (log, position) = (entry["log"].as_str().unwrap(), entry["position"].as_u64().unwrap());
            positions.retain(|(name, _)| name != log);
            positions.push((log.to_owned(), position));
        }
    }
    positions.sort();
    positions
}

async fn log_ends(server: &Server, partitions: u32) -> Vec<(String, u64)> {
    let jetstream = server.jetstream().await;
    let mut ends = Vec::new();
    for partition in 0..partitions {
        let name = format!("chunks-{partition}");
        let last = jetstream.get_stream(&name).await.unwrap().cached_info().state.last_sequence;
        ends.push((name, last));
    }
    ends
}

#[tokio::test(flavor = "multi_thread")]
async fn two_summers_share_the_partitions() {
    let server = Server::start();
    apply(&server, 4);
    let folder = tempfile::tempdir().unwrap();
    let first = summer(&server, &folder.path().join("a"), "--partitions 0,2").spawn();
    let second = summer(&server, &folder.path().join("b"), "--partitions 1,3").spawn();
    let report = folder.path().join("report.json");
    chunker(&server, "--streams 2000 --chunks 5", &report).wait().expect(0);
    assert_eq!((verified(&report), finals(&server).await), (2000, 2000));
    let logs = [first, second].map(|summing| parse_log(&summing.stop().expect(0).stderr));
    let published = logs.each_ref().map(|log| total(log, "stopped", "finals_published"));
    assert!(published.iter().all(|n| *n > 500), "{published:?}");
    assert_eq!(published.iter().sum::<u64>(), 2000);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_summers_on_the_same_partitions_publish_nothing_twice_and_neither_is_stuck() {
    let server = Server::start();
    apply(&server, 2);
    let folder = tempfile::tempdir().unwrap();
    let both = ["a", "b"].map(|name| {
        summer(&server, &folder.path().join(name), "--partitions all")
            .arg("--worker")
            .arg(name)
            .env("STREAM_SUM_LOG__LEVEL", "debug")
            .spawn()
    });
    let report = folder.path().join("report.json");
    chunker(&server, "--streams 3000 --chunks 5 --rate 10000", &report).wait().expect(0);
    assert_eq!((verified(&report), finals(&server).await), (3000, 3000));
    let ends = log_ends(&server, 2).await;
    for summing in &both {
        wait_for("both at the end", || positions(summing) == ends);
    }
    let logs = both.map(|summing| parse_log(&summing.stop().expect(0).stderr));
    for log in &logs {
        assert_eq!(total(log, "stopped", "completed"), 3000, "each has folded all");
    }
    let sum = |field| logs.iter().map(|log| total(log, "stopped", field)).sum::<u64>();
    assert_eq!((sum("finals_published"), sum("finals_already_there")), (3000, 3000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_summer_asleep_while_its_successor_started_gives_way_when_it_wakes() {
    let mut server = Server::start();
    apply(&server, 2);
    let folder = tempfile::tempdir().unwrap();
    let first = summer(&server, &folder.path().join("a"), "--worker same").spawn();
    let report = folder.path().join("report.json");
    let chunking = chunker(&server, "--streams 4000 --chunks 10 --rate 6000", &report);
    wait_until("finals", async || (finals(&server).await > 100).then_some(())).await;
    first.signal(Signal::SIGSTOP);
    let second = summer(&server, &folder.path().join("b"), "--worker same").spawn();
    let before = finals(&server).await;
    wait_until("its successor at work", async || (finals(&server).await > before + 100).then_some(())).await;
    server.stop(Signal::SIGTERM);
    server.start_again();
    let before = finals(&server).await;
    wait_until("its successor at work again", async || (finals(&server).await > before + 100).then_some(())).await;
    first.signal(Signal::SIGCONT);
    let gone = first.wait_for(PATIENCE).expect(1);
    assert!(gone.sentence().contains("another process has started as the same worker"), "{}", gone.stderr);
    chunking.wait().expect(0);
    assert_eq!((verified(&report), finals(&server).await), (4000, 4000));
    second.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_summer_that_was_paused_goes_on_beside_another_of_its_own_name() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let paused = summer(&server, &folder.path().join("a"), "--worker a --partitions all")
        .env("STREAM_SUM_LOG__LEVEL", "debug")
        .spawn();
    let report = folder.path().join("report.json");
    let chunking = chunker(&server, "--streams 3000 --chunks 10 --rate 8000", &report);
    wait_until("finals", async || (finals(&server).await > 50).then_some(())).await;
    paused.signal(Signal::SIGSTOP);
    let other = summer(&server, &folder.path().join("b"), "--worker b --partitions all").spawn();
    chunking.wait().expect(0);
    paused.signal(Signal::SIGCONT);
    let ends = log_ends(&server, 1).await;
    wait_for("the paused one at the end", || positions(&paused) == ends);
    assert_eq!((verified(&report), finals(&server).await), (3000, 3000));
    paused.stop().expect(0);
    other.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_summer_has_committed_what_it_folded() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    for _ in 0..3 {
        // Only a stop commits: the interval never comes round.
        let summing = summer(&server, folder.path(), "").env("STREAM_SUM_SUMMER__CHECKPOINT_INTERVAL", "1h").spawn();
        summing.wait_for_log("opened the log", 1);
        assert_eq!(total(&summing.log(), "opened the log", "refolding"), 0, "nothing is folded again");
        chunker(&server, "--streams 100 --chunks 3", &report).wait().expect(0);
        let started = std::time::Instant::now();
        summing.stop().expect(0);
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
