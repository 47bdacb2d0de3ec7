//! Streams of effects that forget behind another node: the worker's own connection stands all the while.

use crate::support::{
    Process, Program, Server, apply, batch, cluster, copy, id_in, messages, status, summer, wait_for, wait_until,
};
use async_nats::jetstream;
use jetfold::store::{Owner, Store};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use stream_sum::sum::Summer;

/// Three nodes, and one system on them with one replica of everything.
struct System {
    nodes: Vec<Server>,
    prefix: String,
    /// The node that keeps the stream that will forget, and another, which the worker is connected to.
    forgetful: usize,
    other: usize,
}

impl System {
    /// With the stream on another node than the log.
    async fn with(stream: &str) -> Self {
        let nodes = cluster();
        let mut system = Self { nodes, prefix: String::new(), forgetful: 0, other: 0 };
        // Where the streams are placed is the cluster's affair: another system has another chance.
        for n in 0.. {
            system.prefix = format!("s{n}");
            wait_until("the topology", async || {
                let applied = system.program("topology apply --partitions 1").run();
                (applied.code() == 0).then_some(())
            })
            .await;
            let (log, forgetful) = (system.leader("chunks-0").await, system.leader(stream).await);
            if log != forgetful {
                (system.forgetful, system.other) = (forgetful, log);
                return system;
            }
        }
        unreachable!("there are enough prefixes")
    }

    fn program(&self, arguments: &str) -> Program {
        self.own(Program::at(&self.nodes[self.other], arguments))
    }

    fn own(&self, program: Program) -> Program {
        program
            .env("STREAM_SUM_TOPOLOGY__PREFIX", &self.prefix)
            .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "16MiB")
            .env("STREAM_SUM_TOPOLOGY__SUMS_MAX_BYTES", "16MiB")
    }

    fn summer(&self, folder: &Path) -> Process {
        // One transaction, from its start to its stop.
        let program = summer(&self.nodes[self.other], folder, "--worker a");
        self.own(program).env("STREAM_SUM_SUMMER__CHECKPOINT_INTERVAL", "1h").spawn()
    }

    fn name(&self, stream: &str) -> String {
        format!("{}-{stream}", self.prefix)
    }

    async fn leader(&self, stream: &str) -> usize {
        let jetstream = self.nodes[self.other].jetstream().await;
        let info = jetstream.get_stream(self.name(stream)).await.unwrap().cached_info().clone();
        let leader = info.cluster.unwrap().leader.unwrap();
        leader.strip_prefix("node-").unwrap().parse().unwrap()
    }

    async fn jetstream(&self) -> jetstream::Context {
        self.nodes[self.other].jetstream().await
    }

    /// Waits until a stream ends at a sequence.
    async fn ends_at(&self, stream: &str, last: u64) {
        let (jetstream, name) = (self.jetstream().await, self.name(stream));
        wait_until(&format!("{stream} to end at {last}"), async || {
            let stream = jetstream.get_stream(&name).await.ok()?;
            (stream.cached_info().state.last_sequence == last).then_some(())
        })
        .await;
    }

    /// Batches that each have one effect on a stream: a final, or a reject.
    async fn publish(&self, stream: &str, numbers: std::ops::Range<usize>) {
        let jetstream = self.jetstream().await;
        for n in numbers {
            let id = id_in(0, 1, 6, n);
            let payload = match stream {
                "sums" => batch(&[(id, 1, b"a"), (id, 2, b"")]),
                _ => batch(&[(id, 2, b"of a stream that nobody opened")]),
            };
            let subject = format!("{}.chunks.0", self.prefix);
            jetstream.publish(subject, payload.into()).await.unwrap().await.unwrap();
        }
    }
}

/// How the node comes back.
#[derive(Clone, Copy, PartialEq)]
enum Gap {
    /// More is published while it is away.
    Busy,
    /// Nothing of this worker is, and somebody else's effects fill what was lost before it publishes again.
    Quiet,
}

/// Ten effects are acknowledged within an open transaction, and lost; more of the same transaction follow.
async fn what_is_lost_is_published_again(stream: &str, gap: Gap) {
    let mut system = System::with(stream).await;
    let folder = tempfile::tempdir().unwrap();
    let (data, older) = (folder.path().join("data"), folder.path().join("older"));
    // A mark that is not lost.
    let summing = system.summer(&data);
    system.publish(stream, 0..3).await;
    system.ends_at(stream, 3).await;
    summing.stop().expect(0);
    let log = system.name("chunks-0");
    let position = || {
        let owner = Owner { log: log.clone(), partition: 0, partitions: 1 };
        Store::<Summer>::open(&data, &owner, 1 << 20).unwrap().checkpoint().unwrap().unwrap().position
    };
    assert_eq!(position(), 3);
    let node = system.forgetful;
    system.nodes[node].stop(Signal::SIGTERM);
    copy(&system.nodes[node].store(), &older);
    system.nodes[node].start_again();
    system.ends_at(stream, 3).await;

    let summing = system.summer(&data);
    summing.wait_for_log("opened the log", 1);
    system.publish(stream, 3..13).await;
    system.ends_at(stream, 13).await;
    // The power fails, and what was not on disk is gone.
    system.nodes[node].stop(Signal::SIGKILL);
    fs::remove_dir_all(system.nodes[node].store()).unwrap();
    copy(&older, &system.nodes[node].store());
    if gap == Gap::Busy {
        system.publish(stream, 13..33).await;
    }
    system.nodes[node].start_again();
    let mut last = 23;
    if gap == Gap::Quiet {
        system.ends_at(stream, 3).await;
        let subject = format!("{}.{stream}.0.0", system.prefix);
        let jetstream = system.jetstream().await;
        for n in 0..20 {
            // A stream of one replica is there again a moment after its server.
            wait_until("another's to be stored", async || {
                jetstream.publish(format!("{subject}{n}"), "another's".into()).await.ok()?.await.ok()
            })
            .await;
        }
        system.publish(stream, 13..33).await;
        last = 43;
    }
    system.ends_at(stream, last).await;
    let connections = summing.log().iter().filter(|entry| entry["message"] == "connected to NATS again").count();
    assert_eq!(connections, 0, "the worker's own connection stood");
    // Its one transaction ends now, and must not be committed.
    let ended = summing.stop().expect(0);
    assert!(ended.stderr.contains(&format!("{stream} has lost a message that it acknowledged")), "{}", ended.stderr);
    assert_eq!(position(), 3);
    let summing = system
        .own(summer(&system.nodes[system.other], &data, "--worker a"))
        .env("STREAM_SUM_LOG__LEVEL", "debug")
        .spawn();
    wait_for("all of it to be committed", || {
        summing.log().iter().any(|entry| entry["message"] == "committed" && entry["position"] == 33)
    });
    summing.stop().expect(0);
    system.ends_at(stream, last + 10).await;
    let found = messages(&system.jetstream().await, &system.name(stream)).await;
    let subjects: BTreeSet<_> = found.iter().map(|message| message.subject.to_string()).collect();
    let others = found.iter().filter(|message| message.payload == "another's").count();
    assert_eq!((subjects.len() - others, found.len() - others), (33, 33), "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn finals_that_sums_forgot_behind_another_node_are_published_again() {
    what_is_lost_is_published_again("sums", Gap::Busy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finals_that_sums_forgot_between_two_of_a_transaction_are_published_again() {
    what_is_lost_is_published_again("sums", Gap::Quiet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_that_were_forgotten_behind_another_node_are_published_again() {
    what_is_lost_is_published_again("rejects", Gap::Busy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_that_were_forgotten_between_two_of_a_transaction_are_published_again() {
    what_is_lost_is_published_again("rejects", Gap::Quiet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_that_lost_their_end_at_a_power_failure_are_named() {
    let mut server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let (data, older) = (folder.path().join("data"), folder.path().join("older"));
    let jetstream = server.jetstream().await;
    let junk = async |server: &Server| {
        server.jetstream().await.publish("chunks.0", "junk".into()).await.unwrap().await.unwrap();
    };
    let folded = async |server: &Server, through: u64| {
        let summing = summer(server, &data, "--worker a").spawn();
        wait_until("the commit", async || {
            (status(server)["partitions"][0]["workers"][0]["position"] == through).then_some(())
        })
        .await;
        summing.stop().expect(0)
    };
    junk(&server).await;
    folded(&server, 1).await;
    drop(jetstream);
    server.stop(Signal::SIGTERM);
    let rejects = server.store().join("$G/streams/rejects");
    copy(&rejects, &older);
    server.start_again();
    for _ in 0..3 {
        junk(&server).await;
    }
    folded(&server, 4).await;
    server.stop(Signal::SIGTERM);
    fs::remove_dir_all(&rejects).unwrap();
    copy(&older, &rejects);
    server.start_again();
    junk(&server).await;
    let ended = folded(&server, 5).await;
    assert!(ended.stderr.contains("RejectsForgot: the reject at 4 of rejects"), "{}", ended.stderr);
    let owner = Owner { log: "chunks-0".into(), partition: 0, partitions: 1 };
    let accepted = Store::<Summer>::open(&data, &owner, 1 << 20).unwrap().accepted().unwrap();
    assert_eq!(accepted.len(), 1);
    let said = &accepted[0].verdict;
    assert!(said.contains("Batches through position 4 may have been rejected that rejects does not show"), "{said}");
    // Said and recorded once.
    let again = folded(&server, 5).await;
    assert!(!again.stderr.contains("RejectsForgot"), "{}", again.stderr);
}
