//! Streams that are under way: what whoever folds them answers, and how a final is waited for.

use crate::support::{PATIENCE, Program, Server, apply, batch, id_in, summer, wait_for, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;
use sha1::{Digest, Sha1};
use std::time::Duration;

async fn publish(server: &Server, partition: u32, payload: Vec<u8>) {
    let jetstream = server.jetstream().await;
    jetstream.publish(format!("chunks.{partition}"), payload.into()).await.unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_under_way_is_told_as_far_as_it_is_committed_by_whoever_folds_it_now() {
    let server = Server::start();
    apply(&server, 2);
    let folder = tempfile::tempdir().unwrap();
    let start = |name: &str| summer(&server, &folder.path().join(name), &format!("--worker {name}")).spawn();
    let a = start("a");
    let (live, broken, unknown) = (id_in(1, 2, 7, 0), id_in(1, 2, 7, 1), id_in(1, 2, 7, 2));
    publish(&server, 1, batch(&[(live, 1, b"he"), (live, 2, b"llo"), (broken, 1, b"x")])).await;
    publish(&server, 1, batch(&[(broken, 3, b"y")])).await;
    let get = |id: &str| Program::at(&server, &format!("get {id}")).run();
    let so_far = hex::encode(Sha1::digest(b"hello"));
    let line = format!("{so_far}  {live}  seq_no=2  under way at position 2\n");
    wait_for("what is committed", || get(&live.to_string()).stdout() == line);
    let said = get(&broken.to_string()).expect(1);
    assert!(
        said.sentence().contains("gets no final: a chunk after chunk 1 is missing, by position 2"),
        "{}",
        said.stderr
    );
    let said = get(&unknown.to_string()).expect(1);
    assert!(
        said.sentence().contains(&format!("there is no final of stream {unknown}: it has not ended")),
        "{}",
        said.stderr
    );

    // Another folds it now, and answers the same.
    let b = start("b");
    wait_for("both", || Program::at(&server, "status").run().stdout().contains(" b "));
    a.stop().expect(0);
    wait_for("what the other has committed", || get(&live.to_string()).stdout() == line);

    let mut waiting = Program::at(&server, &format!("get --wait {live}")).spawn();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(waiting.is_running(), "there is nothing to print yet");
    publish(&server, 1, batch(&[(live, 3, b"")])).await;
    let told = waiting.wait_for(PATIENCE).expect(0);
    assert!(told.stdout().starts_with(&format!("{so_far}  {live}  seq_no=3  20")), "{}", told.stdout());
    b.stop().expect(0);
    let said = get(&unknown.to_string()).expect(1);
    assert!(
        said.sentence().contains("how far it is can't be asked: no worker answers for partition 1"),
        "{}",
        said.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_summer_is_a_service_that_nats_micro_lists_and_counts() {
    let server = Server::start();
    apply(&server, 2);
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, folder.path(), "--worker a").spawn();
    summing.wait_for_log("opened the log", 2);
    let client = server.client().await;
    let ask = async |subject: &str, question: &str| {
        let asked = client.request(subject.to_owned(), question.to_owned().into());
        let answer = tokio::time::timeout(PATIENCE, asked).await.unwrap().unwrap();
        serde_json::from_slice::<Value>(&answer.payload).unwrap()
    };
    let nonsense = ask("summers.ask.1", "no ID").await;
    assert_eq!(nonsense["state"], "refused");
    let info = ask("$SRV.INFO.stream-sum", "").await;
    assert_eq!((&info["name"], &info["version"]), (&"stream-sum".into(), &env!("CARGO_PKG_VERSION").into()), "{info}");
    let endpoints: Vec<_> = info["endpoints"].as_array().unwrap().iter().map(|endpoint| &endpoint["subject"]).collect();
    assert!(endpoints.len() == 2 && endpoints.contains(&&"summers.ask.0".into()), "{info}");
    let stats = ask("$SRV.STATS.stream-sum", "").await;
    let asked = stats["endpoints"].as_array().unwrap().iter().find(|endpoint| endpoint["name"] == "ask-1").unwrap();
    assert_eq!((&asked["num_requests"], &asked["num_errors"]), (&1.into(), &0.into()), "{stats}");
    summing.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_paused_is_not_asked_in_the_place_of_whoever_answers() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let start =
        |name: &str| summer(&server, &folder.path().join(name), &format!("--worker {name} --partitions all")).spawn();
    let (paused, other) = (start("a"), start("b"));
    for summing in [&paused, &other] {
        summing.wait_for_log("opened the log", 1);
    }
    let client = server.client().await;
    let ask = async || client.request("summers.ask.0", "no ID".into()).await;
    // Both listen.
    wait_until("an answer", async || ask().await.ok()).await;
    paused.signal(Signal::SIGSTOP);
    for asked in 0..20 {
        let answer = tokio::time::timeout(Duration::from_secs(8), ask()).await;
        assert!(matches!(answer, Ok(Ok(_))), "question {asked}: {answer:?}");
    }
    paused.signal(Signal::SIGCONT);
    paused.stop().expect(0);
    other.stop().expect(0);
}
