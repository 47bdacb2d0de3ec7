//! Soaks: a verdict that can be relied on, a report that is whole, and nothing left behind.

use crate::support::{Ended, Program, Server, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn soak(folder: &Path, arguments: &str) -> Program {
    Program::new(&format!("soak {arguments}")).current_dir(folder)
}

fn report(folder: &TempDir, name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.path().join(name)).unwrap()).unwrap()
}

/// Of a soak that went well, its report.
fn kept(ended: Ended, folder: &TempDir) -> Value {
    let ended = ended.expect(0);
    assert!(ended.stdout().starts_with("KEPT\n  Every one of "), "{}", ended.stdout());
    let report = report(folder, "soak.json");
    assert_eq!(report["verdict"]["word"], "kept");
    assert!(report["ledger"]["verified"].as_u64().unwrap() > 500, "{}", report["ledger"]);
    assert_eq!(report["ledger"]["unknown"], 0);
    report
}

#[test]
fn a_soak_of_ones_own_injects_what_it_says_keeps_its_word_and_can_be_had_again() {
    let folder = tempfile::tempdir().unwrap();
    let faults = "summer-kill,server-kill,server-cut,summer-lost-disk";
    let flags = format!("--duration 36s --rate 2000 --seed 5 --faults {faults}");
    let told = kept(soak(folder.path(), &flags).run(), &folder);
    let injected = told["faults"].as_array().unwrap();
    assert!(injected.len() >= 3, "{injected:?}");
    for fault in injected {
        assert_eq!(fault["had_effect"], true, "{fault}");
        assert!(fault["until"].as_f64().unwrap() >= fault["at"].as_f64().unwrap());
    }
    assert!(told["samples"].as_array().unwrap().len() >= 30);
    assert!(told["baseline_ms"]["p50"].as_f64().unwrap() > 0.0, "messages went past the workers too");
    assert!(told["streams"].as_array().unwrap().len() > 500);
    let command = told["command"].as_str().unwrap();
    assert!(command.starts_with("stream-sum soak --duration 36s") && command.contains("--seed 5"), "{command}");
    let page = fs::read_to_string(folder.path().join("soak.html")).unwrap();
    assert!(page.contains(&told["started"].as_str().unwrap().to_owned()) && !page.contains("RUN_GOES_HERE"));

    // Its faults come once more, and both are shown side by side.
    fs::copy(folder.path().join("soak.json"), folder.path().join("a.json")).unwrap();
    let again = kept(soak(folder.path(), "--duration 18s --rate 2000 --plan a.json").run(), &folder);
    assert_eq!(again["plan"], told["plan"]);
    assert_eq!(again["faults"][0]["kind"], told["faults"][0]["kind"]);
    let beside = Program::new("soak compare a.json soak.json").current_dir(folder.path()).run().expect(0);
    assert_eq!(beside.stdout(), "compare.html\n");
    assert!(fs::read_to_string(folder.path().join("compare.html")).unwrap().contains("\"seed\":5"));
}

#[test]
fn a_bound_that_is_not_kept_is_broken_with_whose_doing_that_is() {
    let folder = tempfile::tempdir().unwrap();
    let ended = soak(folder.path(), "--duration 6s --rate 1000 --faults none --max-p99 1us").run().expect(3);
    assert!(ended.stdout().starts_with("BROKEN\n"), "{}", ended.stdout());
    assert!(ended.stdout().contains("BROKEN, max-p99: ") && ended.stdout().contains("doing."), "{}", ended.stdout());
    let told = report(&folder, "soak.json");
    assert_eq!(
        (&told["verdict"]["word"], &told["verdict"]["broken"][0]["what"]),
        (&"broken".into(), &"max-p99".into())
    );
}

#[test]
fn a_server_that_forgets_is_found_and_its_doing_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let flags = "--duration 24s --rate 2000 --deadline 3s --faults server-forgets";
    let ended = soak(folder.path(), flags).run().expect(3);
    let said = ended.stdout();
    assert!(said.starts_with("BROKEN\n") && said.contains("This is the servers' doing."), "{said}");
    assert!(said.contains("JetStream was found"), "{said}");
    let told = report(&folder, "soak.json");
    let forgot = told["forgot"].as_array().unwrap();
    assert!(forgot.iter().any(|found| found["verdict"] == "LogDiverged" || found["verdict"] == "SumsForgot"), "{told}");
    assert!(told["faults"][0]["effect"].as_str().unwrap().contains("put back"), "{}", told["faults"][0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_somebody_s_server_it_does_harm_to_its_own_processes_alone_and_leaves_nothing_behind() {
    let server = Server::start();
    let jetstream = server.jetstream().await;
    let theirs = async_nats::jetstream::stream::Config { name: "theirs".to_owned(), ..Default::default() };
    jetstream.create_stream(theirs).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let told = kept(soak(folder.path(), "--duration 14s --rate 1000").with_server(&server).run(), &folder);
    let kinds: Vec<_> = told["faults"].as_array().unwrap().iter().map(|fault| fault["kind"].clone()).collect();
    assert!(!kinds.is_empty() && kinds.iter().all(|kind| kind.as_str().unwrap().starts_with("summer-")), "{kinds:?}");
    let not_tested = told["not_tested"].to_string();
    assert!(not_tested.contains("server-kill: the servers are not this run's own"), "{not_tested}");
    assert!(not_tested.contains("purge: it changes what the servers hold: --allow purge"), "{not_tested}");
    let mut names: Vec<String> = Vec::new();
    let mut streams = jetstream.stream_names();
    while let Some(name) = futures_util::StreamExt::next(&mut streams).await {
        names.push(name.unwrap());
    }
    assert_eq!(names, ["theirs"]);
}

#[test]
fn a_killed_soak_has_written_what_was_known_and_leaves_no_process_behind() {
    let folder = tempfile::tempdir().unwrap();
    let soaking = soak(folder.path(), "--duration 60s --rate 1000 --faults none --data-dir data").spawn();
    wait_for("a report with finals", || {
        let text = fs::read_to_string(folder.path().join("soak.json")).unwrap_or_default();
        let told: Value = serde_json::from_str(&text).unwrap_or_default();
        told["ledger"]["verified"].as_u64().is_some_and(|verified| verified > 100)
    });
    soaking.signal(Signal::SIGKILL);
    let told = report(&folder, "soak.json");
    assert_eq!((&told["verdict"]["word"], &told["ended"]), (&"running".into(), &Value::Null));
    // The keeper has seen to it: whoever had the folder of a store has it no more.
    wait_for("all to be gone", || {
        let log = folder.path().join("data/n1/lock");
        fs::File::open(log).is_ok_and(|lock| lock.try_lock().is_ok())
    });
}

#[test]
fn what_can_not_be_soaked_so_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("plan.json"), r#"{"faults":[{"fault":"purge","at_s":-1,"for_s":2,"target":1}]}"#)
        .unwrap();
    fs::write(folder.path().join("other.json"), "{}").unwrap();
    for (arguments, said) in [
        ("--plan none.json", "the plan none.json can't be read"),
        ("--plan plan.json", "the plan plan.json is not taken: fault 1 of the plan, purge, comes at -1 s"),
        ("--faults quorum-gone", "quorum-gone can't be injected here: there is one server: --nodes 3"),
        ("--faults flood", "no fault is called so: summer-kill"),
        ("--nodes 2", "1 or 3"),
        ("--sync-interval never", "a time as 2m, or always"),
        ("compare other.json other.json", "it has no verdict"),
    ] {
        let ended = soak(folder.path(), arguments).run().expect(2);
        assert!(ended.stderr.contains(said), "{arguments}: {}", ended.stderr);
    }
    let nowhere = soak(folder.path(), "--duration 1s --report none/soak.json").run().expect(1);
    assert!(nowhere.sentence().contains("the report none/soak.json can't be written"), "{}", nowhere.stderr);
}
