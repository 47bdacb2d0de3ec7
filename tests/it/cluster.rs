//! Three nodes, three replicas of everything, and one node at a time that dies.

use crate::support::{Program, Server, count, summer, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::net::TcpListener;

/// Three servers that know each other. Routes need ports that are known beforehand, so free ones are picked.
fn cluster() -> Vec<Server> {
    let held: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<_> = held.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
    drop(held);
    let routes: Vec<_> = ports.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
    let node = |(n, port): (usize, &u16)| {
        Server::with_config(&format!(
            "server_name: node-{n}\ncluster {{ name: test, host: 127.0.0.1, port: {port}, routes: [{}] }}\n",
            routes.join(", ")
        ))
    };
    ports.iter().enumerate().map(node).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_loses_one_node_at_a_time_loses_nothing() {
    const STREAMS: u64 = 4_000;
    let mut nodes = cluster();
    let urls = nodes.iter().map(Server::url).collect::<Vec<_>>().join(",");
    let at = |arguments: &str| Program::new(arguments).env("STREAM_SUM_NATS__SERVERS", &urls);
    // A meta leader has to be found first.
    wait_until("the cluster", async || {
        let applied = at("topology apply --partitions 2 --replicas 3")
            .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "64MiB")
            .env("STREAM_SUM_TOPOLOGY__SUMS_MAX_BYTES", "64MiB")
            .run();
        (applied.code() == 0).then_some(())
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&nodes[0], &folder.path().join("data"), "").env("STREAM_SUM_NATS__SERVERS", &urls).spawn();
    let report = folder.path().join("report.json");
    let chunking = at(&format!("chunker --streams {STREAMS} --chunks 10 --rate 2500 --report")).arg(&report).spawn();

    for n in 0..3 {
        let finals = async |at: usize| {
            let sums = nodes[at].jetstream().await.get_stream("sums").await.ok()?;
            Some(sums.cached_info().state.messages)
        };
        let other = (n + 1) % 3;
        let before = wait_until("sums", async || finals(other).await).await;
        wait_until("finals", async || (finals(other).await? >= before + 50).then_some(())).await;
        nodes[n].stop(Signal::SIGKILL);
        // The two that are left find leaders for what it led, and go on.
        let finals = async || {
            let sums = nodes[other].jetstream().await.get_stream("sums").await.ok()?;
            Some(sums.cached_info().state.messages)
        };
        let before = wait_until("sums", async || finals().await).await;
        wait_until("finals", async || (finals().await? >= before + 50).then_some(())).await;
        nodes[n].start_again();
    }
    let ended = chunking.wait().expect(0);
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!(count(&report, "verified"), STREAMS, "{report}: {}", ended.stderr);
    summing.stop().expect(0);
    let sums = nodes[0].jetstream().await.get_stream("sums").await.unwrap();
    assert_eq!(sums.cached_info().state.messages, STREAMS, "none is there twice");
}
