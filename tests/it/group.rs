//! Summers that share partitions among themselves: who comes, stops, dies, sleeps, is cut off or pinned.

use crate::lossy_route::LossyRoute;
use crate::support::{
    PATIENCE, Process, Program, Server, apply, count, parse_log, status, summer, total, wait_for, wait_until,
};
use futures_util::StreamExt;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What a worker says of itself: its life, whether it is pinned or leaving, and how many it follows as a standby; what it owns,
/// follows, and has handed over.
type Said<'a> = ((u64, &'a str), bool, bool, u32, Vec<(u32, u64, u64)>, Vec<(u32, u64, bool)>, Vec<(u32, u64, u64)>);

/// A server with four partitions, and a place for everything else.
struct Stage {
    server: Server,
    folder: TempDir,
    report: PathBuf,
}

fn stage() -> Stage {
    let server = Server::start();
    apply(&server, 4);
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    Stage { server, folder, report }
}

/// Waits until two workers have two partitions each.
fn evenly(server: &Server, state: &str) {
    wait_for(state, || places(server, state).values().copied().collect::<Vec<_>>() == [2, 2]);
}

/// A chunker that goes on until it is told to stop.
fn chunking(server: &Server, report: &Path) -> Process {
    chunking_at(server, 4000, report)
}

fn chunking_at(server: &Server, rate: u32, report: &Path) -> Process {
    let chunker = Program::at(server, &format!("chunker --rate {rate} --chunks 5 --report")).arg(report).spawn();
    chunker.wait_for_log("chunking", 1);
    chunker
}

/// Stops it, and sees that every stream that it has closed has its one final.
#[track_caller]
fn all_verified(chunker: Process, report: &Path) {
    let before = verified(report);
    wait_for("more finals", || verified(report) > before + 500);
    chunker.signal(Signal::SIGINT);
    chunker.wait_for(PATIENCE).expect(0);
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    for broken in ["missing", "mismatched", "duplicate", "unexpected", "late"] {
        assert_eq!(count(&report, broken), 0, "{broken}: {report}");
    }
}

fn verified(report: &Path) -> u64 {
    fs::read(report)
        .ok()
        .and_then(|text| serde_json::from_slice::<Value>(&text).ok())
        .map_or(0, |report| count(&report, "verified"))
}

/// How many partitions each worker folds or follows, by `state`.
fn places(server: &Server, state: &str) -> BTreeMap<String, usize> {
    let status = status(server);
    let places = status["partitions"].as_array().unwrap().iter().flat_map(|place| place["workers"].as_array().unwrap());
    let mut counts = BTreeMap::new();
    for worker in places.filter(|worker| worker["state"] == state) {
        *counts.entry(worker["worker"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    counts
}

fn shared(server: &Server, expected: &[(&str, usize)]) {
    let expected = expected.iter().map(|(worker, n)| ((*worker).to_owned(), *n)).collect::<BTreeMap<_, _>>();
    wait_for(&format!("{expected:?}"), || places(server, "folding") == expected);
}

fn start(server: &Server, folder: &Path, name: &str, more: &str) -> Process {
    summer(server, &folder.join(name), &format!("--worker {name} {more}")).spawn()
}

/// Why each partition was taken that a worker has taken over, by its log.
fn causes(worker: &Process) -> Vec<(String, String)> {
    let moves = worker.log().into_iter().filter(|entry| entry["message"] == "took a partition over");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    moves.map(|entry| (text(&entry["from"]), text(&entry["cause"]))).collect()
}

fn handed_over(from: &str, times: usize) -> Vec<(String, String)> {
    vec![(from.to_owned(), "HandedOver".to_owned()); times]
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_gets_its_share_and_who_is_told_to_stop_hands_it_over() {
    let Stage { server, folder, report } = stage();
    let a = summer(&server, &folder.path().join("a"), "--worker a").env("STREAM_SUM_LOG__LEVEL", "debug").spawn();
    shared(&server, &[("a", 4)]);
    // Something is always folded and not committed yet, four times a second and partition; and whoever follows from the beginning is close
    // within the seconds that a stop takes at the most.
    let chunker = chunking_at(&server, 8_000, &report);
    // What it says is remembered for seconds only.
    let mut said = server.client().await.subscribe("$KV.stream-sum-members.a").await.unwrap();
    let b = start(&server, folder.path(), "b", "");
    shared(&server, &[("a", 2), ("b", 2)]);
    assert_eq!(causes(&b), handed_over("a", 2));
    // It is told where the last owner has stopped, to the batch.
    let mut handed = BTreeMap::new();
    while handed.len() < 2 {
        let said = tokio::time::timeout(PATIENCE, said.next()).await.expect("it tells where it has stopped").unwrap();
        let said: Said<'_> = rmp_serde::from_slice(&said.payload).unwrap();
        handed.extend(said.6.iter().map(|(partition, position, _)| (*partition, *position)));
    }
    let is_committed = |partition: u32, position: u64| {
        let log = format!("chunks-{partition}");
        let of_log = a.log().into_iter().rfind(|entry| entry["message"] == "committed" && entry["log"] == log.as_str());
        of_log.is_some_and(|entry| entry["position"] == position)
    };
    for (partition, position) in handed {
        // It is told as soon as everything is confirmed, and is on its way to disk then.
        wait_for(&format!("{position} of {partition}"), || is_committed(partition, position));
    }
    let moves = status(&server)["moves"].as_array().unwrap().clone();
    assert_eq!((moves.len(), &moves[0]["from"], &moves[0]["to"]), (2, &"a".into(), &"b".into()));
    let told = Instant::now();
    a.stop().expect(0);
    assert!(told.elapsed() < Duration::from_secs(10));
    shared(&server, &[("b", 4)]);
    assert_eq!(causes(&b), handed_over("a", 4));
    all_verified(chunker, &report);
    // What was handed over was folded where it was left: nothing had to be published again.
    let stopped = b.stop().expect(0);
    assert_eq!(total(&parse_log(&stopped.stderr), "stopped", "finals_already_there"), 0, "{}", stopped.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_killed_is_missed_within_three_seconds_and_told_so_when_it_was_only_asleep() {
    let Stage { server, folder, report } = stage();
    let (a, b) = (start(&server, folder.path(), "a", ""), start(&server, folder.path(), "b", ""));
    evenly(&server, "folding");
    let chunker = chunking(&server, &report);
    a.signal(Signal::SIGSTOP);
    shared(&server, &[("b", 4)]);
    let moves = b.log().into_iter().filter(|entry| entry["cause"] == "Silent").collect::<Vec<_>>();
    assert_eq!(moves.len(), 2);
    // On a machine that does many things at once, the clock of whoever counts goes on a little.
    assert!(moves.iter().all(|entry| entry["pause_ms"].as_u64().unwrap() < 6_000), "{moves:?}");
    let durables = async |log: &str| {
        let stream = server.jetstream().await.get_stream(log).await.unwrap();
        futures_util::TryStreamExt::try_collect::<Vec<_>>(stream.consumer_names()).await.unwrap()
    };
    for partition in 0..4 {
        let log = format!("chunks-{partition}");
        wait_until("one durable", async || (durables(&log).await == ["summer-b"]).then_some(())).await;
    }
    a.signal(Signal::SIGCONT);
    evenly(&server, "folding");
    all_verified(chunker, &report);
    a.stop().expect(0);
    b.stop().expect(0);
}

#[test]
fn a_standby_follows_all_the_time_and_goes_on_where_the_dead_one_was() {
    let Stage { server, folder, report } = stage();
    let standby = |name: &str| {
        let summer = summer(&server, &folder.path().join(name), &format!("--worker {name}"));
        summer.env("STREAM_SUM_SUMMER__STANDBY", "1").spawn()
    };
    let (a, b) = (standby("a"), standby("b"));
    evenly(&server, "folding");
    let chunker = chunking(&server, &report);
    evenly(&server, "following");
    wait_for("something to follow", || verified(&report) > 1000);
    let gone_on = || b.log().iter().filter(|entry| entry["message"] == "going on as the owner of the log").count();
    let before = gone_on();
    a.kill();
    shared(&server, &[("b", 4)]);
    assert_eq!(gone_on(), before + 2, "with what it had folded behind the dead one");
    all_verified(chunker, &report);
    b.stop().expect(0);
}

#[test]
fn pinned_and_automatic_workers_live_side_by_side() {
    let Stage { server, folder, report } = stage();
    let a = start(&server, folder.path(), "a", "");
    shared(&server, &[("a", 4)]);
    let chunker = chunking(&server, &report);
    let pinned = start(&server, folder.path(), "pinned", "--partitions 1");
    shared(&server, &[("a", 3), ("pinned", 1)]);
    let b = start(&server, folder.path(), "b", "");
    wait_for("three to share", || {
        let places = places(&server, "folding");
        places.get("pinned") == Some(&1) && places.values().sum::<usize>() == 4 && places.len() == 3
    });
    pinned.kill();
    evenly(&server, "folding");
    all_verified(chunker, &report);
    a.stop().expect(0);
    b.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_bucket_workers_keep_what_they_have_and_say_so() {
    let Stage { server, folder, report } = stage();
    let (a, b) = (start(&server, folder.path(), "a", ""), start(&server, folder.path(), "b", ""));
    evenly(&server, "folding");
    let chunker = chunking(&server, &report);
    server.jetstream().await.delete_stream("KV_stream-sum-members").await.unwrap();
    wait_for("both to say so", || status(&server)["workers"].as_array().unwrap().len() == 2);
    let trouble = status(&server)["workers"][0]["trouble"].as_str().unwrap().to_owned();
    assert!(trouble.contains("stream-sum-members") && trouble.contains("partitions stay where they are"), "{trouble}");
    // Whoever starts without it folds everything, which is wasted and harms nobody.
    let c = start(&server, folder.path(), "c", "");
    wait_for("the third to fold everything", || places(&server, "folding").get("c") == Some(&4));
    assert_eq!((places(&server, "folding")["a"], places(&server, "folding")["b"]), (2, 2));
    all_verified(chunker, &report);
    Program::at(&server, "topology apply").run().expect(0);
    wait_for("all to share again", || {
        let places = places(&server, "folding");
        places.len() == 3 && places.values().sum::<usize>() == 4
    });
    assert!(status(&server)["workers"].as_array().unwrap().is_empty());
    for worker in [a, b, c] {
        worker.stop().expect(0);
    }
}

#[test]
fn a_member_that_hears_nobody_takes_over_and_shares_again_when_it_does() {
    let Stage { server, folder, report } = stage();
    let route = LossyRoute::to(&server, "$KV.");
    let a = start(&server, folder.path(), "a", "");
    shared(&server, &[("a", 4)]);
    let deaf = summer(&server, &folder.path().join("deaf"), "--worker deaf").args(&["--server", &route.url()]).spawn();
    shared(&server, &[("a", 2), ("deaf", 2)]);
    let chunker = chunking(&server, &report);
    route.lose(u64::MAX);
    // What it says is heard: the other gives way.
    shared(&server, &[("deaf", 4)]);
    let before = verified(&report);
    wait_for("finals meanwhile", || verified(&report) > before + 500);
    route.lose(0);
    shared(&server, &[("a", 2), ("deaf", 2)]);
    all_verified(chunker, &report);
    a.stop().expect(0);
    deaf.stop().expect(0);
}

#[test]
fn members_that_are_killed_again_and_again_lose_nothing_and_say_nothing_twice() {
    let Stage { server, folder, report } = stage();
    let names = ["a", "b", "c"];
    let mut members: Vec<Process> = names.iter().map(|name| start(&server, folder.path(), name, "")).collect();
    let chunker = chunking(&server, &report);
    let mut draws = rand::random::<u64>();
    for _ in 0..8 {
        let before = verified(&report);
        wait_for("some finals", || verified(&report) > before + 300);
        let (victim, pause) = ((draws % 3) as usize, Duration::from_millis(draws / 3 % 1500));
        draws = draws.rotate_left(13).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let killed = std::mem::replace(&mut members[victim], {
            std::thread::sleep(pause);
            start(&server, folder.path(), &format!("{}-{draws}", names[victim]), "")
        });
        killed.kill();
    }
    all_verified(chunker, &report);
    members.into_iter().for_each(|member| _ = member.stop().expect(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_starts_is_above_an_earlier_life_that_still_speaks() {
    let Stage { server, folder, report } = stage();
    // As a process of this name with a clock far ahead says it, which has stopped to fold.
    let of_life = |life, nonce| -> Vec<u8> {
        let said: Said<'_> = ((life, nonce), false, false, 0, vec![], vec![], vec![]);
        rmp_serde::to_vec(&said).unwrap()
    };
    let earlier = of_life(u64::MAX / 2, "earlier");
    let client = server.client().await;
    let speaks = async || {
        client.publish("$KV.stream-sum-members.a", earlier.clone().into()).await.unwrap();
        client.flush().await.unwrap();
    };
    let jetstream = server.jetstream().await;
    speaks().await;
    wait_until("its entry", async || {
        let bucket = jetstream.get_stream("KV_stream-sum-members").await.unwrap();
        (bucket.cached_info().state.messages == 1).then_some(())
    })
    .await;
    let mut a = start(&server, folder.path(), "a", "");
    shared(&server, &[("a", 4)]);
    let chunker = chunking(&server, &report);
    for _ in 0..3 {
        speaks().await;
        let before = verified(&report);
        wait_for("finals", || verified(&report) > before + 100);
        assert!(a.is_running(), "{}", a.stderr_so_far());
    }
    // A later one is another matter.
    client.publish("$KV.stream-sum-members.a", of_life(u64::MAX / 2 + 9, "later").into()).await.unwrap();
    let gone = a.wait_for(PATIENCE).expect(1);
    assert!(gone.sentence().contains("another process has started as the same worker"), "{}", gone.stderr);
    let again = start(&server, folder.path(), "a", "");
    all_verified(chunker, &report);
    again.stop().expect(0);
}
