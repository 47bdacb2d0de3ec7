//! `status`: who is where, from the workers themselves, and who does not answer.

use crate::support::{Program, Server, apply, batch, id_in, summer, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;

fn status(server: &Server) -> Value {
    serde_json::from_str(&Program::at(server, "status --json").run().expect(0).stdout()).unwrap()
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
    let table = Program::at(&server, "status").run().expect(0).stdout();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 1 + 2 + 2 + 1, "{table}");
    assert_eq!(rows[1][..3], ["0", "a", "folding"]);
    assert_eq!(rows[2][..3], ["0", "b", "silent"]);
    assert_eq!(rows[5][..3], ["2", "-", "nobody"]);
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
