//! Processes that die: summers again and again, nats-server in between, and nothing is lost or there twice.

use crate::support::{
    Process, Program, Server, apply, count, messages, parse_log, summer, total, wait_for, wait_until,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

fn chunker(server: &Server, streams: u64, rate: u64, report: &Path) -> Process {
    Program::at(server, &format!("chunker --streams {streams} --chunks 20 --rate {rate} --report")).arg(report).spawn()
}

fn read(report: &Path) -> Value {
    serde_json::from_slice(&fs::read(report).unwrap()).unwrap()
}

/// Waits until `sums` holds this many finals more, or nobody sends any more.
async fn finals_grow(server: &Server, by: u64, chunking: &mut [Process]) {
    let jetstream = server.jetstream().await;
    let sums = jetstream.get_stream("sums").await.unwrap();
    let before = sums.get_info().await.unwrap().state.last_sequence;
    wait_until("finals", async || {
        let grown = sums.get_info().await.ok()?.state.last_sequence >= before + by;
        (grown || !chunking.iter_mut().any(Process::is_running)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn summers_killed_again_and_again_lose_nothing_and_say_nothing_twice() {
    const STREAMS: u64 = 9_000;
    let mut server = Server::start();
    apply(&server, 4);
    let folder = tempfile::tempdir().unwrap();
    let stores = [folder.path().join("a"), folder.path().join("b")];
    let reports = [folder.path().join("1.json"), folder.path().join("2.json")];
    let mut chunking = reports.each_ref().map(|report| chunker(&server, STREAMS, 8_000, report));
    let mut log: Vec<Value> = Vec::new();

    for round in 0..8 {
        if !chunking.iter_mut().all(Process::is_running) {
            break;
        }
        // One dies by a signal at any time; the other at a place where its finals are out and nothing is committed.
        let point = ["effects-confirmed:2", "before-commit:3", "after-commit:4"][round % 3];
        let first = summer(&server, &stores[0], "--partitions 0-1").spawn();
        let mut second = summer(&server, &stores[1], "--partitions 2-3").env("STREAM_SUM_CRASH_AT", point).spawn();
        finals_grow(&server, 100, &mut chunking).await;
        // With both at work, the run ends where it ends before the crash comes.
        wait_for("the crash", || !second.is_running() || !chunking.iter_mut().all(Process::is_running));
        log.extend(first.kill());
        log.extend(second.kill());
        if round % 3 == 2 {
            server.stop(if round == 2 { Signal::SIGTERM } else { Signal::SIGKILL });
            server.start_again();
        }
    }
    let last = [
        summer(&server, &stores[0], "--partitions 0-1").spawn(),
        summer(&server, &stores[1], "--partitions 2-3").spawn(),
    ];
    for (chunking, report) in chunking.into_iter().zip(&reports) {
        let ended = chunking.wait().expect(0);
        let report = read(report);
        assert_eq!(count(&report, "verified"), STREAMS, "{report}: {}", ended.stderr);
    }
    for summing in last {
        log.extend(parse_log(&summing.stop().expect(0).stderr));
    }

    // The kills are known to have hit: batches were folded again, and their finals were there already.
    let refolded = total(&log, "opened the log", "refolding");
    let already_there =
        total(&log, "finals and rejects were there already: these batches had been folded before", "already_there");
    assert!(refolded > 0 && already_there > 0, "refolded {refolded}, already there {already_there}");

    let jetstream = server.jetstream().await;
    assert_eq!(jetstream.get_stream("sums").await.unwrap().cached_info().state.messages, 2 * STREAMS);
    assert!(messages(&jetstream, "rejects").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_summer_that_dies_at_each_crash_point_arrives_at_the_same_place() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    for point in ["effects-confirmed", "before-commit", "after-commit"] {
        let report = folder.path().join("report.json");
        let chunking = Program::at(&server, "chunker --streams 50 --chunks 3 --report").arg(&report).spawn();
        let died = summer(&server, &store, "").env("STREAM_SUM_CRASH_AT", point).spawn().wait();
        assert!(!died.status.success(), "{point}: {}", died.stderr);
        let summing = summer(&server, &store, "").spawn();
        summing.wait_for_log("opened the log", 1);
        chunking.wait().expect(0);
        assert_eq!(count(&read(&report), "verified"), 50, "{point}");
        summing.stop().expect(0);
    }
    let jetstream = server.jetstream().await;
    let subjects: HashSet<_> =
        messages(&jetstream, "sums").await.into_iter().map(|message| message.subject.to_string()).collect();
    assert_eq!(subjects.len(), 150);
    assert_eq!(jetstream.get_stream("sums").await.unwrap().cached_info().state.messages, 150);
}

#[test]
fn a_signal_that_comes_while_the_configuration_is_read_stops_in_order() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("config");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for command in ["chunker", "summer"] {
        let starting = Program::at(&server, command).arg("--config").arg(&pipe).current_dir(folder.path()).spawn();
        // Opened as soon as the program reads it, and not before.
        let config = fs::File::create(&pipe).unwrap();
        starting.signal(Signal::SIGTERM);
        drop(config);
        starting.wait_for(Duration::from_secs(15)).expect(0);
    }
}

/// It is read for every connection besides, to renew who connects: that must not wait for what a pipe will never bring.
#[test]
fn a_configuration_that_comes_through_a_pipe_is_read_once() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("config");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let run = Program::at(&server, "chunker").arg("--streams").arg("0").arg("--config").arg(&pipe).spawn();
    fs::write(&pipe, "[chunker]\nworkers = 2\n").unwrap();
    run.wait_for(Duration::from_secs(30)).expect(0);
    let user = Program::at(&server, "status").arg("--creds").arg(&pipe).spawn();
    let said = user.wait_for(Duration::from_secs(30)).expect(2);
    assert!(said.stderr.contains("name a file"), "{}", said.stderr);
}
