//! What processes tell by HTTP: metrics, whether they are ready, and what alerts make of faults.

mod promql;

use crate::support::{Process, Program, Server, apply, batch, id_in, status, summer, wait_for};
use jetfold::metrics::{ALL, Kind};
use promql::{Labels, Scrape, firing};
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use stream_sum::web::ledger;

/// Status and content of what a process answers.
fn get(address: &str, path: &str) -> (u16, String) {
    let mut connection = TcpStream::connect(address).unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(connection, "GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let (head, content) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), content.to_owned())
}

/// Where a process answers.
fn address(process: &Process) -> String {
    process.wait_for_log("answering by HTTP", 1);
    let log = process.log();
    let said = log.iter().find(|entry| entry["message"] == "answering by HTTP").unwrap();
    said["address"].as_str().unwrap().to_owned()
}

fn scrape(address: &str) -> Scrape {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let (status, text) = get(address, "/metrics");
    assert_eq!(status, 200);
    Scrape::parse(&text, now)
}

fn watched(server: &Server, folder: &Path) -> (Process, String) {
    let summing = summer(server, folder, "--worker a --http 127.0.0.1:0").spawn();
    let address = address(&summing);
    (summing, address)
}

/// The expression of an alert, as the file has it.
fn alert(name: &str) -> String {
    alerts().into_iter().find(|(alert, _)| alert == name).unwrap_or_else(|| panic!("no alert {name}")).1
}

fn alerts() -> Vec<(String, String)> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/alerts.yml")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let mut found: Vec<(String, String)> = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        if let Some(name) = line.trim().strip_prefix("- alert: ") {
            found.push((name.to_owned(), String::new()));
        } else if let Some(expression) = line.trim().strip_prefix("expr: ") {
            let whole = if expression == ">-" { lines[n + 1].trim() } else { expression };
            found.last_mut().unwrap().1 = whole.to_owned();
        }
    }
    found
}

fn of(labels: &[(&str, &str)]) -> Labels {
    labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn alerts_and_dashboard_use_the_names_that_are_measured_and_no_others() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let known: BTreeSet<String> = ALL.iter().chain(ledger::ALL).map(|metric| metric.name.to_owned()).collect();
    let histograms: Vec<&str> =
        ALL.iter().filter(|metric| metric.kind == Kind::Histogram).map(|metric| metric.name).collect();
    let mut used = BTreeSet::new();
    for file in ["alerts.yml", "grafana.json"] {
        let text = fs::read_to_string(config.join(file)).unwrap();
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        for word in words.filter(|word| word.starts_with("jetfold_") || word.starts_with("stream_sum_")) {
            let of_histogram =
                histograms.iter().find(|name| word.strip_prefix(**name).is_some_and(|part| part == "_bucket"));
            let name = of_histogram.map_or(word, |name| name);
            assert!(known.contains(name), "{file} uses {word}, which nobody measures");
            used.insert(name.to_owned());
        }
    }
    // What is measured and shown nowhere is listed: whoever adds one decides.
    let unused: Vec<_> = known.difference(&used).map(String::as_str).collect();
    let elsewhere = [
        "jetfold_batches_total",
        "jetfold_commits_total",
        "jetfold_position",
        "stream_sum_away_seconds_total",
        "stream_sum_bytes_total",
    ];
    assert_eq!(unused, elsewhere);
    let runbook = fs::read_to_string(config.join("../docs/runbook.md")).unwrap();
    for (alert, _) in alerts() {
        assert!(runbook.contains(&format!("\n## {alert}\n")), "the runbook says nothing of {alert}");
    }
    // What it names as the walk of a section is there.
    let tests = fs::read_dir(config.join("../tests/it")).unwrap().map(|entry| entry.unwrap().path());
    let nested = ["verdicts", "publisher", "secure"].map(|folder| config.join("../tests/it").join(folder));
    let nested = nested.iter().flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    let sources: String = tests.chain(nested).filter_map(|path| fs::read_to_string(path).ok()).collect();
    let named = runbook.split('`').filter(|word| word.contains("::"));
    for (module, test) in named.filter_map(|word| word.split_once("::")) {
        let is_there = if test == "*" { format!("mod {module};") } else { format!("fn {test}(") };
        assert!(sources.contains(&is_there), "the runbook names {module}::{test}");
    }
    assert!(alerts().len() >= 9 && alerts().iter().all(|(_, expression)| !expression.is_empty()), "{:?}", alerts());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_summer_measures_what_it_does_and_says_whether_it_is_ready() {
    let mut server = Server::start();
    apply(&server, 2);
    let folder = tempfile::tempdir().unwrap();
    let (summing, address) = watched(&server, folder.path());
    assert_eq!(get(&address, "/healthz"), (200, "alive\n".to_owned()));
    wait_for("ready", || get(&address, "/readyz") == (200, "ready\n".to_owned()));
    Program::at(&server, "chunker --streams 300 --chunks 4").run().expect(0);
    let junk = server.jetstream().await;
    junk.publish("chunks.0", "junk".into()).await.unwrap().await.unwrap();
    // The last commit comes a moment after the last final.
    wait_for("all of it committed", || {
        let told = scrape(&address);
        let sum =
            |name: &str| told.samples.iter().filter(|(named, _, _)| named == name).map(|(_, _, n)| n).sum::<f64>();
        sum("jetfold_records_total") == 1500.0 && sum("jetfold_lag_batches") == 0.0
    });
    let told = scrape(&address);
    let at = |partition| [("worker", "a"), ("partition", partition)];
    for partition in status(&server)["partitions"].as_array().unwrap() {
        let at = at(if partition["partition"] == 0 { "0" } else { "1" });
        assert_eq!(told.value("jetfold_position", &at), partition["position"].as_f64());
        assert_eq!(told.value("jetfold_lag_seconds", &at), Some(0.0));
        assert_eq!(told.value("jetfold_live_rows", &at), Some(0.0));
        assert!(told.value("jetfold_commit_age_seconds", &at).unwrap() < 60.0);
        assert!(told.value("jetfold_store_bytes", &at).unwrap() > 0.0);
        assert_eq!(told.value("jetfold_partition_state", &[&at[..], &[("state", "folding")]].concat()), Some(1.0));
    }
    let total = |name: &str, labels: &[(&str, &str)]| {
        ["0", "1"].iter().filter_map(|n| told.value(name, &[&at(n)[..], labels].concat())).sum::<f64>()
    };
    assert_eq!(total("jetfold_outputs_total", &[("how", "published")]), 300.0);
    assert_eq!(total("jetfold_application_total", &[("count", "completed")]), 300.0);
    assert_eq!(total("jetfold_application_total", &[("count", "bytes")]), 300.0 * 4.0 * 32.0);
    // Once, or once more if its log was opened again.
    assert!(total("jetfold_rejects_total", &[("reason", "undecodable")]) >= 1.0);
    assert_eq!(total("jetfold_commits_total", &[]), total("jetfold_commit_duration_seconds_count", &[]));
    assert_eq!(told.value("jetfold_connects_total", &[("worker", "a")]), Some(1.0));
    for series in &told.samples {
        let key = series.1.values().find(|value| value.len() > 24);
        assert_eq!(key, None, "{series:?} has a label that is no word of a short list");
    }
    server.stop(nix::sys::signal::Signal::SIGKILL);
    wait_for("not ready", || get(&address, "/readyz") == (503, "the connection to NATS is lost\n".to_owned()));
    assert_eq!(get(&address, "/healthz").0, 200, "that is no reason to be restarted");
    server.start_again();
    wait_for("ready again", || get(&address, "/readyz").0 == 200);
    assert!(scrape(&address).value("jetfold_connects_total", &[("worker", "a")]) >= Some(2.0));
    summing.stop().expect(0);
}

#[test]
fn a_summer_is_not_ready_before_it_folds_what_it_is_to_fold() {
    let server = Server::start();
    apply(&server, 4);
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        // The first takes all; another one follows at first.
        let summing =
            summer(&server, &folder.path().join(name), &format!("--worker {name} --http 127.0.0.1:0")).spawn();
        let address = address(&summing);
        let mut before = Vec::new();
        wait_for("ready", || {
            before.push(get(&address, "/readyz"));
            before.last().unwrap().0 == 200
        });
        let held =
            scrape(&address).samples.into_iter().filter(|(name, _, n)| name == "jetfold_partition_state" && *n == 1.0);
        assert!(held.count() > 0, "{name} is ready and holds nothing: {before:?}");
        for _ in 0..100 {
            assert_eq!(get(&address, "/readyz").0, 200, "{name} was ready before, after {before:?}");
        }
        summing.stop().expect(0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_alert_about_a_worker_fires_at_its_fault_and_not_before() {
    let server = Server::start();
    apply(&server, 2);
    let jetstream = server.jetstream().await;
    let folder = tempfile::tempdir().unwrap();
    let (summing, address) = watched(&server, folder.path());
    wait_for("ready", || get(&address, "/readyz").0 == 200);
    Program::at(&server, "chunker --streams 50 --chunks 2").run().expect(0);
    let sound = scrape(&address);
    for (name, expression) in alerts() {
        assert_eq!(firing(&expression, &sound, &sound), [], "{name} fires where nothing is wrong");
    }
    let fires = |name: &str, told: &Scrape| firing(&alert(name), told, &sound);

    // The first reject of a reason has no number before it.
    let id = id_in(0, 2, 8, 0);
    let hex = id.to_string();
    let subject = format!("sums.{}.{}", &hex[..8], &hex[8..]);
    jetstream.publish(subject, "something else".into()).await.unwrap().await.unwrap();
    jetstream.publish("chunks.0", "junk".into()).await.unwrap().await.unwrap();
    jetstream.publish("chunks.0", batch(&[(id, 1, b"a"), (id, 2, b"")]).into()).await.unwrap().await.unwrap();
    wait_for("a conflicting final", || !fires("ConflictingFinal", &scrape(&address)).is_empty());
    assert_eq!(fires("Rejects", &scrape(&address)), [(of(&[("reason", "undecodable")]), 1.0)]);
    let again = scrape(&address);
    jetstream.publish("chunks.0", "junk".into()).await.unwrap().await.unwrap();
    wait_for("a second reject", || !firing(&alert("Rejects"), &scrape(&address), &again).is_empty());

    wait_for("a commit", || scrape(&address).value("jetfold_position", &[("partition", "0")]) > Some(0.0));
    jetstream.delete_stream("chunks-0").await.unwrap();
    apply(&server, 2);
    jetstream.publish("chunks.0", "junk".into()).await.unwrap().await.unwrap();
    let replaced = of(&[("partition", "0"), ("verdict", "LogReplaced")]);
    wait_for("a refused log", || fires("LogRefused", &scrape(&address)) == [(replaced.clone(), 1.0)]);
    assert_eq!(fires("NotFolded", &scrape(&address)), [(of(&[("partition", "0")]), 0.0)]);
    let (code, why) = get(&address, "/readyz");
    assert!(code == 503 && why.contains("partition 0: refused since ") && why.contains("LogReplaced"), "{why}");

    // What is told of time only: as it would be told hours later, or of a log that holds older batches.
    let mut later = scrape(&address);
    later.samples.push(("jetfold_snapshot_timestamp_seconds".to_owned(), of(&[("partition", "1")]), later.at));
    assert_eq!(fires("NoSnapshot", &later), []);
    later.at += 7300.0;
    assert_eq!(fires("NoSnapshot", &later).len(), 1);
    for (name, _, value) in later.samples.iter_mut().filter(|(name, _, _)| name.starts_with("jetfold_")) {
        match name.as_str() {
            "jetfold_lag_seconds" => *value = 61.0,
            "jetfold_connects_total" => *value += 4.0,
            _ => {}
        }
    }
    assert!(!fires("FallingBehind", &later).is_empty() && !fires("ConnectionFlaps", &later).is_empty());
    // All that it is told to stop with is a refusal.
    summing.stop().expect(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_alert_about_a_run_fires_at_its_fault_and_not_before() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, folder.path(), "").spawn();
    let chunking =
        Program::at(&server, "chunker --rate 500 --chunks 2 --id-prefix 0badcafe --http 127.0.0.1:0").spawn();
    let address = address(&chunking);
    let verified = [("fate", "verified")];
    wait_for("finals", || scrape(&address).value("stream_sum_streams_ended_total", &verified) > Some(100.0));
    let sound = scrape(&address);
    for name in ["GuaranteeBroken", "LogTakesNothing"] {
        assert_eq!(firing(&alert(name), &sound, &sound), [], "{name} fires where nothing is wrong");
    }
    // A final of a stream that this run has not opened.
    let nobody = format!("sums.0badcafe.{}", "f".repeat(24));
    server.jetstream().await.publish(nobody, "of nobody".into()).await.unwrap().await.unwrap();
    let unexpected = of(&[("fate", "unexpected")]);
    wait_for("a broken guarantee", || {
        firing(&alert("GuaranteeBroken"), &scrape(&address), &sound) == [(unexpected.clone(), 1.0)]
    });
    server.jetstream().await.delete_stream("chunks-0").await.unwrap();
    wait_for("a log that takes nothing", || !firing(&alert("LogTakesNothing"), &scrape(&address), &sound).is_empty());
    let (status, page) = get(&address, "/");
    assert!(status == 200 && page.starts_with("<!doctype html>"));
    chunking.kill();
    summing.kill();
}

#[test]
fn an_address_that_is_taken_or_none_is_one_sentence() {
    let server = Server::start();
    apply(&server, 1);
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    for (address, why) in [(taken.as_str(), "in use"), ("nowhere", "invalid")] {
        let ended = summer(&server, folder.path(), &format!("--http {address}")).run().expect(1);
        let said = ended.sentence().to_owned();
        assert!(said.contains(address) && said.to_lowercase().contains(why) && said.contains("--http"), "{said}");
    }
}
