//! A log that is not what it was is refused by name, after it was given the time to prove otherwise.

use crate::support::{Ended, Process, Server, apply, batch, copy, id_in, summer, wait_for};
use async_nats::jetstream;
use nix::sys::signal::Signal;
use std::fs;
use std::path::Path;
use stream_sum::store::{Owner, Store};

async fn publish(jetstream: &jetstream::Context, n: usize) {
    let payload = batch(&[(id_in(0, 1, 5, n), 1, b"a")]);
    jetstream.publish("chunks.0", payload.into()).await.unwrap().await.unwrap();
}

/// Folds everything, then stops.
fn fold(server: &Server, folder: &Path, through: u64) {
    let summing = summer(server, folder, "").env("STREAM_SUM_LOG__LEVEL", "debug").spawn();
    committed(&summing, through);
    summing.stop().expect(0);
}

/// Waits until a summer that logs at debug level has committed a position.
fn committed(summing: &Process, position: u64) {
    wait_for("a commit", || {
        summing.log().iter().any(|entry| entry["message"] == "committed" && entry["position"] == position)
    });
}

fn refused(server: &Server, folder: &Path) -> Ended {
    let ended = summer(server, folder, "").run().expect(1);
    assert!(ended.sentence().contains("partition 0: Log"), "{}", ended.stderr);
    ended
}

fn position(folder: &Path) -> u64 {
    let owner = Owner { log: "chunks-0".into(), partition: 0, partitions: 1 };
    Store::open(folder, &owner, 1 << 20).unwrap().checkpoint().unwrap().unwrap().position
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_rolled_back_and_rewritten_has_diverged() {
    let mut server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let (data, older) = (folder.path().join("data"), folder.path().join("older"));
    publish(&server.jetstream().await, 0).await;
    server.stop(Signal::SIGTERM);
    copy(&server.store(), &older);
    server.start_again();
    for n in 1..4 {
        publish(&server.jetstream().await, n).await;
    }
    fold(&server, &data, 4);
    server.stop(Signal::SIGTERM);
    fs::remove_dir_all(server.store()).unwrap();
    copy(&older, &server.store());
    server.start_again();
    // Other messages in place of the lost ones, beyond the position that was folded.
    for n in 4..9 {
        publish(&server.jetstream().await, n).await;
    }
    let ended = refused(&server, &data);
    assert!(ended.sentence().contains("LogDiverged: the message at 4 is not the one"), "{}", ended.stderr);
    assert_eq!(position(&data), 4, "nothing was folded on top");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_purged_past_the_position_is_truncated() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let jetstream = server.jetstream().await;
    publish(&jetstream, 0).await;
    fold(&server, folder.path(), 1);
    for n in 1..6 {
        publish(&jetstream, n).await;
    }
    jetstream.get_stream("chunks-0").await.unwrap().purge().sequence(5).await.unwrap();
    let ended = refused(&server, folder.path());
    assert!(ended.sentence().contains("LogTruncated: messages 2 to 4 are no longer kept"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_deleted_from_the_middle_is_a_hole() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let jetstream = server.jetstream().await;
    publish(&jetstream, 0).await;
    fold(&server, folder.path(), 1);
    for n in 1..6 {
        publish(&jetstream, n).await;
    }
    // Not right after the position: what lies between is folded and dropped again and again, and must not hide it.
    let log = jetstream.get_stream("chunks-0").await.unwrap();
    for sequence in [4, 5] {
        assert!(log.delete_message(sequence).await.unwrap());
    }
    let ended = refused(&server, folder.path());
    assert!(ended.sentence().contains("LogHole: messages 4 to 5 were deleted"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_made_anew_is_replaced() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let jetstream = server.jetstream().await;
    publish(&jetstream, 0).await;
    fold(&server, folder.path(), 1);
    jetstream.delete_stream("chunks-0").await.unwrap();
    apply(&server, 1);
    publish(&jetstream, 0).await;
    let ended = refused(&server, folder.path());
    assert!(ended.sentence().contains("LogReplaced: the log was made anew at "), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_deleted_under_a_running_summer_is_refused_once_it_stays_away() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let jetstream = server.jetstream().await;
    publish(&jetstream, 0).await;
    let summing = summer(&server, folder.path(), "").spawn();
    summing.wait_for_log("opened the log", 1);
    jetstream.delete_stream("chunks-0").await.unwrap();
    let ended = summing.wait().expect(1);
    assert!(ended.sentence().contains("the log chunks-0 is gone"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_that_does_not_stand_is_forgotten() {
    let mut server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    publish(&server.jetstream().await, 0).await;
    fold(&server, &folder.path().join("data"), 1);
    server.stop(Signal::SIGTERM);
    let kept = folder.path().join("kept");
    copy(&server.store(), &kept);
    fs::remove_dir_all(server.store()).unwrap();
    server.start_again();
    apply(&server, 1);
    let summing = summer(&server, &folder.path().join("data"), "").env("STREAM_SUM_LOG__LEVEL", "debug").spawn();
    wait_for("the doubt", || {
        summing.log().iter().any(|entry| entry["message"].as_str().is_some_and(|said| said.contains("LogReplaced")))
    });
    // The operator brings the right store back in time.
    server.stop(Signal::SIGTERM);
    fs::remove_dir_all(server.store()).unwrap();
    copy(&kept, &server.store());
    server.start_again();
    summing.wait_for_log("opened the log", 1);
    publish(&server.jetstream().await, 1).await;
    committed(&summing, 2);
    summing.stop().expect(0);
    assert_eq!(position(&folder.path().join("data")), 2);
}
