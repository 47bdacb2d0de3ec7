//! A log that is not what it was is refused by name, after it was given the time to prove otherwise.

mod sums;

use crate::backup::{back_up, bring_back};
use crate::support::{
    Ended, Process, Server, apply, batch, copy, id_in, messages, status, summer, wait_for, wait_until,
};
use async_nats::jetstream;
use jetfold::store::{Owner, Store};
use nix::sys::signal::Signal;
use std::fs;
use std::path::Path;
use stream_sum::sum::Summer;
use stream_sum::sum::stream_id::StreamId;

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

fn store(folder: &Path) -> Store<Summer> {
    let owner = Owner { log: "chunks-0".into(), partition: 0, partitions: 1 };
    Store::<Summer>::open(folder, &owner, 1 << 20).unwrap()
}

fn position(folder: &Path) -> u64 {
    store(folder).checkpoint().unwrap().unwrap().position
}

/// Accepts what was refused, and goes on until the store stands at a position. What was accepted is recorded.
fn accept(server: &Server, folder: &Path, loss: &str, through: u64) {
    // Another partition's, or another loss, is not what the operator meant.
    let other = if loss == "hole" { "replaced" } else { "hole" };
    let still = summer(server, folder, &format!("--accept {other}:0")).run().expect(1);
    assert!(still.sentence().contains(&format!("--accept {loss}:0")), "{}", still.stderr);
    assert_eq!(store(folder).accepted().unwrap(), []);
    let going_on = summer(server, folder, &format!("--accept {loss}:0")).env("STREAM_SUM_LOG__LEVEL", "debug").spawn();
    committed(&going_on, through);
    let log = going_on.log();
    going_on.stop().expect(0);
    let first = &log[0];
    assert!(first["message"].as_str().unwrap().starts_with("told to accept a loss"), "{first}");
    assert_eq!((&first["loss"], &first["partition"]), (&loss.into(), &0.into()), "{first}");
    // Who has followed an advice is not given it again.
    let said = |words: &str| log.iter().any(|entry| entry["message"].as_str().is_some_and(|said| said.contains(words)));
    assert!(
        said("; looking again for 30 s before it is believed, and then accepted") && said("recorded: Log"),
        "{log:?}"
    );
    assert!(!said(&format!("--accept {loss}:")), "{log:?}");
    let accepted = store(folder).accepted().unwrap();
    assert_eq!(accepted.len(), 1);
    assert!(!accepted[0].verdict.contains("--accept"), "{accepted:?}");
    assert!(accepted[0].verdict.to_lowercase().contains(loss), "{accepted:?}");
    // And that was that: the next start needs no flag.
    let again = summer(server, folder, "").spawn();
    again.wait_for_log("opened the log", 1);
    again.stop().expect(0);
}

/// Streams of the tests' numbering that the store knows.
fn known(folder: &Path) -> Vec<usize> {
    let rows = store(folder).rows_after(None, 99).unwrap().0;
    (0..30).filter(|n| rows.iter().any(|(id, _)| *id == id_in(0, 1, 5, *n))).collect()
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
    accept(&server, &data, "diverged", 6);
    assert_eq!(known(&data), [0, 1, 2, 3, 4, 5, 6, 7, 8], "what was folded is kept, and what is there is folded");
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
    accept(&server, folder.path(), "truncated", 6);
    assert_eq!(known(folder.path()), [0, 4, 5]);
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
    accept(&server, folder.path(), "hole", 6);
    assert_eq!(known(folder.path()), [0, 1, 2, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_loss_leaves_behind_is_rejected_by_the_words_that_its_acceptance_names() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let jetstream = server.jetstream().await;
    let [begun, lost] = [0, 1].map(|n| id_in(0, 1, 5, n));
    let publish = async |chunks: &[(StreamId, u64, &[u8])]| {
        jetstream.publish("chunks.0", batch(chunks).into()).await.unwrap().await.unwrap();
    };
    publish(&[(begun, 1, b"a")]).await;
    fold(&server, folder.path(), 1);
    // The second batch is lost: of one stream the middle, of the other the beginning.
    publish(&[(begun, 2, b"a"), (lost, 1, b"a")]).await;
    for chunk in [(begun, 3, &b"a"[..]), (begun, 4, b""), (lost, 2, b"")] {
        publish(&[chunk]).await;
    }
    assert!(jetstream.get_stream("chunks-0").await.unwrap().delete_message(2).await.unwrap());
    let accepting = summer(&server, folder.path(), "--accept hole:0").env("STREAM_SUM_LOG__LEVEL", "debug").spawn();
    committed(&accepting, 5);
    let log = accepting.log();
    accepting.stop().expect(0);
    let rejects = messages(&jetstream, "rejects").await;
    let reasons: Vec<_> =
        rejects.iter().map(|reject| reject.headers.get("Reject-Reason").unwrap().as_str().to_owned()).collect();
    assert_eq!(reasons, ["gap", "broken", "unknown"]);
    let told = log.iter().find(|entry| entry["rejects"] == "rejects.0.>").expect("where to look for them");
    for reason in reasons {
        assert!(told["message"].as_str().unwrap().contains(&format!("`{reason}`")), "{told}");
    }
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
    publish(&jetstream, 1).await;
    let ended = refused(&server, folder.path());
    assert!(ended.sentence().contains("LogReplaced: the log was made anew at "), "{}", ended.stderr);
    accept(&server, folder.path(), "replaced", 1);
    assert_eq!(known(folder.path()), [0, 1]);
    let elsewhere = summer(&server, folder.path(), "--accept replaced:7").run().expect(2);
    assert!(elsewhere.sentence().contains("partition 7 is none of this worker's"), "{}", elsewhere.stderr);
    let nonsense = summer(&server, folder.path(), "--accept replaced").run().expect(2);
    assert!(nonsense.stderr.contains("as in replaced:3"), "{}", nonsense.stderr);
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

async fn finals(server: &Server) -> u64 {
    server.jetstream().await.get_stream("sums").await.unwrap().cached_info().state.messages
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_folder_does_not_hide_that_the_log_was_made_anew() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let jetstream = server.jetstream().await;
    publish(&jetstream, 0).await;
    // A clean stop leaves a snapshot, which belongs to the log that is deleted.
    fold(&server, &folder.path().join("lost"), 1);
    jetstream.delete_stream("chunks-0").await.unwrap();
    apply(&server, 1);
    publish(&jetstream, 1).await;
    let empty = folder.path().join("empty");
    let ended = refused(&server, &empty);
    assert!(ended.sentence().contains("LogReplaced: the log was made anew at "), "{}", ended.stderr);
    let going_on = summer(&server, &empty, "--accept replaced:0").env("STREAM_SUM_LOG__LEVEL", "debug").spawn();
    committed(&going_on, 1);
    going_on.stop().expect(0);
    assert_eq!(known(&empty), [1]);
    assert_eq!(store(&empty).accepted().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_snapshot_that_has_accepted_a_loss_does_not_replace_a_sound_store() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let (behind, ahead) = (folder.path().join("behind"), folder.path().join("ahead"));
    let jetstream = server.jetstream().await;
    publish(&jetstream, 0).await;
    let killed = summer(&server, &behind, "").env("STREAM_SUM_LOG__LEVEL", "debug").spawn();
    committed(&killed, 1);
    killed.kill();
    for n in 1..6 {
        publish(&jetstream, n).await;
    }
    assert!(jetstream.get_stream("chunks-0").await.unwrap().delete_message(3).await.unwrap());
    let accepting = summer(&server, &ahead, "--accept hole:0").env("STREAM_SUM_LOG__LEVEL", "debug").spawn();
    committed(&accepting, 6);
    // A clean stop leaves a snapshot at the end of the log.
    accepting.stop().expect(0);
    assert_eq!(store(&ahead).accepted().unwrap().len(), 1);
    let ended = refused(&server, &behind);
    assert!(ended.sentence().contains("LogHole: message"), "{}", ended.stderr);
    assert_eq!(store(&behind).accepted().unwrap(), [], "nothing was accepted on its behalf");
    assert_eq!(known(&behind), [0], "its own fold, as it was");
    // One that has nothing of its own takes what there is.
    let empty = folder.path().join("empty");
    let restored = summer(&server, &empty, "").spawn();
    restored.wait_for_log("restored a snapshot", 1);
    restored.stop().expect(0);
    assert_eq!(known(&empty), [0, 1, 3, 4, 5]);
    assert_eq!(store(&empty).accepted().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_refused_closes_its_partition_alone_and_is_looked_at_again() {
    let server = Server::start();
    apply(&server, 2);
    let folder = tempfile::tempdir().unwrap();
    let (client, jetstream) = (server.client().await, server.jetstream().await);
    let complete = async |partition: u32, n: usize| {
        let payload = batch(&[(id_in(partition, 2, 5, n), 1, b"a"), (id_in(partition, 2, 5, n), 2, b"")]);
        jetstream.publish(format!("chunks.{partition}"), payload.into()).await.unwrap().await.unwrap();
    };
    let count = async || finals(&server).await;
    complete(0, 0).await;
    complete(1, 0).await;
    let summing = summer(&server, folder.path(), "--worker a").env("STREAM_SUM_LOG__LEVEL", "debug").spawn();
    committed(&summing, 1);
    wait_until("both finals", async || (count().await == 2).then_some(())).await;
    let backup = back_up(&client, "chunks-0").await;
    summing.stop().expect(0);
    jetstream.delete_stream("chunks-0").await.unwrap();
    apply(&server, 2);
    complete(0, 1).await;
    let mut summing = summer(&server, folder.path(), "--worker a").spawn();
    complete(1, 1).await;
    let trouble = |partition: usize| {
        let worker = &status(&server)["partitions"][partition]["workers"][0];
        worker["trouble"].as_str().unwrap_or_default().to_owned()
    };
    wait_for("the refusal of the one alone", || trouble(0).starts_with("refused since 20") && trouble(1).is_empty());
    assert!(trouble(0).contains("partition 0: LogReplaced: the log was made anew"), "{}", trouble(0));
    assert!(trouble(0).contains("--accept replaced:0"), "{}", trouble(0));
    let told = status(&server);
    let place = &told["partitions"][0];
    assert_eq!((&place["state"], &told["summary"]["refused"]), (&"refused".into(), &1.into()), "{told}");
    let since = place["workers"][0]["refused_since"].as_str().unwrap();
    assert!(trouble(0).starts_with(&format!("refused since {since}: ")), "{told}");
    assert_eq!((&place["position_of"], &place["lag"]), (&"log".into(), &1.into()), "what nobody has folded: {told}");
    complete(1, 2).await;
    wait_until("the finals of the other", async || (count().await == 4).then_some(())).await;
    assert!(summing.is_running());
    // The operator brings the right one back.
    jetstream.delete_stream("chunks-0").await.unwrap();
    bring_back(&client, "chunks-0", &backup).await;
    summing.wait_for_log("the log is what it was again, and is folded on", 1);
    complete(0, 2).await;
    wait_until("its next final", async || (count().await == 5).then_some(())).await;
    assert_eq!(trouble(0), "");
    let log = summing.log();
    let said = log.iter().filter(|entry| entry["level"] == "ERROR").count();
    assert!((2..=3).contains(&said), "the doubt and the refusal, each once: {log:?}");
    summing.stop().expect(0);
    // Told to stop while one is refused, it says so at its end.
    jetstream.delete_stream("chunks-0").await.unwrap();
    apply(&server, 2);
    let summing = summer(&server, folder.path(), "--worker a").spawn();
    wait_for("the refusal", || trouble(0).starts_with("refused since 20"));
    let ended = summing.stop().expect(1);
    assert!(ended.sentence().contains("partition 0: LogReplaced"), "{}", ended.stderr);
}
