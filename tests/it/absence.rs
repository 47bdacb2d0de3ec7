//! A run that is away for a while: what it could not see is neither late nor missing.

use crate::ledger::{RUN, Verified, chunker, expected, finish, published, say};
use crate::support::{Process, Program, Server, apply, count, messages, summer, wait_for, wait_until};
use async_nats::jetstream;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::time::Duration;
use stream_sum::sum::codec::encode_final;
use stream_sum::sum::stream_id::StreamId;

/// Waits until the chunks are acknowledged: their streams wait for finals then.
fn awaits_finals(chunking: &Process) {
    wait_for("finals awaited", || {
        chunking.log().iter().any(|entry| entry["message"] == "finals are delayed" && entry["by_s"] == 0.5)
    });
}

async fn say_right(jetstream: &jetstream::Context, n: u64) {
    say(jetstream, StreamId::of_run(RUN, n), encode_final(&expected(n))).await;
}

fn away(report: &Value) -> f64 {
    report["away_s"].as_f64().unwrap_or_else(|| panic!("no away_s in {report}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_of_the_chunker_makes_no_final_late_and_hides_none_that_is() {
    let server = Server::start();
    apply(&server, 1);
    let jetstream = server.jetstream().await;
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let chunking = chunker(&server, 2, "3s", &report);
    published(&jetstream, 2).await;
    awaits_finals(&chunking);
    chunking.signal(Signal::SIGSTOP);
    say_right(&jetstream, 0).await;
    // Longer than the deadline, by the server's clock too.
    std::thread::sleep(Duration::from_millis(3500));
    say_right(&jetstream, 1).await;
    chunking.signal(Signal::SIGCONT);
    let Verified { ended, report } = finish(chunking, &report, 3);
    assert_eq!(["verified", "late", "missing"].map(|field| count(&report, field)), [1, 1, 0], "{report}");
    let late = StreamId::of_run(RUN, 1).to_string();
    assert!(ended.stderr.lines().any(|line| line.contains("late: ") && line.contains(&late)), "{}", ended.stderr);
    assert!(away(&report) > 3.0, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_there_all_the_time_was_never_away() {
    let server = Server::start();
    apply(&server, 1);
    let jetstream = server.jetstream().await;
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let chunking = chunker(&server, 1, "40s", &report);
    published(&jetstream, 1).await;
    // NATS has nothing to say for longer than a silence that counts.
    wait_for("a long wait", || chunking.log().iter().any(|entry| entry["by_s"] == 4.0));
    say_right(&jetstream, 0).await;
    let Verified { ended, report } = finish(chunking, &report, 0);
    assert_eq!(away(&report), 0.0, "{report}: {}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_more_than_twice_the_deadline_makes_nothing_missing_late_or_republished() {
    let mut server = Server::start();
    apply(&server, 2);
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, &folder.path().join("data"), "").spawn();
    summing.wait_for_log("opened the log", 2);
    let report = folder.path().join("report.json");
    let chunking = Program::at(&server, "chunker --streams 400 --chunks 4 --rate 1000 --report")
        .arg(&report)
        .env("STREAM_SUM_CHUNKER__DEADLINE", "5s")
        .spawn();
    let jetstream = server.jetstream().await;
    let (sums, log) = (jetstream.get_stream("sums").await.unwrap(), jetstream.get_stream("chunks-0").await.unwrap());
    wait_until("finals", async || (sums.get_info().await.ok()?.state.messages >= 20).then_some(())).await;
    // The summer must have work to do when the outage comes: streams that are closed, and have no finals.
    summing.signal(Signal::SIGSTOP);
    let before = log.get_info().await.unwrap().state.messages;
    wait_until("chunks", async || (log.get_info().await.ok()?.state.messages >= before + 10).then_some(())).await;
    server.stop(Signal::SIGKILL);
    summing.signal(Signal::SIGCONT);
    std::thread::sleep(Duration::from_millis(10_500));
    server.start_again();
    let Verified { ended, report } = finish(chunking, &report, 0);
    let counted = ["verified", "missing", "late", "republished"].map(|field| count(&report, field));
    assert_eq!(counted, [400, 0, 0, 0], "{report}: {}", ended.stderr);
    assert!(away(&report) > 10.0, "{report}");
    summing.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_for_more_than_twice_the_deadline_makes_nothing_missing_or_late() {
    let server = Server::start();
    apply(&server, 1);
    let jetstream = server.jetstream().await;
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let chunking = chunker(&server, 2, "2s", &report);
    published(&jetstream, 2).await;
    awaits_finals(&chunking);
    // Its connections stay as they are: only silence tells.
    server.signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_secs(5));
    server.signal(Signal::SIGCONT);
    say_right(&jetstream, 0).await;
    say_right(&jetstream, 1).await;
    let Verified { ended, report } = finish(chunking, &report, 0);
    assert_eq!(count(&report, "verified"), 2, "{report}: {}", ended.stderr);
    assert!(away(&report) > 4.0, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sum_that_was_paused_for_longer_than_its_deadline_prints_what_it_would_have_printed() {
    let server = Server::start();
    apply(&server, 1);
    let jetstream = server.jetstream().await;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), b"a").unwrap();
    let summing =
        Program::at(&server, "sum a").current_dir(folder.path()).env("STREAM_SUM_CHUNKER__DEADLINE", "3s").spawn();
    wait_until("chunks", async || (!messages(&jetstream, "chunks-0").await.is_empty()).then_some(())).await;
    summing.signal(Signal::SIGSTOP);
    let _summer = summer(&server, &folder.path().join("data"), "").spawn();
    wait_until("the final", async || (!messages(&jetstream, "sums").await.is_empty()).then_some(())).await;
    std::thread::sleep(Duration::from_millis(3500));
    summing.signal(Signal::SIGCONT);
    let ended = summing.wait().expect(0);
    assert_eq!(ended.stdout(), "86f7e437faa5a7fce15d1ddcb9eaeaea377667b8  a\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sum_that_nats_leaves_for_longer_than_its_deadline_says_that_and_ends() {
    let mut server = Server::start();
    apply(&server, 1);
    let jetstream = server.jetstream().await;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), b"a").unwrap();
    let summing =
        Program::at(&server, "sum a").current_dir(folder.path()).env("STREAM_SUM_CHUNKER__DEADLINE", "3s").spawn();
    wait_until("chunks", async || (!messages(&jetstream, "chunks-0").await.is_empty()).then_some(())).await;
    server.stop(Signal::SIGKILL);
    let ended = summing.wait_for(Duration::from_secs(20)).expect(1);
    assert!(ended.sentence().contains("nothing was heard of NATS for 3s"), "{}", ended.stderr);
}
