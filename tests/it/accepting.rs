//! A loss is accepted while summers run: by the one that has found it, for this once, and by no other.

use crate::support::{Ended, Program, Server, apply, batch, id_in, status, summer, wait_for, wait_until};
use jetfold::store::{Owner, Store};
use serde_json::Value;
use std::path::Path;
use stream_sum::sum::Summer;

/// Publishes a whole stream of a partition.
async fn complete(server: &Server, partition: u32, n: usize) {
    let id = id_in(partition, 2, 5, n);
    let payload = batch(&[(id, 1, b"a"), (id, 2, b"")]);
    let jetstream = server.jetstream().await;
    jetstream.publish(format!("chunks.{partition}"), payload.into()).await.unwrap().await.unwrap();
}

/// Makes the log of partition 0 anew, with nothing of what was folded.
async fn replace(server: &Server) {
    server.jetstream().await.delete_stream("chunks-0").await.unwrap();
    apply(server, 2);
}

fn accept(server: &Server, what: &str) -> Ended {
    Program::at(server, &format!("accept {what}")).run()
}

fn place(server: &Server, partition: usize) -> Value {
    status(server)["partitions"][partition].clone()
}

async fn finals(server: &Server) -> u64 {
    server.jetstream().await.get_stream("sums").await.unwrap().cached_info().state.messages
}

fn accepted(folder: &Path) -> usize {
    let owner = Owner { log: "chunks-0".into(), partition: 0, partitions: 2 };
    Store::<Summer>::open(folder, &owner, 1 << 20).unwrap().accepted().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_summer_that_runs_goes_on_without_what_it_has_found_lost_and_with_nothing_else() {
    let server = Server::start();
    apply(&server, 2);
    let folder = tempfile::tempdir().unwrap();
    let mut summing = summer(&server, folder.path(), "--worker a").spawn();
    complete(&server, 0, 0).await;
    complete(&server, 1, 0).await;
    wait_for("both to be folded", || (0..2).all(|n| place(&server, n)["position"] == 1));
    let early = accept(&server, "replaced:0").expect(1);
    assert!(early.sentence().contains("a says folding at position 1"), "{}", early.stderr);

    replace(&server).await;
    wait_for("the refusal", || place(&server, 0)["state"] == "refused");
    complete(&server, 0, 1).await;
    for (what, said) in [
        ("diverged:0", "no summer has found partition 0 to be diverged: a says refused since 20"),
        ("replaced:1", "no summer has found partition 1 to be replaced: a says folding at position 1"),
        ("replaced:7", "no summer that runs holds partition 7"),
    ] {
        let refused = accept(&server, what).expect(1);
        assert!(refused.sentence().contains(said), "{}", refused.stderr);
    }
    assert_eq!(place(&server, 0)["state"], "refused");

    let taken = accept(&server, "replaced:0").expect(0);
    assert_eq!(taken.stdout(), "a accepts what partition 0 has lost, and goes on\n");
    wait_until("the next final", async || (finals(&server).await == 3).then_some(())).await;
    wait_for("it to be folded", || place(&server, 0)["state"] == "folding");

    // The next loss is another.
    replace(&server).await;
    wait_for("another refusal", || place(&server, 0)["state"] == "refused");
    assert!(summing.is_running());
    summing.stop().expect(1);
    assert_eq!(accepted(folder.path()), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_accepts_may_wait_for_a_summer_that_is_on_its_way_back() {
    let server = Server::start();
    apply(&server, 2);
    let folder = tempfile::tempdir().unwrap();
    let one = "--worker a --partitions 0";
    let summing = summer(&server, folder.path(), one).spawn();
    complete(&server, 0, 0).await;
    wait_for("it to be folded", || place(&server, 0)["position"] == 1);
    summing.stop().expect(0);
    replace(&server).await;
    complete(&server, 0, 1).await;

    let nobody = accept(&server, "replaced:0").expect(1);
    assert!(nobody.sentence().contains("start it with --accept replaced:0"), "{}", nobody.stderr);
    let accepting = Program::at(&server, "accept replaced:0 --wait 60s").spawn();
    let summing = summer(&server, folder.path(), one).spawn();
    accepting.wait().expect(0);
    wait_until("its next final", async || (finals(&server).await == 2).then_some(())).await;
    summing.stop().expect(0);
    assert_eq!(accepted(folder.path()), 1);
}

#[test]
fn what_is_no_loss_is_refused_in_one_sentence() {
    for what in ["replaced", "lost:3", "replaced:x"] {
        let ended = Program::new(&format!("accept {what}")).run().expect(2);
        assert!(ended.stderr.contains("as in replaced:3"), "{}", ended.stderr);
    }
}
