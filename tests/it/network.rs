//! Links that are slow, break, carry one way only, or nothing at all, between a server and a summer, or a chunker.

use crate::bad_link::{BadLink, Trouble};
use crate::support::{PATIENCE, Process, Program, Server, apply, count, status, summer, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long each trouble lasts.
const LASTS: Duration = Duration::from_secs(4);

/// A trouble is over that long after its end: finals come again.
const RECOVERS: Duration = Duration::from_secs(20);

const TROUBLES: [(&str, Trouble); 6] = [
    ("200 ms later, both ways", Trouble::Late(Duration::from_millis(200))),
    ("64 KiB a second", Trouble::Slow(64 << 10)),
    ("nothing passes, nothing is closed", Trouble::Cut),
    ("lost on the way to the server", Trouble::LostToServer),
    ("lost on the way from the server", Trouble::LostFromServer),
    ("closed, and refused", Trouble::Refused),
];

struct Run {
    server: Server,
    folder: TempDir,
    report: PathBuf,
}

fn run() -> Run {
    let server = Server::start();
    apply(&server, 2);
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    Run { server, folder, report }
}

fn chunker(url: &str, deadline: &str, report: &Path) -> Process {
    let chunker = Program::new("chunker --rate 3000 --chunks 4 --report").arg(report);
    let chunker = chunker.env("STREAM_SUM_NATS__SERVERS", url).env("STREAM_SUM_CHUNKER__DEADLINE", deadline).spawn();
    chunker.wait_for_log("chunking", 1);
    chunker
}

fn verified(report: &Path) -> u64 {
    let report = fs::read(report).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    report.map_or(0, |report| count(&report, "verified"))
}

/// Has each trouble on a link, one after the other, and sees that it had effect, and that the run goes on after it. A table of it.
fn go_through(whose: &str, link: &BadLink, report: &Path) {
    wait_for("finals", || verified(report) > 200);
    for (name, trouble) in TROUBLES {
        link.take_effects();
        link.has(trouble);
        if trouble == Trouble::Refused {
            link.break_all();
        }
        sleep(LASTS);
        link.has(Trouble::None);
        has_recovered(whose, name, link, report);
    }
    for (name, ends) in
        [("closed every 300 ms", BadLink::break_all as fn(&BadLink)), ("reset every 300 ms", BadLink::reset_all)]
    {
        link.take_effects();
        let until = Instant::now() + LASTS;
        while Instant::now() < until {
            ends(link);
            sleep(Duration::from_millis(300));
        }
        has_recovered(whose, name, link, report);
    }
}

/// Sees that a trouble that is over had effect, and that finals come again.
fn has_recovered(whose: &str, name: &str, link: &BadLink, report: &Path) {
    let (effects, healed, before) = (link.take_effects(), Instant::now(), verified(report));
    assert!(effects > 0, "{whose}: {name}");
    wait_for(name, || verified(report) > before + 100);
    let took = healed.elapsed();
    println!("{whose}, {name}: {effects} effects, finals came again after {} ms", took.as_millis());
    assert!(took < RECOVERS, "{whose}: {name}: {took:?}");
}

/// Stops the chunker, and sees that its streams have got their one final, in time.
fn all_verified(chunker: Process, report: &Path) {
    chunker.signal(Signal::SIGINT);
    chunker.wait_for(PATIENCE).expect(0);
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    for broken in ["missing", "mismatched", "duplicate", "unexpected", "late"] {
        assert_eq!(count(&report, broken), 0, "{broken}: {report}");
    }
}

#[test]
fn whatever_the_link_of_a_summer_does_every_stream_gets_its_one_final() {
    let Run { server, folder, report } = run();
    let link = BadLink::to(&server);
    let data = folder.path().join("data");
    let summing = summer(&server, &data, "--worker a").args(&["--server", &link.url()]).spawn();
    let chunking = chunker(&server.url(), "2m", &report);
    go_through("summer", &link, &report);
    all_verified(chunking, &report);
    summing.stop().expect(0);
}

#[test]
fn whatever_the_link_of_a_chunker_does_nothing_is_called_late_or_missing_that_it_could_not_see() {
    let Run { server, folder, report } = run();
    let link = BadLink::to(&server);
    let summing = summer(&server, &folder.path().join("data"), "--worker a").spawn();
    // Each trouble lasts longer than that.
    let chunking = chunker(&link.url(), "3s", &report);
    go_through("chunker", &link, &report);
    all_verified(chunking, &report);
    summing.stop().expect(0);
}

#[test]
fn a_summer_that_is_cut_off_is_replaced_and_goes_on_once_it_is_back() {
    let Run { server, folder, report } = run();
    let link = BadLink::to(&server);
    let cut_off = summer(&server, &folder.path().join("a"), "--worker a").args(&["--server", &link.url()]).spawn();
    let other = summer(&server, &folder.path().join("b"), "--worker b").spawn();
    let folding = |worker: &str| {
        let status = status(&server);
        let places =
            status["partitions"].as_array().unwrap().iter().flat_map(|place| place["workers"].as_array().unwrap());
        places.filter(|found| found["worker"] == worker && found["state"] == "folding").count()
    };
    wait_for("a partition each", || (folding("a"), folding("b")) == (1, 1));
    let chunking = chunker(&server.url(), "40s", &report);
    wait_for("finals", || verified(&report) > 200);
    link.has(Trouble::Cut);
    wait_for("the other to take over", || folding("b") == 2);
    let before = verified(&report);
    wait_for("finals", || verified(&report) > before + 200);
    assert!(link.take_effects() > 0, "it is cut off");
    link.has(Trouble::None);
    wait_for("a partition each again", || (folding("a"), folding("b")) == (1, 1));
    all_verified(chunking, &report);
    cut_off.stop().expect(0);
    other.stop().expect(0);
}
