//! Clocks that are set forward and back, under the server, a summer and a chunker that go on.

use crate::support::{PATIENCE, Program, Server, apply, count, parse_log, status, summer, wait_for, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use stream_sum::soak::clock::{Clock, ClockError};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;

/// A server's clock is set so far only, that what its streams hold does not expire, nor what the fold remembers.
const SET: [(&str, [i64; 6]); 3] = [
    ("server", [40 * MINUTE, -40 * MINUTE, 0, 1, -1, 20 * MINUTE]),
    ("summer", [30 * 24 * HOUR, -30 * 24 * HOUR, 0, 3, -3, HOUR]),
    ("chunker", [30 * 24 * HOUR, -30 * 24 * HOUR, 0, 3, -3, HOUR]),
];

/// How many finals there are, and the time of the last.
async fn finals(server: &Server) -> (u64, i64) {
    let sums = wait_until("sums", async || server.jetstream().await.get_stream("sums").await.ok()).await;
    let state = &sums.cached_info().state;
    (state.messages, state.last_timestamp.unix_timestamp())
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_s_clock_is_set_forward_or_back_nothing_is_lost_nothing_is_twice_and_nobody_is_taken_for_dead() {
    let server = Server::start();
    let clock = match Clock::of(server.pid()) {
        Ok(clock) => clock,
        Err(error @ (ClockError::NotHere | ClockError::NotAllowed(_))) => return eprintln!("left out: {error}"),
        Err(error) => panic!("{error}"),
    };
    apply(&server, 4);
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let start = |name: &str| summer(&server, &folder.path().join(name), &format!("--worker {name}")).spawn();
    let (a, b) = (start("a"), start("b"));
    let folding = || {
        let status = status(&server);
        let places = status["partitions"].as_array().unwrap().clone();
        let workers = places.iter().flat_map(|place| place["workers"].as_array().unwrap());
        workers.filter(|worker| worker["state"] == "folding").count()
    };
    wait_for("summers", || folding() == 4);
    let chunking = Program::at(&server, "chunker --rate 3000 --chunks 4 --report").arg(&report);
    let chunking = chunking.env("STREAM_SUM_CHUNKER__DEADLINE", "20s").spawn();
    chunking.wait_for_log("chunking", 1);
    let clocks = [clock, Clock::of(a.pid()).unwrap(), Clock::of(chunking.pid()).unwrap()];
    for ((whose, steps), clock) in SET.iter().zip(&clocks) {
        for off_by in steps {
            clock.is_off_by(*off_by).unwrap();
            let ((before, _), set) = (finals(&server).await, Instant::now());
            let what = format!("finals, with the clock of the {whose} off by {off_by} s");
            let at = wait_until(&what, async || {
                let (so_far, at) = finals(&server).await;
                (so_far > before + 400).then_some(at)
            });
            let off = at.await - now();
            println!("{whose}, off by {off_by} s: 400 finals after {} ms", set.elapsed().as_millis());
            // It has effect: what is stored has the server's time.
            let expected = if *whose == "server" { *off_by } else { SET[0].1[5] };
            assert!((off - expected).abs() < 30, "{what}: they are off by {off} s");
        }
    }
    // Its own log has the time that it takes it for.
    clocks[1].is_off_by(-10 * 24 * HOUR).unwrap();
    chunking.signal(Signal::SIGINT);
    chunking.wait_for(PATIENCE).expect(0);
    let report: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    for broken in ["missing", "mismatched", "duplicate", "unexpected", "late"] {
        assert_eq!(count(&report, broken), 0, "{broken}: {report}");
    }
    let (finals, _) = finals(&server).await;
    assert!(finals >= count(&report, "verified"), "{finals}: {report}");
    let logs = [a.stop().expect(0), b.stop().expect(0)].map(|ended| parse_log(&ended.stderr));
    let said = |entry: &&Value| entry["level"] == "WARN" || entry["level"] == "ERROR";
    let complaints: Vec<_> = logs.iter().flatten().filter(said).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    let day = |entry: &Value| entry["timestamp"].as_str().unwrap()[..10].to_owned();
    assert_ne!(logs[0].last().map(day), logs[1].last().map(day), "the clock of one is ten days back");
}
