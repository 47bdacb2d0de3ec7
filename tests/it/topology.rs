//! `topology`: made, checked, changed within bounds, and agreeing with the server's own partition mapping.

use crate::support::{Program, Server, apply, id_in, parse_log, summer, total};
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};
use std::time::Duration;
use stream_sum::cli::config::{Config, Sources};
use stream_sum::local::server::mapping_file;
use stream_sum::sum::names::{FinalNames, names};

#[tokio::test]
async fn everything_is_made_as_the_design_says() {
    let server = Server::start();
    let first = Program::at(&server, "topology apply --partitions 3").run().expect(0);
    let names =
        ["chunks-0", "chunks-1", "chunks-2", "sums", "rejects", "OBJ_stream-sum-state", "KV_stream-sum-members"];
    assert_eq!(first.stdout(), names.map(|name| format!("created {name}\n")).concat());
    let again = Program::at(&server, "topology apply --partitions 3").run().expect(0);
    assert_eq!(again.stdout(), names.map(|name| format!("unchanged {name}\n")).concat());

    let jetstream = server.jetstream().await;
    let config = async |name: &str| jetstream.get_stream(name).await.unwrap().cached_info().config.clone();
    let log = config("chunks-1").await;
    assert_eq!((log.subjects.as_slice(), log.retention), (&["chunks.1".to_owned()][..], RetentionPolicy::Limits));
    assert_eq!((log.discard, log.storage, log.max_age), (DiscardPolicy::New, StorageType::File, Duration::ZERO));
    assert_eq!(log.max_bytes, 1 << 30);
    let fact = |key: &str| log.metadata.get(key).map(String::as_str);
    assert_eq!(fact("stream-sum.format"), Some("2"));
    assert_eq!(fact("stream-sum.partitions"), Some("3"));
    assert_eq!(fact("stream-sum.max-chunk-bytes"), Some("512KiB"));
    assert_eq!((fact("stream-sum.idle-expiry"), fact("stream-sum.completed-expiry")), (Some("1h"), Some("1h")));
    for (name, subject) in [("sums", "sums.>"), ("rejects", "rejects.>")] {
        let config = config(name).await;
        assert_eq!(config.subjects, [subject]);
        assert_eq!((config.max_messages_per_subject, config.discard_new_per_subject), (1, true));
        assert_eq!((config.discard, config.max_age), (DiscardPolicy::New, Duration::from_secs(24 * 3600)));
    }
    let shown = Program::at(&server, "topology show").run().expect(0).stdout();
    assert!(
        shown.starts_with("partitions 3, max_chunk_bytes 512KiB, idle_expiry 1h, completed_expiry 1h\n"),
        "{shown}"
    );
    assert!(names.iter().all(|name| shown.contains(name)), "{shown}");
}

#[tokio::test]
async fn limits_are_updated_and_what_changed_is_said() {
    let server = Server::start();
    apply(&server, 2);
    let changed = Program::at(&server, "topology apply --partitions 2")
        .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "512MiB")
        .env("STREAM_SUM_TOPOLOGY__SUMS_MAX_BYTES", "256MiB")
        .env("STREAM_SUM_TOPOLOGY__SUMS_RETENTION", "5m")
        .run()
        .expect(0)
        .stdout();
    assert!(changed.contains("changed chunks-0: max_bytes 256MiB -> 512MiB\n"), "{changed}");
    assert!(changed.contains("changed sums: max_age 1day -> 5m\n"), "{changed}");
    assert!(changed.contains("unchanged KV_stream-sum-members\n"), "{changed}");
    let jetstream = server.jetstream().await;
    let sums = jetstream.get_stream("sums").await.unwrap();
    assert_eq!(sums.cached_info().config.max_age, Duration::from_secs(300));
    let refused = Program::at(&server, "topology apply --partitions 2")
        .env("STREAM_SUM_TOPOLOGY__MAX_CHUNK_BYTES", "64KiB")
        .run()
        .expect(2);
    assert!(refused.sentence().contains("topology.max_chunk_bytes is 64KiB here, but 512KiB"), "{}", refused.stderr);
}

#[tokio::test]
async fn a_stream_of_somebody_else_is_never_touched() {
    let server = Server::start();
    let jetstream = server.jetstream().await;
    let theirs = stream::Config { name: "sums".into(), subjects: vec!["their.>".into()], ..stream::Config::default() };
    jetstream.create_stream(theirs).await.unwrap();
    let refused = Program::at(&server, "topology apply --partitions 2").run().expect(2);
    assert!(refused.sentence().contains("the stream sums lacks metadata of stream-sum (stream-sum.format)"));
    let adopting = Program::at(&server, "topology apply --partitions 2 --adopt").run().expect(2);
    assert!(adopting.sentence().contains("the stream sums has subjects [\"their.>\"]"), "{}", adopting.stderr);
    assert!(jetstream.get_stream("chunks-0").await.is_err(), "a refusal leaves everything as it was");
    // A prefix of one's own is the way out.
    let prefixed = Program::at(&server, "topology apply --partitions 2").env("STREAM_SUM_TOPOLOGY__PREFIX", "acme");
    assert!(prefixed.run().expect(0).stdout().contains("created acme-sums\n"));
    let log = jetstream.get_stream("acme-chunks-1").await.unwrap();
    assert_eq!(log.cached_info().config.subjects, ["acme.chunks.1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_systems_of_one_account_do_not_meet() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let mut summers = Vec::new();
    for (prefix, partitions) in [("", "2"), ("acme", "3")] {
        let prefixed = |program: Program| {
            program
                .env("STREAM_SUM_TOPOLOGY__PREFIX", prefix)
                .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "64MiB")
                .env("STREAM_SUM_TOPOLOGY__SUMS_MAX_BYTES", "64MiB")
        };
        prefixed(Program::at(&server, &format!("topology apply --partitions {partitions}"))).run().expect(0);
        summers.push(prefixed(Program::at(&server, "summer").arg("--data-dir").arg(folder.path())).spawn());
        prefixed(Program::at(&server, "chunker --streams 200 --chunks 3")).run().expect(0);
    }
    let jetstream = server.jetstream().await;
    for sums in ["sums", "acme-sums"] {
        assert_eq!(jetstream.get_stream(sums).await.unwrap().cached_info().state.messages, 200);
    }
}

#[tokio::test]
async fn the_server_s_own_partition_mapping_is_ours() {
    for (prefix, partitions) in [("", 3), ("", 8), ("acme", 5)] {
        let names = names(prefix);
        let server = Server::with(Some(&names.mapping(partitions)), "");
        let client = server.client().await;
        let mut arriving = client.subscribe(names.log_subject(0).replace(".0", ".*")).await.unwrap();
        client.flush().await.unwrap();
        for n in 0..200 {
            let id = id_in(n % partitions, partitions, n as u8, 1);
            let subject = names.mapping(partitions).0.replace('*', &id.to_string());
            client.publish(subject, id.to_string().into()).await.unwrap();
            let message = futures_util::StreamExt::next(&mut arriving).await.unwrap();
            assert_eq!(message.subject.as_str(), names.log_subject(n % partitions), "{id}");
        }
    }
}

#[test]
fn the_mapping_in_the_repository_is_the_one_for_the_default_topology() {
    let config = Config::load(Sources::default()).unwrap();
    let names = names(&config.topology.prefix);
    let made = mapping_file(&names.mapping(config.topology.partitions));
    assert_eq!(include_str!("../../nats/mapping.conf"), made);
}

#[tokio::test]
async fn an_older_format_is_refused_with_the_way_out_and_raised_by_apply() {
    let server = Server::start();
    apply(&server, 2);
    let jetstream = server.jetstream().await;
    let set = async |name: &str, format: &str| {
        let mut config = jetstream.get_stream(name).await.unwrap().cached_info().config.clone();
        config.metadata.insert("stream-sum.format".into(), format.into());
        jetstream.update_stream(config).await.unwrap();
    };
    for name in ["chunks-0", "chunks-1", "sums"] {
        set(name, "1").await;
    }
    let folder = tempfile::tempdir().unwrap();
    for refused in [summer(&server, folder.path(), ""), Program::at(&server, "chunker --streams 1")] {
        let ended = refused.run().expect(2);
        let said = ended.sentence();
        assert!(said.contains("the stream chunks-0 has format 1, and this version works with 2: stop every"), "{said}");
        assert!(said.contains("run `stream-sum topology apply`"), "{said}");
    }
    let changed = Program::at(&server, "topology apply --partitions 2")
        .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "256MiB")
        .env("STREAM_SUM_TOPOLOGY__SUMS_MAX_BYTES", "256MiB")
        .run()
        .expect(0)
        .stdout();
    for line in ["changed chunks-0: format 1 -> 2", "changed sums: format 1 -> 2", "unchanged rejects"] {
        assert!(changed.lines().any(|found| found == line), "{line}: {changed}");
    }
    let summing = summer(&server, folder.path(), "").spawn();
    Program::at(&server, "chunker --streams 10").run().expect(0);
    summing.stop().expect(0);
    set("chunks-1", "3").await;
    let newer = summer(&server, folder.path(), "").run().expect(2);
    assert!(newer.sentence().contains("chunks-1 has format 3, which this version does not know"), "{}", newer.stderr);
}

/// A system that differs from the defaults in all that can be changed.
fn apply_much(server: &Server) {
    Program::at(server, "topology apply --partitions 2")
        .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "128MiB")
        .env("STREAM_SUM_TOPOLOGY__SUMS_MAX_BYTES", "64MiB")
        .env("STREAM_SUM_TOPOLOGY__SUMS_RETENTION", "48h")
        .env("STREAM_SUM_TOPOLOGY__REJECTS_RETENTION", "72h")
        .env("STREAM_SUM_TOPOLOGY__IDLE_EXPIRY", "2h")
        .run()
        .expect(0);
}

const ALL: [&str; 6] = ["chunks-0", "chunks-1", "sums", "rejects", "OBJ_stream-sum-state", "KV_stream-sum-members"];

#[tokio::test]
async fn only_what_is_named_changes() {
    let server = Server::start();
    apply_much(&server);
    for flags in ["", "--partitions 2"] {
        let nothing = Program::at(&server, &format!("topology apply {flags}")).run().expect(0).stdout();
        assert_eq!(nothing, ALL.map(|name| format!("unchanged {name}\n")).concat());
    }
    let jetstream = server.jetstream().await;
    // A log that is gone is made as the others are, and nobody has to say how.
    jetstream.delete_stream("chunks-1").await.unwrap();
    for command in ["summer", "chunker --streams 1"] {
        let ended = Program::at(&server, command).run().expect(2);
        let said = ended.sentence();
        assert!(said.contains("the log chunks-1 is gone from ") && said.contains("--accept replaced:1"), "{said}");
    }
    let made = Program::at(&server, "topology apply").run().expect(0).stdout();
    assert!(made.contains("unchanged chunks-0\ncreated chunks-1\nunchanged sums\n"), "{made}");
    let config = jetstream.get_stream("chunks-1").await.unwrap().cached_info().config.clone();
    assert_eq!((config.max_bytes, config.metadata["stream-sum.idle-expiry"].as_str()), (128 << 20, "2h"));
    jetstream.delete_stream("chunks-0").await.unwrap();
    let ended = Program::at(&server, "summer").run().expect(2);
    assert!(ended.sentence().contains("the log chunks-0 is gone from "), "{}", ended.stderr);
}

#[tokio::test]
async fn what_is_lost_by_a_change_is_said_and_needs_force() {
    let server = Server::start();
    apply_much(&server);
    let jetstream = server.jetstream().await;
    let big = vec![0; 900 << 10];
    for _ in 0..5 {
        jetstream.publish("chunks.0", big.clone().into()).await.unwrap().await.unwrap();
    }
    jetstream.publish("sums.00000000.x", "old".into()).await.unwrap().await.unwrap();
    // The one thing to wait for is that it has an age.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let lowering = |flags: &str| {
        Program::at(&server, &format!("topology apply {flags}"))
            .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "4MiB")
            .env("STREAM_SUM_TOPOLOGY__SUMS_RETENTION", "1s")
            .run()
    };
    let refused = lowering("").expect(2);
    let said = refused.sentence();
    assert!(said.contains("chunks-0 would lose room: it holds 4.4MiB already"), "{said}");
    assert!(said.contains("sums would lose what is older than 1s: it holds 1 messages"), "{said}");
    assert!(said.contains("--force") && !said.contains("chunks-1"), "{said}");
    let config = async |name: &str| jetstream.get_stream(name).await.unwrap().cached_info().config.clone();
    assert_eq!(config("chunks-1").await.max_bytes, 128 << 20, "a refusal leaves everything as it was");
    let changed = lowering("--force").expect(0).stdout();
    assert!(changed.contains("changed chunks-0: max_bytes 128MiB -> 4MiB\n"), "{changed}");
    assert!(changed.contains("changed sums: max_age 2days -> 1s\n"), "{changed}");
    assert_eq!(config("rejects").await.max_age, Duration::from_secs(72 * 3600), "nobody has named it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_takes_no_message_that_leaves_no_room_for_the_next() {
    let server = Server::start();
    Program::at(&server, "topology apply --partitions 1")
        .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "1280KiB")
        .env("STREAM_SUM_TOPOLOGY__SUMS_MAX_BYTES", "64MiB")
        .run()
        .expect(0);
    let jetstream = server.jetstream().await;
    let large = jetstream.publish("chunks.0", vec![0; 960 << 10].into()).await.unwrap().await;
    assert!(large.unwrap_err().to_string().contains("exceeds"), "the server refuses it, whoever sends it");
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, folder.path(), "").spawn();
    // A log that is as older versions have made it: who sends bounds its batches by what the log holds.
    for limited in [true, false] {
        if !limited {
            let mut config = jetstream.get_stream("chunks-0").await.unwrap().cached_info().config.clone();
            config.max_message_size = -1;
            jetstream.update_stream(config).await.unwrap();
        }
        Program::at(&server, "chunker --streams 60 --chunks 40 --chunk-bytes 4096")
            .env("STREAM_SUM_CHUNKER__BATCH_BYTES", "960KiB")
            .run()
            .expect(0);
    }
    summing.stop().expect(0);
    let mended = Program::at(&server, "topology apply").run().expect(0).stdout();
    assert!(mended.contains("changed chunks-0: max_msg_size none -> 636.0KiB"), "{mended}");
}

#[tokio::test]
async fn limits_that_somebody_has_set_are_refused_by_name_at_every_start() {
    let server = Server::start();
    apply(&server, 1);
    let jetstream = server.jetstream().await;
    let folder = tempfile::tempdir().unwrap();
    let config = async |name: &str| jetstream.get_stream(name).await.unwrap().cached_info().config.clone();
    let (log, sums) = (config("chunks-0").await, config("sums").await);
    for (edited, said) in [
        (
            stream::Config { max_age: Duration::from_secs(3600), ..log.clone() },
            "the stream chunks-0 has max_age 1h: it must have none",
        ),
        (
            stream::Config { max_message_size: 1000, ..log.clone() },
            "the stream chunks-0 has max_msg_size 1000: it must have 589824 at least",
        ),
        (
            stream::Config { max_messages: 1000, ..log.clone() },
            "the stream chunks-0 has max_msgs 1000: it must have none",
        ),
        (
            stream::Config { max_message_size: 1000, ..sums.clone() },
            "the stream sums has max_msg_size 1000: it must have 1048576 at least",
        ),
    ] {
        jetstream.update_stream(edited.clone()).await.unwrap();
        for program in [
            summer(&server, folder.path(), ""),
            Program::at(&server, "chunker --streams 1"),
            Program::at(&server, "topology apply"),
        ] {
            let ended = program.run().expect(2);
            assert!(ended.sentence().contains(said), "{said}: {}", ended.stderr);
            assert!(!ended.sentence().contains("remove"), "nothing tells to delete: {}", ended.stderr);
        }
        jetstream.update_stream(if edited.name == "sums" { sums.clone() } else { log.clone() }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tool_drops_of_metadata_is_shown_and_put_back() {
    let server = Server::start();
    apply_much(&server);
    let jetstream = server.jetstream().await;
    let drop_metadata = async |name: &str| {
        let mut config = jetstream.get_stream(name).await.unwrap().cached_info().config.clone();
        config.metadata.retain(|key, _| !key.starts_with("stream-sum."));
        jetstream.update_stream(config).await.unwrap();
    };
    let folder = tempfile::tempdir().unwrap();
    for name in ["chunks-1", "sums"] {
        drop_metadata(name).await;
    }
    for program in [summer(&server, folder.path(), ""), Program::at(&server, "topology apply")] {
        let ended = program.run().expect(2);
        let said = ended.sentence();
        assert!(said.contains("the stream chunks-1 lacks metadata of stream-sum (stream-sum."), "{said}");
        assert!(said.contains("`stream-sum topology apply --adopt` puts it back"), "{said}");
    }
    let adopted = Program::at(&server, "topology apply --adopt").run().expect(0).stdout();
    let line = adopted.lines().find(|line| line.starts_with("changed chunks-1: ")).unwrap();
    assert!(line.contains("idle-expiry missing -> 2h") && line.contains("partitions missing -> 2"), "{line}");
    assert!(adopted.contains("changed sums: format missing -> 2\n"), "{adopted}");
    // With all of it gone, somebody has to say what was not as it is by default.
    for name in ["chunks-0", "chunks-1"] {
        drop_metadata(name).await;
    }
    let adopted = Program::at(&server, "topology apply --adopt")
        .env("STREAM_SUM_TOPOLOGY__IDLE_EXPIRY", "2h")
        .run()
        .expect(0)
        .stdout();
    assert!(adopted.contains("partitions missing -> 2"), "as many as there are: {adopted}");
    let summing = summer(&server, folder.path(), "").spawn();
    Program::at(&server, "chunker --streams 10").run().expect(0);
    summing.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_the_server_and_of_streams_on_consumers_are_kept_to() {
    let server = Server::with_config("jetstream { limits { max_request_batch: 100 } }\n");
    apply(&server, 1);
    let jetstream = server.jetstream().await;
    for name in ["chunks-0", "sums"] {
        let mut config = jetstream.get_stream(name).await.unwrap().cached_info().config.clone();
        let inactive_threshold = Duration::from_secs(30);
        config.consumer_limits = Some(stream::ConsumerLimits { inactive_threshold, max_ack_pending: 10 });
        jetstream.update_stream(config).await.unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, folder.path(), "").spawn();
    Program::at(&server, "chunker --streams 2000 --chunks 3 --rate 8000").run().expect(0);
    let log = parse_log(&summing.stop().expect(0).stderr);
    assert_eq!(total(&log, "stopped", "opened"), 1, "{log:?}");
}
