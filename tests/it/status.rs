//! `status`: who is where, from the workers themselves, and who does not answer.

use crate::support::{Program, Server, apply, batch, id_in, status, summer, wait_for};
use async_nats::jetstream;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Publishes a batch to the log of a partition: another chunk of its stream.
async fn publish(jetstream: &jetstream::Context, partition: u32, partitions: u32, seq_no: u64) {
    let payload = batch(&[(id_in(partition, partitions, 7, 0), seq_no, b"data")]);
    jetstream.publish(format!("chunks.{partition}"), payload.into()).await.unwrap().await.unwrap();
}

fn worker<'a>(status: &'a Value, partition: usize, name: &str) -> Option<&'a Value> {
    let workers = status["partitions"][partition]["workers"].as_array().unwrap();
    workers.iter().find(|worker| worker["worker"] == name)
}

#[test]
fn positions_come_from_workers_ends_from_logs_and_the_silent_are_named() {
    let server = Server::start();
    apply(&server, 3);
    let folder = tempfile::tempdir().unwrap();
    let summers = ["a", "b"].map(|name| {
        let summer = summer(&server, &folder.path().join(name), &format!("--worker {name} --partitions 0-1")).spawn();
        summer.wait_for_log("opened the log", 2);
        summer
    });
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let jetstream = server.jetstream().await;
        for partition in 0..3 {
            let id = id_in(partition, 3, 7, 0);
            let payload = batch(&[(id, 1, b"data")]).into();
            jetstream.publish(format!("chunks.{partition}"), payload).await.unwrap().await.unwrap();
        }
    });
    let [a, b] = summers;
    wait_for("every commit", || {
        let status = status(&server);
        let end = status["partitions"][1]["log_end"].as_u64().unwrap();
        end > 0 && ["a", "b"].iter().all(|name| worker(&status, 1, name).unwrap()["position"] == end)
    });
    let told = status(&server);
    for (partition, name) in [(0, "a"), (0, "b"), (1, "a"), (1, "b")] {
        let worker = worker(&told, partition, name).unwrap();
        assert_eq!(
            (&worker["state"], &worker["lag"], &worker["live_streams"]),
            (&"folding".into(), &0.into(), &1.into())
        );
        assert!(worker["committed_ms_ago"].as_u64().unwrap() < 60_000);
    }
    // Nobody folds partition 2: what its streams wait for is plain to see.
    let orphan = &told["partitions"][2];
    assert_eq!((&orphan["log_end"], orphan["workers"].as_array().unwrap().len()), (&1.into(), 0));

    // A worker that hangs keeps its durable, and says nothing.
    b.signal(Signal::SIGSTOP);
    let told = status(&server);
    assert_eq!(worker(&told, 0, "a").unwrap()["state"], "folding");
    let silent = worker(&told, 0, "b").unwrap();
    assert_eq!((&silent["state"], &silent["position"]), (&"silent".into(), &Value::Null));
    let table = Program::at(&server, "status").run().expect(1).stdout();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 1 + 2 + 2 + 1 + 1, "{table}");
    assert_eq!(rows[1][..3], ["0", "a", "folding"]);
    assert_eq!(rows[2][..3], ["0", "b", "silent"]);
    assert_eq!(rows[5][..3], ["2", "-", "nobody"]);
    assert!(table.contains("\n3 partitions: 2 folding, 1 nobody; lag 1 chunk batches, "), "{table}");
    b.signal(Signal::SIGCONT);
    wait_for("the worker that woke", || worker(&status(&server), 0, "b").unwrap()["state"] == "folding");
    a.stop().expect(0);
}

#[test]
fn a_worker_that_can_t_fold_says_why() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let summer = summer(&server, folder.path(), "--worker a").spawn();
    summer.wait_for_log("opened the log", 1);
    Program::at(&server, "chunker --streams 10 --chunks 1").run().expect(0);
    // What it has committed is what it holds on to.
    wait_for("a commit", || worker(&status(&server), 0, "a").is_some_and(|worker| worker["position"] != 0));
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let jetstream = server.jetstream().await;
        jetstream.delete_stream("chunks-0").await.unwrap();
    });
    apply(&server, 1);
    wait_for("the reason", || {
        let told = status(&server);
        // Its durable went with the log, and still it answers.
        worker(&told, 0, "a").is_some_and(|worker| {
            worker["state"] == "waiting" && worker["trouble"].as_str().unwrap().contains("LogReplaced")
        })
    });
    // Its position is of another log: of this one nobody has folded anything.
    tokio::runtime::Runtime::new().unwrap().block_on(async { publish(&server.jetstream().await, 0, 1, 1).await });
    let told = status(&server);
    let place = &told["partitions"][0];
    assert_eq!(
        (&worker(&told, 0, "a").unwrap()["lag"], &place["position_of"]),
        (&Value::Null, &"log".into()),
        "{told}"
    );
    assert_eq!(place["lag"], place["log_end"], "{told}");
}

#[test]
fn watching_goes_on_while_nobody_answers_and_ends_with_a_signal() {
    let mut server = Server::start();
    apply(&server, 1);
    let watching =
        Program::at(&server, "status --json --watch").env("STREAM_SUM_NATS__REQUEST_TIMEOUT", "300ms").spawn();
    let lines = || String::from_utf8(watching.stdout_so_far()).unwrap().lines().count();
    wait_for("two of them", || lines() >= 2);
    server.stop(Signal::SIGKILL);
    wait_for("an error", || watching.stderr_so_far().contains("stream-sum: "));
    let before = lines();
    server.start_again();
    wait_for("another", || lines() > before);
    watching.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dead_are_not_waited_for_and_the_lag_of_the_others_is_of_one_moment() {
    const A_SECOND: u64 = 200;
    let server = Server::start();
    apply(&server, 2);
    let folder = tempfile::tempdir().unwrap();
    let summers = [("a", 0), ("b", 1)].map(|(name, partition)| {
        let flags = format!("--worker {name} --partitions {partition}");
        let summer = summer(&server, &folder.path().join(name), &flags);
        let summer = summer.env("STREAM_SUM_SUMMER__CHECKPOINT_INTERVAL", "50ms").spawn();
        summer.wait_for_log("opened the log", 1);
        summer
    });
    let [a, b] = summers;
    let over = Arc::new(AtomicBool::new(false));
    let publishing = tokio::spawn({
        let (jetstream, over) = (server.jetstream().await, over.clone());
        async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(A_SECOND).unwrap());
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            for seq_no in 1.. {
                ticks.tick().await;
                publish(&jetstream, 0, 2, seq_no).await;
                if over.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
    });
    b.kill();
    wait_for("the first of many", || status(&server)["partitions"][0]["log_end"].as_u64().unwrap() > 2 * A_SECOND);
    // Silent workers are waited for 2 s where they are connected; in that time the log goes on.
    wait_for("an answer that waits for nobody", || {
        let began = Instant::now();
        let told = status(&server);
        let lag = worker(&told, 0, "a").unwrap()["lag"].as_u64().unwrap();
        assert_eq!(worker(&told, 1, "b").unwrap()["state"], "silent", "{told}");
        began.elapsed() < Duration::from_secs(2) && lag < A_SECOND
    });
    over.store(true, Ordering::Relaxed);
    publishing.await.unwrap();
    a.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_folds_the_lag_is_behind_the_last_snapshot_or_all_that_the_log_holds() {
    let server = Server::start();
    apply(&server, 3);
    let folder = tempfile::tempdir().unwrap();
    let jetstream = server.jetstream().await;
    let mut a = Some(summer(&server, folder.path(), "--worker a --partitions 0-1").spawn());
    for seq_no in 1..=3 {
        for partition in 0..3 {
            publish(&jetstream, partition, 3, seq_no).await;
        }
    }
    let place = |told: &Value, partition: usize| {
        let place = told["partitions"][partition].clone();
        ["state", "position", "position_of", "lag"].map(|field| place[field].clone())
    };
    wait_for("both commits", || (0..2).all(|partition| place(&status(&server), partition)[1] == 3));
    // A clean stop leaves a snapshot.
    a.take().unwrap().stop().expect(0);
    for seq_no in 4..=5 {
        for partition in 0..3 {
            publish(&jetstream, partition, 3, seq_no).await;
        }
    }
    let told = status(&server);
    for partition in 0..2 {
        assert_eq!(place(&told, partition), ["silent".into(), 3.into(), "snapshot".into(), Value::from(2)], "{told}");
    }
    assert_eq!(place(&told, 2), ["nobody".into(), 0.into(), "log".into(), Value::from(5)], "{told}");
    let summary = &told["summary"];
    let counts = ["partitions", "folding", "silent", "nobody", "lag"].map(|field| summary[field].as_u64().unwrap());
    assert_eq!(counts, [3, 0, 2, 1, 9], "{told}");

    // The oldest that is not folded counts: the fourth of partition 0, the first of partition 2.
    for (partition, sequence) in [(0, 4), (2, 1)] {
        let log = jetstream.get_stream(format!("chunks-{partition}")).await.unwrap();
        let stored = SystemTime::from(log.get_raw_message(sequence).await.unwrap().time);
        let age = || stored.elapsed().unwrap().as_secs_f64();
        let (least, told, most) = (age(), status(&server), age());
        let seconds = told["partitions"][partition]["lag_seconds"].as_f64().unwrap();
        assert!((least - 0.1..most + 0.1).contains(&seconds), "{least} <= {seconds} <= {most}");
        assert!(told["summary"]["lag_seconds"].as_f64().unwrap() >= seconds);
    }
    let table = Program::at(&server, "status").run().expect(1).stdout();
    assert!(table.contains("lag behind the last snapshot, which is at 3\n"), "{table}");
    assert!(table.contains("lag is all that the log holds\n"), "{table}");
    assert!(table.contains("\n3 partitions: 2 silent, 1 nobody; lag 9 chunk batches, "), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_is_0_only_where_every_partition_is_folded() {
    let server = Server::start();
    apply(&server, 2);
    Program::at(&server, "status").run().expect(1);
    let folder = tempfile::tempdir().unwrap();
    let summer = summer(&server, folder.path(), "--worker a").spawn();
    summer.wait_for_log("opened the log", 2);
    let table = Program::at(&server, "status").run().expect(0).stdout();
    assert!(table.ends_with("\n2 partitions: 2 folding; lag 0 chunk batches, 0.0 s\n"), "{table}");
    // What is missing besides logs is one sentence beside the table.
    server.jetstream().await.delete_stream("rejects").await.unwrap();
    let ended = Program::at(&server, "status").run().expect(1);
    assert!(ended.sentence().contains("there is no stream rejects"), "{}", ended.stderr);
    assert!(ended.stdout().contains("\n2 partitions: 2 folding; "), "{}", ended.stdout());
    apply(&server, 2);
    summer.kill();
    let ended = Program::at(&server, "status").run().expect(1);
    assert_eq!(ended.stderr, "", "the table says all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_gone_is_named_with_the_way_out_beside_all_others() {
    let server = Server::start();
    apply(&server, 3);
    let folder = tempfile::tempdir().unwrap();
    let summer = summer(&server, folder.path(), "--worker a --partitions 0,2").spawn();
    summer.wait_for_log("opened the log", 2);
    let jetstream = server.jetstream().await;
    jetstream.delete_stream("chunks-1").await.unwrap();
    let states = |told: &Value| [0, 1, 2].map(|partition: usize| told["partitions"][partition]["state"].clone());
    let told = status(&server);
    assert_eq!(states(&told), ["folding", "gone", "folding"], "{told}");
    let gone = &told["partitions"][1];
    assert_eq!((&gone["log_end"], &gone["lag"]), (&Value::Null, &Value::Null));
    let trouble = gone["trouble"].as_str().unwrap();
    assert!(trouble.contains("the log chunks-1 is gone") && trouble.contains("--accept replaced:1"), "{trouble}");
    let ended = Program::at(&server, "status").run().expect(1);
    assert!(ended.stdout().contains("\n3 partitions: 2 folding, 1 gone; lag 0 "), "{}", ended.stdout());
    assert_eq!(ended.stderr, "", "once is enough");
    // The first log as well: another one says how many there are.
    jetstream.delete_stream("chunks-0").await.unwrap();
    let told = status(&server);
    assert_eq!(states(&told), ["gone", "gone", "folding"], "{told}");
    // Its worker tells why it does not fold it.
    wait_for("the reason", || worker(&status(&server), 0, "a").is_some_and(|worker| worker["state"] == "waiting"));
}
