//! Streams that are brought back from JetStream's own backups, and messages that are deleted after they were folded: the
//! same log, as long as it holds what was folded.

use crate::backup::{Backup, back_up, exchange};
use crate::support::{Process, Server, apply, batch, id_in, summer, wait_for, wait_until};
use async_nats::jetstream;
use jetfold::store::{Owner, Store};
use nix::sys::signal::Signal;
use std::path::Path;
use stream_sum::sum::Summer;

/// Publishes a stream of one chunk that ends at once.
async fn complete(jetstream: &jetstream::Context, n: usize) {
    let id = id_in(0, 1, 5, n);
    let payload = batch(&[(id, 1, b"a"), (id, 2, b"")]);
    jetstream.publish("chunks.0", payload.into()).await.unwrap().await.unwrap();
}

/// Publishes a batch that is rejected.
async fn junk(jetstream: &jetstream::Context) {
    jetstream.publish("chunks.0", "junk".into()).await.unwrap().await.unwrap();
}

fn start(server: &Server, folder: &Path) -> Process {
    summer(server, folder, "--worker a").env("STREAM_SUM_LOG__LEVEL", "debug").spawn()
}

fn committed(summing: &Process, position: u64) {
    wait_for("a commit", || {
        summing.log().iter().any(|entry| entry["message"] == "committed" && entry["position"] == position)
    });
}

fn position(folder: &Path) -> u64 {
    let owner = Owner { log: "chunks-0".into(), partition: 0, partitions: 1 };
    Store::<Summer>::open(folder, &owner, 1 << 20).unwrap().checkpoint().unwrap().unwrap().position
}

async fn held(jetstream: &jetstream::Context, stream: &str) -> u64 {
    jetstream.get_stream(stream).await.unwrap().cached_info().state.messages
}

async fn all(server: &Server) -> [(&'static str, Backup); 3] {
    let client = server.client().await;
    let streams = ["chunks-0", "sums", "rejects"];
    let [log, sums, rejects] = streams;
    [
        (log, back_up(&client, log).await),
        (sums, back_up(&client, sums).await),
        (rejects, back_up(&client, rejects).await),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_sums_and_rejects_that_are_brought_back_from_a_backup_are_gone_on_with() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let jetstream = server.jetstream().await;
    for n in 0..3 {
        complete(&jetstream, n).await;
    }
    junk(&jetstream).await;
    let summing = start(&server, &data);
    committed(&summing, 4);
    summing.stop().expect(0);
    let created = async || jetstream.get_stream("chunks-0").await.unwrap().cached_info().created;
    let before = created().await;
    let backups = all(&server).await;
    exchange(&jetstream, &server.client().await, &backups).await;
    // Not every version gives it another birthday: then there is nothing to tell from.
    let anew = created().await != before;
    let summing = start(&server, &data);
    summing.wait_for_log("opened the log", 1);
    complete(&jetstream, 3).await;
    junk(&jetstream).await;
    committed(&summing, 6);
    let log = summing.log();
    summing.stop().expect(0);
    let said = log.iter().filter_map(|entry| entry["message"].as_str());
    let times = said.filter(|said| said.contains("was brought back from a backup, and holds")).count();
    assert_eq!(times, usize::from(anew), "{log:?}");
    assert!(!log.iter().any(|entry| entry["level"] == "ERROR"), "{log:?}");
    assert_eq!((held(&jetstream, "sums").await, held(&jetstream, "rejects").await), (4, 2));
    // Once is enough: it is recorded.
    let again = start(&server, &data);
    again.wait_for_log("opened the log", 1);
    let log = again.log();
    again.stop().expect(0);
    let opened = log.iter().find(|entry| entry["message"] == "opened the log").unwrap();
    assert_eq!((&opened["position"], log.iter().any(|entry| entry["level"] == "WARN")), (&6.into(), false), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_brought_back_from_a_backup_older_than_the_store_has_diverged() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let jetstream = server.jetstream().await;
    for n in 0..3 {
        complete(&jetstream, n).await;
    }
    let older = back_up(&server.client().await, "chunks-0").await;
    for n in 3..5 {
        complete(&jetstream, n).await;
    }
    let summing = start(&server, folder.path());
    committed(&summing, 5);
    summing.stop().expect(0);
    exchange(&jetstream, &server.client().await, &[("chunks-0", older)]).await;
    let ended = summer(&server, folder.path(), "--worker a").run().expect(1);
    assert!(ended.sentence().contains("LogDiverged: the log ends at 3"), "{}", ended.stderr);
    assert_eq!(position(folder.path()), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_brought_back_under_a_running_summer_is_gone_on_with() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let jetstream = server.jetstream().await;
    complete(&jetstream, 0).await;
    junk(&jetstream).await;
    let summing = start(&server, folder.path());
    committed(&summing, 2);
    let backups = all(&server).await;
    exchange(&jetstream, &server.client().await, &backups).await;
    complete(&jetstream, 1).await;
    junk(&jetstream).await;
    committed(&summing, 4);
    summing.stop().expect(0);
    assert_eq!((held(&jetstream, "sums").await, held(&jetstream, "rejects").await), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_message_that_was_folded_may_be_deleted_and_that_is_said_once() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let jetstream = server.jetstream().await;
    for n in 0..3 {
        complete(&jetstream, n).await;
    }
    let summing = start(&server, folder.path());
    committed(&summing, 3);
    let log = jetstream.get_stream("chunks-0").await.unwrap();
    assert!(log.delete_message(3).await.unwrap());
    // Under the running summer it is seen at the next look, and no reason to open the log again.
    let said = |summing: &Process| {
        let log = summing.log();
        let said = log.iter().filter_map(|entry| entry["message"].as_str());
        said.filter(|said| said.contains("the last message that was folded is deleted")).count()
    };
    wait_for("that it is said", || said(&summing) == 1);
    complete(&jetstream, 3).await;
    committed(&summing, 4);
    summing.stop().expect(0);
    assert!(log.delete_message(4).await.unwrap());
    let summing = start(&server, folder.path());
    summing.wait_for_log("opened the log", 1);
    assert_eq!(said(&summing), 1);
    complete(&jetstream, 4).await;
    committed(&summing, 5);
    summing.stop().expect(0);
    assert_eq!(held(&jetstream, "sums").await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_emptied_after_it_was_folded_is_gone_on_with() {
    let mut server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    complete(&server.jetstream().await, 0).await;
    let uncommitted =
        summer(&server, folder.path(), "--worker a").env("STREAM_SUM_SUMMER__CHECKPOINT_INTERVAL", "1h").spawn();
    uncommitted.wait_for_log("opened the log", 1);
    wait_until("the final", async || (held(&server.jetstream().await, "sums").await == 1).then_some(())).await;
    // What is folded and not committed yet: its commit finds nothing wrong with that.
    assert!(server.jetstream().await.get_stream("chunks-0").await.unwrap().delete_message(1).await.unwrap());
    uncommitted.stop().expect(0);
    assert_eq!(position(folder.path()), 1);
    for n in 1..3 {
        complete(&server.jetstream().await, n).await;
    }
    let summing = start(&server, folder.path());
    committed(&summing, 3);
    summing.stop().expect(0);
    server.jetstream().await.get_stream("chunks-0").await.unwrap().purge().await.unwrap();
    server.stop(Signal::SIGTERM);
    server.start_again();
    let summing = start(&server, folder.path());
    summing.wait_for_log("opened the log", 1);
    complete(&server.jetstream().await, 3).await;
    committed(&summing, 4);
    summing.stop().expect(0);
    assert_eq!(held(&server.jetstream().await, "sums").await, 4);
}
