//! Three nodes, three replicas of everything, and one node at a time that dies; once, the summer's disk with it.

use crate::support::{Process, Program, Server, cluster, count, parse_log, summer, total, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Whether every stream has a leader and two replicas that keep up with it.
async fn all_current(node: &Server) -> bool {
    let jetstream = node.jetstream().await;
    for name in ["chunks-0", "chunks-1", "sums", "rejects"] {
        let Ok(stream) = jetstream.get_stream(name).await else { return false };
        let Some(cluster) = &stream.cached_info().cluster else { return false };
        let current = cluster.replicas.iter().filter(|replica| replica.current && !replica.offline).count();
        if cluster.leader.is_none() || current != 2 {
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_loses_one_node_at_a_time_loses_nothing() {
    const STREAMS: u64 = 6_000;
    let mut nodes = cluster();
    let urls = nodes.iter().map(Server::url).collect::<Vec<_>>().join(",");
    // Between leaders nobody answers: asking again soon is what brings the answer. How long elections take is the
    // cluster's affair, so lateness is not what this test is about.
    let patient = |program: Program| {
        program
            .arg("--config")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/cluster.toml"))
            .env("STREAM_SUM_NATS__SERVERS", &urls)
            .env("STREAM_SUM_CHUNKER__DEADLINE", "5m")
    };
    let at = |arguments: &str| patient(Program::new(arguments));
    // A meta leader has to be found first.
    wait_until("the cluster", async || {
        let applied = at("topology apply --partitions 2")
            .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "4MiB")
            .env("STREAM_SUM_TOPOLOGY__SUMS_MAX_BYTES", "64MiB")
            .run();
        (applied.code() == 0).then_some(())
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let start = |nodes: &[Server]| patient(summer(&nodes[0], &data, "--worker a")).spawn();
    let mut summing = start(&nodes);
    let report = folder.path().join("report.json");
    let mut chunking = at(&format!("chunker --streams {STREAMS} --chunks 10 --chunk-bytes 256 --rate 2500"))
        .arg("--report")
        .arg(&report)
        .spawn();

    // Each log holds a few seconds of this, so that it is purged behind snapshots all the time.
    summing.wait_for_log("purged the log up to a snapshot", 2);

    let mut killed = 0;
    for n in 0..3 {
        let alive = (n + 1) % 3;
        // More finals, or all that there will be. After a kill, the two that are left have to find leaders for what
        // the third one led.
        let more = async |nodes: &[Server], chunking: &mut Process| {
            let client = nodes[alive].jetstream().await;
            let finals = async || Some(client.get_stream("sums").await.ok()?.cached_info().state.messages);
            let before = wait_until("sums", async || finals().await).await;
            wait_until("finals", async || (finals().await? >= before + 50 || !chunking.is_running()).then_some(()))
                .await;
        };
        more(&nodes, &mut chunking).await;
        nodes[n].stop(Signal::SIGKILL);
        // What is left of the run may be over before the cluster is whole again.
        killed += usize::from(chunking.is_running());
        if n == 1 {
            summing.kill();
            fs::remove_dir_all(&data).unwrap();
            summing = start(&nodes);
            summing.wait_for_log("restored a snapshot", 2);
        }
        more(&nodes, &mut chunking).await;
        nodes[n].start_again();
        wait_until("every replica to be current", async || all_current(&nodes[alive]).await.then_some(())).await;
    }
    assert!(killed >= 1, "no kill came in time");
    let ended = chunking.wait().expect(0);
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!(count(&report, "verified"), STREAMS, "{report}: {}", ended.stderr);
    summing.stop().expect(0);
    let sums = nodes[0].jetstream().await.get_stream("sums").await.unwrap();
    assert_eq!(sums.cached_info().state.messages, STREAMS, "none is there twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_that_step_down_again_and_again_hold_nobody_up() {
    const STREAMS: u64 = 3_000;
    let nodes = cluster();
    let urls = nodes.iter().map(Server::url).collect::<Vec<_>>().join(",");
    let at = |arguments: &str| {
        Program::new(arguments)
            .env("STREAM_SUM_NATS__SERVERS", &urls)
            .env("STREAM_SUM_CHUNKER__DEADLINE", "5m")
            .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "64MiB")
            .env("STREAM_SUM_TOPOLOGY__SUMS_MAX_BYTES", "64MiB")
    };
    wait_until("the cluster", async || {
        (at("topology apply --partitions 2 --replicas 3").run().code() == 0).then_some(())
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let summing = at("summer --worker a").arg("--data-dir").arg(folder.path().join("data")).spawn();
    let report = folder.path().join("report.json");
    let mut chunking = at(&format!("chunker --streams {STREAMS} --chunks 4 --rate 2500 --report")).arg(&report).spawn();
    // Whoever starts meanwhile may give up: that is told by its own limit, and not what is looked at here.
    chunking.wait_for_log("chunking", 1);
    let client = nodes[0].client().await;
    let mut stepped = 0;
    while chunking.is_running() {
        for stream in ["sums", "rejects", "chunks-0", "chunks-1"] {
            let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}");
            // Between two leaders nobody answers.
            let asked = tokio::time::timeout(Duration::from_secs(1), client.request(subject, "".into()));
            if let Ok(Ok(answer)) = asked.await {
                let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
                stepped += usize::from(answer["success"] == true);
            }
        }
    }
    let ended = chunking.wait().expect(0);
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!(count(&report, "verified"), STREAMS, "{report}: {}", ended.stderr);
    assert!(stepped > 10, "{stepped}");
    let ended = summing.stop().expect(0);
    assert!(ended.stderr.contains("reading back all of this transaction"), "{}", ended.stderr);
    let log = parse_log(&ended.stderr);
    assert!(total(&log, "stopped", "commits") > 0, "{}", ended.stderr);
    let sums = nodes[0].jetstream().await.get_stream("sums").await.unwrap();
    assert_eq!(sums.cached_info().state.messages, STREAMS, "none is there twice");
}
