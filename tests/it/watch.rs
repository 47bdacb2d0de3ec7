//! What can happen to finals between `sums` and the chunker.

use crate::ledger::{RUN, Verified, chunker, expected, finish, published, say};
use crate::lossy_route::LossyRoute;
use crate::support::{Process, Program, Server, apply, count, publish_raw, summer, wait_for, wait_until};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use stream_sum::sum::codec::encode_final;
use stream_sum::sum::stream_id::StreamId;

/// A chunker of `streams` streams behind a route.
fn chunker_behind(route: &LossyRoute, streams: u64, deadline: &str, report: &Path) -> Process {
    let arguments =
        format!("chunker --streams {streams} --chunks 2 --chunk-bytes 8 --seed 7 --id-prefix {RUN} --report");
    Program::new(&arguments)
        .arg(report)
        .env("STREAM_SUM_NATS__SERVERS", &route.url())
        .env("STREAM_SUM_CHUNKER__DEADLINE", deadline)
        .spawn()
}

/// Loses the first final that is delivered, says those of all streams, and waits for the chunker's end.
async fn lose_the_first(streams: u64, deadline: &str) -> Verified {
    let server = Server::start();
    apply(&server, 1);
    let jetstream = server.jetstream().await;
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let route = LossyRoute::to(&server, "sums.");
    let chunking = chunker_behind(&route, streams, deadline, &report);
    published(&jetstream, streams.try_into().unwrap()).await;
    route.lose(1);
    for n in 0..streams {
        say(&jetstream, StreamId::of_run(RUN, n), encode_final(&expected(n))).await;
    }
    wait_for("a final lost", || route.has_lost_them());
    let ended = chunking.wait_for(Duration::from_secs(20)).expect(0);
    let report = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    Verified { ended, report }
}

fn counts(report: &Value) -> [u64; 4] {
    ["verified", "late", "missing", "republished"].map(|field| count(report, field))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_that_is_lost_on_the_way_is_missed_when_the_next_one_comes() {
    let Verified { ended, report } = lose_the_first(3, "40s").await;
    assert_eq!(counts(&report), [3, 0, 0, 0], "{report}");
    assert!(ended.stderr.contains("delivery 2 came where 1 was next"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_final_that_is_lost_on_the_way_is_missed_by_asking() {
    let Verified { ended, report } = lose_the_first(1, "40s").await;
    assert_eq!(counts(&report), [1, 0, 0, 0], "{report}");
    assert!(ended.stderr.contains("nothing has come, though there is more"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_that_the_leader_shows_before_it_is_delivered_is_one_and_in_time() {
    // Twice the deadline is over before the watch misses it.
    let Verified { ended, report } = lose_the_first(1, "700ms").await;
    assert_eq!(counts(&report), [1, 0, 0, 0], "{report}: {}", ended.stderr);
    assert!(ended.stderr.contains("nothing has come, though there is more"), "{}", ended.stderr);
}

/// Publishes a message with headers that the client library can't read: it ends its connection over them.
fn publish_unreadable(server: &Server, subject: &str, payload: &[u8]) {
    publish_raw(server, subject, "NATS/1.0\r\nbad key: v\r\nno colon\r\n\r\n", payload);
}

fn lines(log: &[Value], message: &str) -> usize {
    log.iter().filter(|entry| entry["message"].as_str().is_some_and(|said| said.starts_with(message))).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_run_that_no_client_can_read_are_judged_like_others_and_hold_nobody_up() {
    let server = Server::start();
    apply(&server, 1);
    let jetstream = server.jetstream().await;
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let chunking = chunker(&server, 4, "40s", &report);
    published(&jetstream, 4).await;
    let stored = async |n| {
        let sums = jetstream.get_stream("sums").await.unwrap();
        wait_until("a message", async || (sums.get_info().await.ok()?.state.messages == n).then_some(())).await;
    };
    say(&jetstream, StreamId::of_run(RUN, 0), encode_final(&expected(0))).await;
    // One of nobody's, and one that is right but for its headers.
    publish_unreadable(&server, &format!("sums.{RUN}.x"), b"");
    stored(2).await;
    say(&jetstream, StreamId::of_run(RUN, 1), encode_final(&expected(1))).await;
    let id = StreamId::of_run(RUN, 2).to_string();
    publish_unreadable(&server, &format!("sums.{}.{}", &id[..8], &id[8..]), &encode_final(&expected(2)));
    stored(4).await;
    say(&jetstream, StreamId::of_run(RUN, 3), encode_final(&expected(3))).await;
    let Verified { ended, report } = finish(chunking, &report, 3);
    assert_eq!(counts(&report), [4, 0, 0, 0], "{report}: {}", ended.stderr);
    assert_eq!(count(&report, "unexpected"), 1, "{report}");
    let log = crate::support::parse_log(&ended.stderr);
    for message in ["lost the connection to NATS", "connected to NATS again", "watching the finals anew"] {
        assert!((1..=2).contains(&lines(&log, message)), "{message}: {}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_reconnects_is_one_line_each() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, folder.path(), "").spawn();
    summing.wait_for_log("opened the log", 1);
    publish_unreadable(&server, "chunks.0", b"junk");
    Program::at(&server, "chunker --streams 10 --chunks 3").run().expect(0);
    let ended = summing.stop().expect(0);
    let log = crate::support::parse_log(&ended.stderr);
    // The connection that the log is read on breaks more often.
    assert!(lines(&log, "opened the log") > 3, "{}", ended.stderr);
    for message in ["lost the connection to NATS", "connected to NATS again", "opening the log again"] {
        assert!((1..=2).contains(&lines(&log, message)), "{message}: {}", ended.stderr);
    }
}
