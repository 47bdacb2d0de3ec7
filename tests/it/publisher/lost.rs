//! Producers whose last batch is gone: purged, or lost.

use super::{PARTITIONS, Working, batches, connected, counted, log, push, system, the_logs_have};
use crate::support::{Server, copy, wait_until};
use futures_util::FutureExt;
use jetfold::Publisher;
use jetfold::Told;
use nix::sys::signal::Signal;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

async fn purge(server: &Server) {
    let jetstream = server.jetstream().await;
    for partition in 0..PARTITIONS {
        jetstream.get_stream(log(partition)).await.unwrap().purge().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_goes_on_where_a_worker_says_that_it_was_before_the_log_was_purged() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let system = system(&server, folder.path()).await;
    let working = Working::start(&system);
    // Purged between two lives, and within one.
    let mut through = 0;
    for _ in 0..3 {
        let mut publisher = system.publisher_named("shop").await.unwrap();
        assert!(publisher.resume_after() + 20 >= through, "nearly as far, whatever the partition");
        for number in publisher.resume_after() + 1..=through + 50 {
            push(&mut publisher, number, 100).await.unwrap();
        }
        publisher.flush().await.unwrap();
        counted(&system, through + 50).await;
        purge(&server).await;
        for number in through + 51..=through + 100 {
            push(&mut publisher, number, 100).await.unwrap();
        }
        publisher.finish().await.unwrap();
        through += 100;
        counted(&system, through).await;
        purge(&server).await;
    }
    let rejects = server.jetstream().await.get_stream("counting-rejects").await.unwrap().cached_info().state.messages;
    assert_eq!(rejects, 0);
    working.stop().await;
    let said = system.publisher_named("shop").await.err().unwrap().to_string();
    assert_eq!(
        said,
        "the log counting-log-0 was purged, so that a worker must tell where the producer shop was, but no worker answers for \
         partition 0 (counting.workers.producers.0): start one that folds it, and that answers questions"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_has_not_committed_what_was_purged_is_asked_again() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let system = system(&server, folder.path()).await;
    let mut publisher = system.publisher_named("shop").await.unwrap();
    for number in 1..=30 {
        push(&mut publisher, number, 0).await.unwrap();
    }
    publisher.finish().await.unwrap();
    let stood: Vec<_> = batches(&server).await.into_iter().map(|log| log.last().unwrap().0.clone()).collect();
    purge(&server).await;
    let (connection, topology) = connected(&server, folder.path()).await;
    let (asked, folded) = (AtomicU64::new(0), stood.clone());
    let told = move |partition: u32| {
        let told = match asked.fetch_add(1, Ordering::Relaxed) % 2 {
            0 => Told { position: 1, stamp: None },
            _ => Told { position: 1_000, stamp: Some(folded[partition as usize].clone()) },
        };
        std::future::ready(Ok(told)).boxed()
    };
    let mut publisher = Publisher::named(&connection, &topology, "shop", told).await.unwrap();
    for number in publisher.resume_after() + 1..=40 {
        push(&mut publisher, number, 0).await.unwrap();
    }
    publisher.finish().await.unwrap();
    the_logs_have(&server, 31..=40).await;
    for (stood, log) in stood.iter().zip(batches(&server).await) {
        assert_eq!(log[0].0.number, stood.number + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_process_that_wakes_after_a_purge_is_told_of_the_newer_one_which_goes_on() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let system = system(&server, folder.path()).await;
    let working = Working::start(&system);
    let mut older = system.publisher_named("shop").await.unwrap();
    for number in 1..=10 {
        push(&mut older, number, 0).await.unwrap();
    }
    older.flush().await.unwrap();
    let mut newer = system.publisher_named("shop").await.unwrap();
    for number in 11..=20 {
        push(&mut newer, number, 0).await.unwrap();
    }
    newer.flush().await.unwrap();
    counted(&system, 20).await;
    purge(&server).await;
    for number in 11..=20 {
        push(&mut older, number, 0).await.unwrap();
    }
    let said = older.flush().await.unwrap_err().to_string();
    assert!(said.starts_with("another process publishes as the producer shop"), "{said}");
    for number in 21..=30 {
        push(&mut newer, number, 0).await.unwrap();
    }
    newer.finish().await.unwrap();
    counted(&system, 30).await;
    the_logs_have(&server, 21..=30).await;
    working.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_has_lost_what_it_acknowledged_is_named_with_producer_and_batch() {
    let mut server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let older = folder.path().join("older");
    let system = system(&server, folder.path()).await;
    let mut publisher = system.publisher_named("shop").await.unwrap();
    for number in 1..=9 {
        push(&mut publisher, number, 0).await.unwrap();
    }
    publisher.flush().await.unwrap();
    server.stop(Signal::SIGTERM);
    copy(&server.store(), &older);
    server.start_again();
    for number in 10..=20 {
        push(&mut publisher, number, 0).await.unwrap();
    }
    publisher.flush().await.unwrap();
    let had = batches(&server).await;
    // The power fails, and what was not on disk is gone.
    server.stop(Signal::SIGKILL);
    fs::remove_dir_all(server.store()).unwrap();
    copy(&older, &server.store());
    server.start_again();
    // Others fill what was lost.
    let mut other = wait_until("another publisher", async || system.publisher().await.ok()).await;
    for number in 1..=20 {
        push(&mut other, number, 0).await.unwrap();
        other.flush().await.unwrap();
    }
    for number in 21..=30 {
        push(&mut publisher, number, 0).await.unwrap();
    }
    let said = publisher.flush().await.unwrap_err().to_string();
    let (last, position) = (had[0].last().unwrap().0.clone(), had[0].len());
    assert_eq!(
        said,
        format!(
            "the log counting-log-0 has lost batch {} of the producer shop, which it had acknowledged at {position}: bring it \
             back from a replica or a backup; or go on under another name, behind what workers have folded of it",
            last.number
        )
    );
    // It does, and then all of it is there.
    drop(publisher);
    let mut again = system.publisher_named("shop").await.unwrap();
    assert!(again.resume_after() < 10);
    for number in again.resume_after() + 1..=30 {
        push(&mut again, number, 0).await.unwrap();
    }
    again.finish().await.unwrap();
    let offsets: Vec<_> = batches(&server).await.iter().flatten().map(|(stamp, _)| stamp.offset).collect();
    assert!(offsets.contains(&30));
}
