//! What the log is purged up to, and which snapshots stay, is told by the bucket: whatever it has lost, whoever has put
//! what, and in whichever life.

use crate::snapshots::{apply, caught_up, first_sequence, publish, settling, snapshots};
use crate::support::{Process, Server, batch, summer, total, wait_until};
use async_nats::jetstream::object_store::ObjectMetadata;
use async_nats::jetstream::stream::Stream;
use jetfold::age;
use jetfold::archive::bucket::Look;
use serde_json::Value;
use sha1::{Digest, Sha1};
use std::path::Path;
use std::time::Duration;
use stream_sum::sum::stream_id::StreamId;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const WROTE: &str = "wrote a snapshot";
const PURGED: &str = "purged the log up to a snapshot";

async fn bucket(server: &Server) -> Stream {
    server.jetstream().await.get_stream("OBJ_stream-sum-state").await.unwrap()
}

/// What a summer has done with snapshots and the log, in its order, and when.
fn deeds(summing: &Process) -> Vec<(String, OffsetDateTime)> {
    let deed = |entry: Value| {
        let message = entry["message"].as_str()?.to_owned();
        let at = OffsetDateTime::parse(entry["timestamp"].as_str()?, &Rfc3339).unwrap();
        [WROTE, PURGED].contains(&message.as_str()).then_some((message, at))
    };
    summing.log().into_iter().filter_map(deed).collect()
}

/// A snapshot is lost while it settles, as `lose` does it: nothing is purged up to it, another is written though nothing
/// was folded since, and the log is purged up to that when it has settled.
async fn is_replaced(lose: impl AsyncFnOnce(&Server), said: &str) {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let (summing, position) = settling(&server, folder.path(), "3s").await;
    lose(&server).await;
    summing.wait_for_log(PURGED, 1);
    let (done, at): (Vec<_>, Vec<_>) = deeds(&summing).into_iter().unzip();
    assert_eq!(done, [WROTE, WROTE, PURGED]);
    assert!(at[2] - at[1] >= Duration::from_secs(3), "{at:?}");
    let told = summing.log().iter().filter(|entry| entry["message"].as_str().unwrap().starts_with(said)).count();
    assert_eq!(told, 1, "{said}");
    assert_eq!(first_sequence(&server, "chunks-0").await, position);
    // Whoever has lost its disk goes on from there.
    let other = summer(&server, &folder.path().join("other"), "--worker b --partitions all").spawn();
    caught_up(&server, "b").await;
    assert_eq!(total(&other.log(), "restored a snapshot", "position"), position);
    other.kill();
    summing.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_the_bucket_does_not_keep_whole_is_found_as_soon_as_it_is_put() {
    let server = Server::start();
    apply(&server, 1, "64MiB");
    let jetstream = server.jetstream().await;
    // What nobody can compress: more than a piece.
    for some in 0..16_u64 {
        let data: Vec<[u8; 20]> =
            (some * 1000..(some + 1) * 1000).map(|n| Sha1::digest(n.to_be_bytes()).into()).collect();
        let chunk = |data: &[u8; 20]| (StreamId::new(*data.first_chunk().unwrap()), 1, data.repeat(4));
        let chunks: Vec<_> = data.iter().map(chunk).collect();
        let chunks: Vec<_> = chunks.iter().map(|(id, seq_no, data)| (*id, *seq_no, data.as_slice())).collect();
        jetstream.publish("chunks.0", batch(&chunks).into()).await.unwrap().await.unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, folder.path(), "--worker a --partitions all").spawn();
    caught_up(&server, "a").await;
    // All pieces of a snapshot have one subject: by this the bucket keeps the last of them.
    let mut config = bucket(&server).await.cached_info().config.clone();
    config.max_messages_per_subject = 1;
    jetstream.update_stream(config).await.unwrap();
    let said = summing.stop().expect(0).stderr;
    assert!(said.contains("no snapshot at the end: a snapshot could not be read back"), "{said}");
    assert!(!said.contains(WROTE), "{said}");
    assert!(snapshots(&server).await.list(0).await.unwrap().is_empty(), "nothing is left that can't be restored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_gone_before_it_settles_is_not_purged_up_to_and_another_is_written_at_once() {
    is_replaced(async |server| _ = bucket(server).await.purge().await.unwrap(), "a snapshot is gone from the bucket")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_loses_a_piece_while_it_settles_is_not_purged_up_to_and_another_is_written_at_once() {
    let lose = async |server: &Server| {
        let bucket = bucket(server).await;
        // The last message but its name's.
        assert!(bucket.delete_message(bucket.cached_info().state.last_sequence - 1).await.unwrap());
    };
    is_replaced(lose, "a snapshot is of no use, and nothing is purged up to it: 0 of its 1 pieces are there").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purged_log_that_no_snapshot_reaches_gets_one_at_once() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let (summing, position) = settling(&server, folder.path(), "1s").await;
    summing.wait_for_log(PURGED, 1);
    summing.stop().expect(0);
    bucket(&server).await.purge().await.unwrap();
    // Nothing to fold, and nothing that this life of it has put.
    let again = summer(&server, folder.path(), "--worker a --partitions all").spawn();
    let listed = wait_until("a snapshot", async || {
        let listed = snapshots(&server).await.list(0).await.unwrap();
        (!listed.is_empty()).then_some(listed)
    });
    let listed = tokio::time::timeout(Duration::from_secs(30), listed).await.expect("long before a minute is over");
    assert!(listed[0].checkpoint.position >= position);
    again.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_bucket_a_summer_goes_on_and_purges_nothing_and_makes_up_for_it_later() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let (summing, _) = settling(&server, folder.path(), "2s").await;
    let jetstream = server.jetstream().await;
    jetstream.delete_stream("OBJ_stream-sum-state").await.unwrap();
    let told = "the archive stands still: the object store stream-sum-state is gone: run `stream-sum topology apply`";
    summing.wait_for_log(told, 1);
    let finals = async || jetstream.get_stream("sums").await.unwrap().cached_info().state.messages;
    let before = finals().await;
    publish(&jetstream, 0, true).await;
    wait_until("the next final", async || (finals().await > before).then_some(())).await;
    assert_eq!(first_sequence(&server, "chunks-0").await, 1);
    apply(&server, 1, "4MiB");
    summing.wait_for_log(PURGED, 1);
    let done: Vec<_> = deeds(&summing).into_iter().map(|(done, _)| done).collect();
    assert_eq!(done, [WROTE, WROTE, PURGED]);
    summing.stop().expect(0);
}

/// What a summer's snapshots take to settle in the tests of several lives.
const DELAY: &str = "6s";

fn start(server: &Server, folder: &Path, worker: &str) -> Process {
    let program = summer(server, &folder.join(worker), &format!("--worker {worker} --partitions all"));
    program.env("STREAM_SUM_SUMMER__PURGE_DELAY", DELAY).spawn()
}

/// A life of a summer that folds a little and stops, which leaves a snapshot: the position of that.
async fn live(server: &Server, folder: &Path, worker: &str) -> u64 {
    let jetstream = server.jetstream().await;
    for n in 0..10 {
        publish(&jetstream, n, false).await;
    }
    let summing = start(server, folder, worker);
    caught_up(server, worker).await;
    summing.stop().expect(0);
    let look = snapshots(server).await.look(0).await.unwrap();
    look.listed[0].checkpoint.position
}

/// The snapshots that there are, one that has settled and that the log reaches among them.
async fn settled(server: &Server) -> Look {
    let first = first_sequence(server, "chunks-0").await;
    let look = snapshots(server).await.look(0).await.unwrap();
    let is_settled = look
        .listed
        .iter()
        .any(|it| age(it.put_at, look.at) >= Duration::from_secs(6) && it.checkpoint.position >= first);
    assert!(is_settled, "the log begins with {first}: {look:?}");
    look
}

/// Waits until the log is purged up to a position.
async fn purged(server: &Server, position: u64) {
    let is_purged = async || (first_sequence(server, "chunks-0").await == position).then_some(());
    wait_until("the log to be purged", is_purged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settled_snapshot_outlives_clean_stops_and_a_later_life_purges_up_to_those_of_earlier_ones() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let (summing, first) = settling(&server, &folder.path().join("a"), DELAY).await;
    purged(&server, first).await;
    summing.stop().expect(0);
    for _ in 0..3 {
        live(&server, folder.path(), "a").await;
        settled(&server).await;
    }
    // None of them is of this life, and it has nothing to fold.
    let last = settled(&server).await.listed[0].checkpoint.position;
    let summing = start(&server, folder.path(), "a");
    purged(&server, last).await;
    settled(&server).await;
    assert!(deeds(&summing).iter().all(|(done, _)| done == PURGED));
    summing.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settled_snapshot_outlives_both_workers_of_a_partition_and_each_purges_up_to_the_others() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let (mine, first) = settling(&server, &folder.path().join("a"), DELAY).await;
    purged(&server, first).await;
    // The other puts one at each of its stops, and knows of nobody else's but by the bucket.
    for _ in 0..3 {
        live(&server, folder.path(), "b").await;
        settled(&server).await;
    }
    mine.stop().expect(0);
    let others = settled(&server).await.listed[0].checkpoint.position;
    let both = ["a", "b"].map(|worker| start(&server, folder.path(), worker));
    purged(&server, others).await;
    settled(&server).await;
    for worker in both {
        worker.stop().expect(0);
        let kept = settled(&server).await.listed.len();
        assert!((2..=4).contains(&kept), "{kept}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_another_format_is_named_and_never_restored_and_goes_once_an_own_one_has_settled() {
    let server = Server::start();
    apply(&server, 1, "64MiB");
    let folder = tempfile::tempdir().unwrap();
    let position = live(&server, folder.path(), "a").await;
    let objects = server.jetstream().await.get_object_store("stream-sum-state").await.unwrap();
    let mut metadata =
        objects.info(snapshots(&server).await.list(0).await.unwrap()[0].name.to_string()).await.unwrap().metadata;
    metadata.insert("stream-sum.format".to_owned(), "999".to_owned());
    for other in [position - 1, position + 1000] {
        let name = format!("0/{other}/0123456789abcdef");
        let object = ObjectMetadata { name, metadata: metadata.clone(), ..Default::default() };
        objects.put(object, &mut &b"something else"[..]).await.unwrap();
    }
    let summing = start(&server, folder.path(), "b");
    summing.wait_for_log("restored a snapshot", 1);
    let said = |log: &[Value]| -> Vec<String> {
        let said = log.iter().filter_map(|entry| entry["message"].as_str()).filter(|said| said.contains("format"));
        said.map(str::to_owned).collect()
    };
    let told = said(&summing.log());
    assert!(told.len() == 1 && told[0].contains("it has format 999, and this version reads format"), "{told:?}");
    assert_eq!(total(&summing.log(), "restored a snapshot", "position"), position);
    let others = async || -> Vec<u64> {
        let look = snapshots(&server).await.look(0).await.unwrap();
        look.unreadable.iter().map(|other| other.name.position).collect()
    };
    assert_eq!(others().await, [position + 1000, position - 1]);
    purged(&server, position).await;
    wait_until("the one behind it to go", async || (others().await == [position + 1000]).then_some(())).await;
    settled(&server).await;
    summing.stop().expect(0);
}
