//! Bad input and trouble: one sentence that says what and what to do, the right exit code, and no secret.

mod connecting;

use crate::support::{Ended, PATIENCE, Program, Server, apply, summer};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::Command;

/// Asserts the exit code, and that the one sentence says each of `says`.
#[track_caller]
fn check(ended: Ended, code: i32, says: &[&str]) {
    let ended = ended.expect(code);
    for what in says {
        assert!(ended.sentence().contains(what), "{what}: {}", ended.sentence());
    }
    assert_eq!(ended.stdout(), "");
}

#[test]
fn no_server() {
    let folder = tempfile::tempdir().unwrap();
    for command in [
        "topology apply",
        "topology show",
        "summer",
        "chunker --streams 1",
        "sum -",
        "get 000102030405060708090a0b0c0d0e0f",
    ] {
        let ended = Program::new(command)
            .args(&["--server", "nats://me:s3cret@127.0.0.1:9"])
            .env("STREAM_SUM_NATS__STARTUP_TIMEOUT", "500ms")
            .current_dir(folder.path())
            .run();
        assert!(!ended.stderr.contains("s3cret"), "{}", ended.stderr);
        check(ended, 1, &["no NATS server answers at nats://[redacted]@127.0.0.1:9 within 500ms", "--server"]);
    }
    let ended = Program::new("topology show")
        .env("NATS_URL", "nats://127.0.0.1:9")
        .env("STREAM_SUM_NATS__STARTUP_TIMEOUT", "300ms")
        .run();
    check(ended, 1, &["nats://127.0.0.1:9"]);
    check(Program::new("topology show --server nats://me:s3cret@[bad").run(), 2, &["[redacted]", "nats://host:port"]);
}

#[test]
fn a_server_that_is_too_old() {
    // As an old server introduces itself; none that old can be had any more.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut writing = stream.try_clone().unwrap();
        let info = r#"{"server_id":"old","version":"2.9.25","proto":1,"headers":true,"max_payload":1048576}"#;
        write!(writing, "INFO {info}\r\n").unwrap();
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if line.starts_with("PING") {
                writing.write_all(b"PONG\r\n").unwrap();
            }
        }
    });
    let ended = Program::new("topology show --server").arg(format!("127.0.0.1:{port}")).run();
    check(ended, 2, &["nats-server 2.9.25", "is too old: stream-sum needs 2.10"]);
}

#[test]
fn a_topology_that_is_missing_or_disagrees() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    for command in ["summer", "chunker --streams 1", "sum -", "topology show"] {
        let ended = Program::at(&server, command).current_dir(folder.path()).run();
        check(ended, 2, &["there is no stream chunks-0", "stream-sum topology apply"]);
    }
    apply(&server, 4);
    for command in ["summer", "chunker --streams 1", "sum -"] {
        let ended =
            Program::at(&server, command).env("STREAM_SUM_TOPOLOGY__PARTITIONS", "8").current_dir(folder.path()).run();
        check(ended, 2, &["topology.partitions is 8 here, but 4 in the log chunks-0", "set it to 4"]);
    }
    let ended = Program::at(&server, "chunker --streams 1").env("STREAM_SUM_TOPOLOGY__IDLE_EXPIRY", "2h").run();
    check(ended, 2, &["topology.idle_expiry is 2h here, but 1h in the log chunks-0"]);
    check(Program::at(&server, "summer --partitions 2-4").run(), 2, &["partition 4 is none of the 4"]);
    check(Program::at(&server, "chunker --chunk-bytes 600000").run(), 2, &["chunker.chunk_bytes is 600000"]);
    for partitions in [2, 8] {
        let ended = Program::at(&server, &format!("topology apply --partitions {partitions}")).run();
        check(ended, 2, &["topology.partitions", &format!("{partitions} here, but 4 in the log")]);
    }
}

#[test]
fn a_server_that_can_not_carry_it() {
    let small = Server::with_config("max_payload: 256KB\n");
    check(Program::at(&small, "topology apply").run(), 2, &["max_payload of the NATS server", "640KiB"]);
    let without = Server::with_config("jetstream: disabled\n");
    let ended = Program::at(&without, "topology apply").env("STREAM_SUM_NATS__STARTUP_TIMEOUT", "1s").run();
    check(ended, 1, &["JetStream", "enabled"]);
    let tiny = Server::with_config("jetstream { max_file_store: 64MB }\n");
    check(Program::at(&tiny, "topology apply").run(), 1, &["no room for the stream chunks-0, which reserves 1GiB"]);
}

#[test]
fn a_full_log_is_named() {
    let server = Server::start();
    Program::at(&server, "topology apply --partitions 1")
        .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "2MiB")
        .run()
        .expect(0);
    let ended = Program::at(&server, "chunker --streams 100 --chunk-bytes 1024")
        .env("STREAM_SUM_CHUNKER__DEADLINE", "2s")
        .run();
    let ended = ended.expect(1);
    for what in ["the log chunks-0 has been full for 2s", "topology.log_max_bytes"] {
        assert!(ended.sentence().contains(what), "{}", ended.stderr);
    }
    assert!(ended.stdout().contains("unfinished"), "it ends with its ledger all the same: {}", ended.stdout());
}

#[test]
fn a_data_folder_that_can_not_be_used() {
    let server = Server::start();
    apply(&server, 1);
    check(
        Program::at(&server, "summer --data-dir /dev/null/data").run(),
        1,
        &["the data folder /dev/null/data can", "--data-dir"],
    );
    let folder = tempfile::tempdir().unwrap();
    let first = summer(&server, folder.path(), "").spawn();
    first.wait_for_log("opened the log", 1);
    check(summer(&server, folder.path(), "").run(), 1, &["is in use by another process", "--data-dir"]);
    first.stop().expect(0);
    let other = Server::start();
    Program::at(&other, "topology apply --partitions 2").run().expect(0);
    check(summer(&other, folder.path(), "").run(), 2, &["belongs to partition 0 of 1", "not to partition 0 of 2"]);
}

#[test]
fn configuration() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stream-sum.toml");
    let with = |text: &str| {
        fs::write(&file, text).unwrap();
        Program::new("config --config").arg(&file)
    };
    check(with("[chunker]\nrte = 5\n").run(), 2, &["there is no configuration key chunker.rte", "stream-sum.toml"]);
    check(with("[chunker]\nrate = \"s3cret\"\n").run(), 2, &["the value of chunker.rate", "whole number"]);
    check(with("[chunker\n").run(), 2, &["is no TOML: line 1"]);
    check(
        with("").env("STREAM_SUM_CHUNKER__DEADLINE", "soon").run(),
        2,
        &["STREAM_SUM_CHUNKER__DEADLINE", "a duration such as"],
    );
    check(with("[summer]\ndead_after = \"1s\"\n").run(), 2, &["summer.dead_after", "2s at least"]);
    check(with("[summer]\nstandby = 2\n").run(), 2, &["summer.standby", "0 or 1"]);
    check(with("").env("STREAM_SUM_CHUNKR__RATE", "1").run(), 2, &["there is no configuration key chunkr"]);
    check(Program::new("config --config /nowhere.toml").run(), 2, &["/nowhere.toml can't be read", "--config"]);
    check(Program::new("summer --worker a.b").run(), 2, &["summer.worker", "A-Z a-z 0-9"]);
    check(Program::new("summer --partitions 3-1").run(), 2, &["summer.partitions", "a list of partitions"]);
    check(Program::new("chunker --rate fast").run(), 2, &["chunker.rate", "the command line"]);
    check(Program::new("chunker --workers 512").run(), 2, &["chunker.workers", "from 1 to 256"]);
    for level in ["warning", "loud"] {
        check(with("").env("STREAM_SUM_LOG__LEVEL", level).run(), 2, &["log.level", "error, warn, info"]);
    }
    check(with("").env_bytes("STREAM_SUM_NATS__PASSWORD", b"\xff").run(), 2, &["STREAM_SUM_NATS__PASSWORD", "UTF-8"]);
    let forever = with("").env("STREAM_SUM_NATS__STARTUP_TIMEOUT", "500000000000y").run();
    check(forever, 2, &["nats.startup_timeout", "ten years"]);

    for secrets in ["servers = [\"nats://me:s3cret@a\"]", "servers = [\"nats://a\"]\ntoken = \"s3cret\""] {
        let shown = with(&format!("[nats]\n{secrets}\n")).run().expect(0);
        assert!(!shown.stdout().contains("s3cret") && shown.stdout().contains("[redacted]"), "{}", shown.stdout());
        // What is shown is a configuration.
        let again = with(&shown.stdout()).run().expect(0);
        assert_eq!(again.stdout(), shown.stdout());
    }
}

#[test]
fn usage() {
    for arguments in
        ["", "nonsense", "sum --nonsense", "get", "get 00", "chunker --seed x", "chunker --id-prefix 12", "topology"]
    {
        let ended = Program::new(arguments).run();
        assert_eq!(ended.code(), 2, "{arguments}: {}", ended.stderr);
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    }
    assert!(Program::new("--help").run().expect(0).stdout().contains("chunker"));
}

#[test]
fn a_report_that_can_not_be_written_is_refused_before_the_run() {
    check(Program::new("chunker --report /nowhere/report.json").run(), 1, &["the report /nowhere/report.json"]);
}

#[test]
fn a_final_that_is_not_there() {
    let server = Server::start();
    let get = || Program::at(&server, "get 000102030405060708090a0b0c0d0e0f").run();
    check(get(), 2, &["there is no stream sums", "stream-sum topology apply"]);
    apply(&server, 1);
    check(get(), 1, &["there is no final of stream 000102030405060708090a0b0c0d0e0f"]);
}

#[test]
fn a_gap_under_halt_stops_the_worker_before_it() {
    let server = Server::start();
    apply(&server, 1);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let jetstream = server.jetstream().await;
        let id = crate::support::id_in(0, 1, 9, 0);
        for seq_no in [1, 3] {
            let payload = crate::support::batch(&[(id, seq_no, b"a")]);
            jetstream.publish("chunks.0", payload.into()).await.unwrap().await.unwrap();
        }
    });
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let ended = summer(&server, folder.path(), "")
            .env("STREAM_SUM_SUMMER__ON_VIOLATION", "halt")
            .spawn()
            .wait_for(PATIENCE);
        check(ended, 3, &["position 2: chunk 3 of stream 09", "follows a gap", "summer.on_violation"]);
    }
}

#[test]
fn a_final_that_contradicts_one_already_there_is_a_violation() {
    let server = Server::start();
    apply(&server, 1);
    let id = crate::support::id_in(0, 1, 9, 0);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let jetstream = server.jetstream().await;
        let hex_id = id.to_string();
        let subject = format!("sums.{}.{}", &hex_id[..8], &hex_id[8..]);
        jetstream.publish(subject, "something else".into()).await.unwrap().await.unwrap();
        let payload = crate::support::batch(&[(id, 1, b"a"), (id, 2, b"")]);
        jetstream.publish("chunks.0", payload.into()).await.unwrap().await.unwrap();
    });
    let folder = tempfile::tempdir().unwrap();
    let halting = summer(&server, folder.path(), "").env("STREAM_SUM_SUMMER__ON_VIOLATION", "halt").run();
    check(halting, 3, &["ConflictingFinal", &id.to_string()]);
    let going_on = summer(&server, folder.path(), "").spawn();
    crate::support::wait_for("the conflict", || {
        going_on
            .log()
            .iter()
            .any(|entry| entry["message"].as_str().is_some_and(|said| said.contains("ConflictingFinal")))
    });
    Program::at(&server, "chunker --streams 10 --chunks 2").run().expect(0);
    going_on.stop().expect(0);
}

#[test]
fn completions_and_manual_pages_are_made_whatever_the_configuration_and_name_every_command() {
    let bad = |arguments: &str| Program::new(arguments).env("STREAM_SUM_CHUNKER__STREAMS", "many").run();
    for shell in ["bash", "zsh", "fish"] {
        let made = bad(&format!("completions {shell}")).expect(0).stdout();
        for word in ["summer", "chunker", "rejects", "partitions"] {
            assert!(made.contains(word), "{shell}: {word}");
        }
    }
    let page = bad("man").expect(0).stdout();
    assert!(page.contains(".TH stream") && page.contains("rejects") && !page.contains("keeper"), "{page}");
    assert!(bad("man summer").expect(0).stdout().contains("\\-\\-partitions"));
    check(bad("man nothing"), 2, &["there is no command nothing", "`stream-sum help`"]);
}

#[test]
fn a_full_sums_is_named_and_waited_for() {
    let server = Server::start();
    let apply = |sums: &str| {
        Program::at(&server, "topology apply --partitions 1")
            .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "64MiB")
            .env("STREAM_SUM_TOPOLOGY__SUMS_MAX_BYTES", sums)
            .run()
            .expect(0)
    };
    apply("1MiB");
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, folder.path(), "").spawn();
    let chunking = Program::at(&server, "chunker --streams 20000 --chunks 0").spawn();
    let says_so = |entry: &serde_json::Value| {
        entry["message"].as_str().is_some_and(|said| said.contains("the stream sums is full"))
    };
    crate::support::wait_for("a full sums", || summing.log().iter().any(says_so));
    assert!(apply("64MiB").stdout().contains("changed sums: max_bytes 1MiB -> 64MiB"));
    let ended = chunking.wait().expect(0);
    assert!(ended.stdout().lines().any(|line| line.split_whitespace().eq(["verified", "20000"])), "{}", ended.stdout());
    summing.stop().expect(0);
}

#[test]
fn a_standard_error_that_takes_nothing_more_stops_nobody() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let _summer = summer(&server, folder.path(), "").spawn();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let mut chunking = Command::new(env!("CARGO_BIN_EXE_stream-sum"));
    chunking.args(["--server", &server.url(), "chunker", "--streams", "5"]).stderr(full());
    let ended = chunking.output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(String::from_utf8(ended.stdout).unwrap().contains("verified                 5"));
}
