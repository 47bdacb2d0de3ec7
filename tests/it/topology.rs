//! `topology`: made, checked, changed within bounds, and agreeing with the server's own partition mapping.

use crate::support::{Program, Server, apply, id_in, summer};
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};
use std::time::Duration;
use stream_sum::bus::names::Names;
use stream_sum::config::Config;
use stream_sum::local_server::mapping_file;

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
    assert!(refused.sentence().contains("the stream sums was not made by stream-sum"), "{}", refused.stderr);
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
        let names = Names::new(prefix);
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
    let config = Config::load(None, std::iter::empty(), &[]).unwrap();
    let names = Names::new(&config.topology.prefix);
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
