//! Producers with a name: several processes at once, and one after the other.

use super::{Counting, batches, connected, log, push, record, system, the_logs_have};
use crate::support::{Server, wait_until};
use futures_util::future::BoxFuture;
use jetfold::System;
use jetfold::nats::connect::Connection;
use jetfold::nats::topology::Topology;
use jetfold::{PublishError, Publisher};
use std::time::Duration;
use tokio::runtime::Builder;

const FENCED: &str = "another process publishes as the producer shop (to the log counting-log-";

fn fenced(refused: Result<(), PublishError>) {
    let said = refused.unwrap_err().to_string();
    assert!(said.starts_with(FENCED) && said.ends_with("): end one of them, or give each a name of its own"), "{said}");
}

/// Pushes and stores lines until another process has taken the name.
async fn push_until_fenced(mut publisher: Publisher<Counting>) {
    let mut number = publisher.resume_after();
    let refused = loop {
        number += 1;
        let mut pushed = push(&mut publisher, number, 100).await;
        if pushed.is_ok() && number.is_multiple_of(3) {
            pushed = publisher.flush().await;
        }
        if pushed.is_err() {
            break pushed;
        }
    };
    fenced(refused);
    fenced(publisher.flush().await);
    fenced(publisher.finish().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_of_two_publishers_of_one_name_is_told_so_and_nothing_is_twice() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let system = system(&server, folder.path()).await;
    let mut older = system.publisher_named("shop").await.unwrap();
    push(&mut older, 1, 0).await.unwrap();
    older.flush().await.unwrap();
    let mut newer = system.publisher_named("shop").await.unwrap();
    push(&mut older, 2, 0).await.unwrap();
    fenced(older.flush().await);
    fenced(older.flush().await);
    for number in 1..=2 {
        push(&mut newer, number, 0).await.unwrap();
    }
    newer.finish().await.unwrap();
    the_logs_have(&server, 1..=2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_takes_a_name_from_one_that_is_busy() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let system = system(&server, folder.path()).await;
    let mut older = tokio::spawn(push_until_fenced(system.publisher_named("shop").await.unwrap()));
    let jetstream = server.jetstream().await;
    let sequence = async || jetstream.get_stream(log(0)).await.unwrap().cached_info().state.last_sequence;
    for _ in 0..3 {
        let had = sequence().await;
        wait_until("more batches", async || (sequence().await > had + 20).then_some(())).await;
        let newer = system.publisher_named("shop").await.unwrap();
        older.await.unwrap();
        older = tokio::spawn(push_until_fenced(newer));
    }
    let mut last = system.publisher_named("shop").await.unwrap();
    older.await.unwrap();
    let through = batches(&server).await.iter().flatten().map(|(stamp, _)| stamp.offset).max().unwrap() + 10;
    for number in last.resume_after() + 1..=through {
        push(&mut last, number, 100).await.unwrap();
    }
    last.finish().await.unwrap();
    the_logs_have(&server, 1..=through).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_publishers_that_take_a_name_at_once_one_publishes() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    system(&server, folder.path()).await;
    let both = (connected(&server, folder.path()).await, connected(&server, folder.path()).await);
    // Each has an input of its own: what one has stored must not pass for the other's. Both keys are of one partition.
    let publish = async |(connection, topology): &(Connection, Topology<Counting>), key: &'static str, round: u64| {
        let told = |_| -> BoxFuture<'static, _> { unreachable!("nothing was purged") };
        let named = Publisher::named(connection, topology, "shop", told).await;
        let mut publisher = named.map_err(|error| error.to_string())?;
        let mut sent = 0;
        // One offset, and so one batch: nothing that one sends later tells the other.
        for _ in 0..5 {
            let encode = |out: &mut Vec<u8>| {
                out.extend(record(key, round, 0));
                // What another has sent is passed over.
                sent += 1;
            };
            publisher.push_at(round, key, encode).await.map_err(|error| error.to_string())?;
        }
        publisher.finish().await.map_err(|error| error.to_string())?;
        Ok::<usize, String>(sent)
    };
    let mut before = (0, 0);
    for round in 1..=40 {
        let (a, b) = tokio::join!(publish(&both.0, "a", round), publish(&both.1, "d", round));
        for refused in [&a, &b].into_iter().filter_map(|ended| ended.as_ref().err()) {
            assert!(refused.starts_with(FENCED), "{refused}");
        }
        assert!(a.is_ok() || b.is_ok(), "somebody gets on");
        let logs = batches(&server).await;
        let has = |key: u8| {
            let lines = logs.iter().flatten().flat_map(|(_, payload)| payload.split_inclusive(|byte| *byte == b'\n'));
            lines.filter(|line| line[0] == key).count()
        };
        let has = (has(b'a'), has(b'd'));
        assert!(
            has.0 - before.0 >= a.unwrap_or(0) && has.1 - before.1 >= b.unwrap_or(0),
            "what is said to be stored is there"
        );
        assert_eq!(has.0 + has.1 - before.0 - before.1, 5, "and nothing is there twice");
        before = has;
    }
}

/// One life, in a runtime of its own, which ends as a process does: whatever is on its way is given up, at any point.
fn live(system: System<Counting>, lines: u64, through: u64, flushes: bool) -> u64 {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let from = runtime.block_on(async {
        let mut publisher = system.publisher_named("shop").await.unwrap();
        let from = publisher.resume_after();
        for number in from + 1..=through.min(from + lines) {
            push(&mut publisher, number, 2_000).await.unwrap();
        }
        if flushes {
            publisher.flush().await.unwrap();
        }
        from
    });
    runtime.shutdown_timeout(Duration::ZERO);
    from
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_publisher_that_dies_and_begins_again_neither_loses_nor_repeats() {
    const THROUGH: u64 = 3_000;
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let system = system(&server, folder.path()).await;
    let mut resumed = Vec::new();
    for (lines, flushes) in [(0, false), (1, false), (1, true), (2, false), (900, false), (1_000, false), (333, true)] {
        let system = system.clone();
        let life = tokio::task::spawn_blocking(move || live(system, lines, THROUGH, flushes));
        resumed.push(life.await.unwrap());
    }
    assert!(resumed.is_sorted() && resumed.last() > Some(&0), "{resumed:?}");
    // One that is dropped within a process that goes on: what it has handed over may arrive while the next one begins.
    let mut dropped = system.publisher_named("shop").await.unwrap();
    let from = dropped.resume_after();
    for number in from + 1..=from + 500 {
        push(&mut dropped, number, 2_000).await.unwrap();
    }
    drop(dropped);
    let mut last = system.publisher_named("shop").await.unwrap();
    assert!(last.resume_after() >= from);
    for number in last.resume_after() + 1..=THROUGH {
        push(&mut last, number, 2_000).await.unwrap();
    }
    last.finish().await.unwrap();
    the_logs_have(&server, 1..=THROUGH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_no_token_and_a_message_of_somebody_else_are_named() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let system = system(&server, folder.path()).await;
    for name in ["", "a.b", "a b", "*", &"x".repeat(65)] {
        let said = system.publisher_named(name).await.err().unwrap().to_string();
        assert!(said.starts_with("a producer's name has 1 to 64 characters of A-Z a-z 0-9 _ -, which "), "{said}");
    }
    let jetstream = server.jetstream().await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Jetfold-Stamp", "other 1 1 1");
    for (sequence, headers) in [(1, async_nats::HeaderMap::new()), (2, headers)] {
        let stored = jetstream.publish_with_headers("counting.log.1.shop", headers, "key 1\n".into()).await.unwrap();
        stored.await.unwrap();
        let said = system.publisher_named("shop").await.err().unwrap().to_string();
        let expected = format!(
            "message {sequence} of the log counting-log-1 is on the subject counting.log.1.shop, but has no stamp of the \
             producer shop: remove it, and see that nobody else publishes there"
        );
        assert_eq!(said, expected);
    }
    for (stamp, said) in [
        (format!("shop {} 1 1", u64::MAX), "the producer shop has no more lives: give it another name"),
        (
            format!("shop 1 {} 1", u64::MAX),
            "the producer shop has no more numbers for its batches to the log counting-log-1: give it another name",
        ),
    ] {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Jetfold-Stamp", stamp.as_str());
        let stored = jetstream.publish_with_headers("counting.log.1.shop", headers, "key 1\n".into()).await.unwrap();
        stored.await.unwrap();
        assert_eq!(system.publisher_named("shop").await.err().unwrap().to_string(), said);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_without_offsets_are_other_records_in_each_life() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let system = system(&server, folder.path()).await;
    for life in 0..3 {
        let mut publisher = system.publisher_named("shop").await.unwrap();
        for n in 0..5 {
            let number = life * 5 + n;
            let key = format!("key{number}");
            publisher.push(&key, |batch| batch.extend(record(&key, number, 0))).await.unwrap();
        }
        publisher.finish().await.unwrap();
    }
    let batches = batches(&server).await;
    let lines = |payload: &[u8]| payload.iter().filter(|byte| **byte == b'\n').count();
    let records: usize = batches.iter().flatten().map(|(_, payload)| lines(payload)).sum();
    assert_eq!(records, 15);
}
