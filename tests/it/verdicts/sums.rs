//! `sums` that is not what it was, or has another final than the fold.

use super::{committed, finals, fold, publish, store};
use crate::support::{Server, apply, batch, copy, id_in, summer, wait_until};
use async_nats::jetstream;
use nix::sys::signal::Signal;
use std::fs;
use stream_sum::sum::chunk::SeqNo;
use stream_sum::sum::codec;
use stream_sum::sum::names::{FinalNames, names};
use stream_sum::sum::running::{Sum, Value};

/// Publishes a stream of one chunk that ends at once.
async fn complete(jetstream: &jetstream::Context, n: usize) {
    let id = id_in(0, 1, 5, n);
    let payload = batch(&[(id, 1, b"a"), (id, 2, b"")]);
    jetstream.publish("chunks.0", payload.into()).await.unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sums_made_anew_has_forgotten_and_gets_the_finals_of_completed_rows_again() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let jetstream = server.jetstream().await;
    for n in 0..5 {
        complete(&jetstream, n).await;
    }
    publish(&jetstream, 5).await;
    fold(&server, folder.path(), 6);
    jetstream.delete_stream("sums").await.unwrap();
    apply(&server, 1);
    assert_eq!(finals(&server).await, 0);
    let summing = summer(&server, folder.path(), "").spawn();
    wait_until("the finals", async || (finals(&server).await == 5).then_some(())).await;
    summing.wait_for_log("opened the log", 1);
    // The summer goes on with the new one, and takes it for what it is.
    complete(&jetstream, 6).await;
    wait_until("one more", async || (finals(&server).await == 6).then_some(())).await;
    summing.stop().expect(0);
    let accepted = store(folder.path()).accepted().unwrap();
    assert_eq!(accepted.len(), 1);
    let said = &accepted[0].verdict;
    assert!(
        said.contains("SumsForgot") && said.contains("was made anew") && said.contains("5 published again"),
        "{said}"
    );
    assert!(said.contains("of streams that completed more than 0s of log time ago"), "what can't be recovered: {said}");
    let again = summer(&server, folder.path(), "").spawn();
    again.wait_for_log("opened the log", 1);
    again.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sums_rolled_back_under_a_running_summer_has_forgotten() {
    let mut server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let (data, older) = (folder.path().join("data"), folder.path().join("older"));
    complete(&server.jetstream().await, 0).await;
    let summing = summer(&server, &data, "").env("STREAM_SUM_LOG__LEVEL", "debug").spawn();
    committed(&summing, 1);
    server.stop(Signal::SIGTERM);
    let sums = server.store().join("$G/streams/sums");
    copy(&sums, &older);
    server.start_again();
    for n in 1..4 {
        complete(&server.jetstream().await, n).await;
    }
    committed(&summing, 4);
    // Only sums loses its tail; the summer stays, and connects again.
    server.stop(Signal::SIGTERM);
    fs::remove_dir_all(&sums).unwrap();
    copy(&older, &sums);
    server.start_again();
    assert_eq!(finals(&server).await, 1);
    wait_until("the finals", async || (finals(&server).await == 4).then_some(())).await;
    complete(&server.jetstream().await, 4).await;
    committed(&summing, 5);
    summing.stop().expect(0);
    let said = &store(&data).accepted().unwrap()[0].verdict;
    assert!(said.contains("3 published again, 1 still there"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_that_contradicts_what_is_published_again_is_counted_and_halts_where_it_must() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let jetstream = server.jetstream().await;
    for n in 0..3 {
        complete(&jetstream, n).await;
    }
    fold(&server, folder.path(), 3);
    jetstream.delete_stream("sums").await.unwrap();
    apply(&server, 1);
    // Somebody has published another sum for a stream of which the old one is forgotten.
    let id = id_in(0, 1, 5, 1);
    let other = Sum { id, seq_no: SeqNo::new(2).unwrap(), value: Value([9; 20]) };
    let subject = names("").final_subject(id);
    jetstream.publish(subject, codec::encode_final(&other).into()).await.unwrap().await.unwrap();
    let halted = summer(&server, folder.path(), "").env("STREAM_SUM_SUMMER__ON_VIOLATION", "halt").run().expect(3);
    assert!(halted.sentence().contains("ConflictingFinal"), "{}", halted.stderr);
    let summing = summer(&server, folder.path(), "").spawn();
    summing.wait_for_log("opened the log", 1);
    let log = summing.log();
    summing.stop().expect(0);
    assert!(
        log.iter()
            .any(|entry| entry["level"] == "ERROR" && entry["message"].as_str().unwrap().contains("ConflictingFinal"))
    );
    let accepted = store(folder.path()).accepted().unwrap();
    let said = &accepted.last().unwrap().verdict;
    assert!(said.contains("1 with another value there"), "{said}");
    assert_eq!(finals(&server).await, 3, "nothing was replaced, and nothing is missing");
}
