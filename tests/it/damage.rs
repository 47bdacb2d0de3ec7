//! Disks that change what was written: a store is found damaged, set aside by name, and made again.

use crate::support::{
    Process, Program, Server, apply, batch, id_in, messages, parse_log, status, summer, wait_for, wait_until,
};
use async_nats::jetstream;
use redb::{Database, TableDefinition};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use stream_sum::sum::chunk::{Chunk, SeqNo};
use stream_sum::sum::running::RunningSum;
use stream_sum::sum::stream_id::StreamId;

const SET_ASIDE: &str = "a store is damaged: it was set aside, and is made again from a snapshot or the log";

/// What the first chunk of a stream of these tests holds.
fn data(n: usize) -> Vec<u8> {
    format!("the data of stream {n}").into_bytes()
}

fn sum(n: usize, partitions: u32) -> RunningSum {
    RunningSum::open(&Chunk { id: id_in(0, partitions, 7, n), seq_no: SeqNo::FIRST, data: &data(n) })
}

async fn publish(jetstream: &jetstream::Context, payload: Vec<u8>) {
    jetstream.publish("chunks.0", payload.into()).await.unwrap().await.unwrap();
}

/// Opens streams of partition 0, each with a message of its own.
async fn open(server: &Server, partitions: u32, streams: std::ops::Range<usize>) {
    let jetstream = server.jetstream().await;
    for n in streams {
        publish(&jetstream, batch(&[(id_in(0, partitions, 7, n), 1, &data(n))])).await;
    }
}

/// Ends streams of partition 0, and waits until each has its final: the right one, and nothing else is rejected.
async fn close(server: &Server, partitions: u32, streams: std::ops::Range<usize>) {
    let jetstream = server.jetstream().await;
    for n in streams.clone() {
        publish(&jetstream, batch(&[(id_in(0, partitions, 7, n), 2, b"")])).await;
    }
    let finals = wait_until("the finals", async || {
        let all = messages(&jetstream, "sums").await;
        let finals: BTreeMap<_, _> = all.into_iter().map(|m| (m.subject.to_string(), m.payload)).collect();
        let of = |n| {
            let id = id_in(0, partitions, 7, n).to_string();
            finals.get(&format!("sums.{}.{}", &id[..8], &id[8..])).cloned()
        };
        streams.clone().map(of).collect::<Option<Vec<_>>>()
    })
    .await;
    for (n, payload) in streams.zip(finals) {
        assert_eq!(hex::encode(&payload[payload.len() - 20..]), sum(n, partitions).value().to_string(), "stream {n}");
    }
    assert_eq!(messages(&jetstream, "rejects").await.len(), 0);
}

/// Waits until everything in the logs is committed.
async fn caught_up(server: &Server) {
    wait_until("everything to be committed", async || {
        let status = status(server);
        let partitions = status["partitions"].as_array().unwrap().clone();
        partitions.iter().all(|partition| partition["workers"][0]["lag"] == 0).then_some(())
    })
    .await;
}

fn worker(server: &Server, folder: &Path) -> Process {
    summer(server, folder, "--worker a").env("STREAM_SUM_SUMMER__CHECKPOINT_INTERVAL", "20ms").spawn()
}

/// A data folder whose store has folded `streams` live streams, and a log that still has them. There is no snapshot.
async fn folded(server: &Server, folder: &Path, streams: usize) -> PathBuf {
    apply(server, 1);
    open(server, 1, 0..streams).await;
    let summing = worker(server, folder);
    caught_up(server).await;
    summing.kill();
    folder.join("chunks-0.redb")
}

/// Changes two bytes in the middle of the running sum of a stream, wherever it stands in a store's file.
fn damage_row(path: &Path, n: usize, partitions: u32) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let bytes = fs::read(path).unwrap();
    let state = sum(n, partitions).state();
    let places: Vec<_> = (0..bytes.len() - state.len()).filter(|at| bytes[*at..].starts_with(&state)).collect();
    assert!(!places.is_empty(), "its row is there");
    for at in places {
        // Two bytes of the five words that the sum has come to: any others are as good a sum.
        file.write_all_at(&[!state[1], !state[2]], u64::try_from(at).unwrap() + 1).unwrap();
    }
}

fn cut_in_half(path: &Path) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

/// Whether a file that was set aside is as it was, but for what redb notes in the first page when it opens it.
fn same(kept: &[u8], damaged: &[u8]) -> bool {
    kept.len() == damaged.len() && (kept == damaged || kept.get(4096..) == damaged.get(4096..))
}

fn set_aside(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.to_str().unwrap().contains(".redb.damaged-")).collect()
}

/// Asserts that one store was set aside, and that an error line names it. Its new name.
#[track_caller]
fn one_set_aside(folder: &Path, log: &[Value]) -> PathBuf {
    let aside = set_aside(folder);
    assert_eq!(aside.len(), 1, "{aside:?}");
    let said: Vec<_> = log.iter().filter(|entry| entry["message"] == SET_ASIDE).collect();
    assert_eq!(said.len(), 1, "{log:?}");
    assert_eq!(said[0]["level"], "ERROR");
    assert_eq!(said[0]["aside"], aside[0].to_str().unwrap());
    assert_eq!(said[0]["store"], folder.join("chunks-0.redb").to_str().unwrap());
    aside[0].clone()
}

fn no_panic(stderr: &str) {
    assert!(!stderr.contains("panicked") && !stderr.contains("backtrace"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bits_changed_in_a_live_row_never_become_a_wrong_final() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folded(&server, folder.path(), 3).await;
    damage_row(&path, 1, 1);
    let damaged = fs::read(&path).unwrap();
    let summing = worker(&server, folder.path());
    close(&server, 1, 0..3).await;
    let stderr = summing.stop().expect(0).stderr;
    no_panic(&stderr);
    let aside = one_set_aside(folder.path(), &parse_log(&stderr));
    assert!(same(&fs::read(aside).unwrap(), &damaged));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_cut_short_or_with_a_changed_header_is_set_aside_as_it_is_and_made_again() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folded(&server, &folder.path().join("sound"), 20).await;
    let sound = fs::read(&path).unwrap();
    let flipped = |places: &[usize]| {
        let mut bytes = sound.clone();
        places.iter().for_each(|at| bytes[*at] ^= 0x14);
        bytes
    };
    // The magic, the page size, a region's header, the version of a commit slot, both slots' roots, both slots' checksums.
    let places: &[&[usize]] = &[&[3], &[13], &[16], &[64], &[80, 208], &[64 + 120, 192 + 120]];
    let mut damaged: Vec<_> = places.iter().map(|places| flipped(places)).collect();
    damaged.extend([sound.len() / 2, 5000, 100, 5].map(|len| sound[..len].to_vec()));
    for (n, bytes) in damaged.iter().enumerate() {
        let data = folder.path().join(n.to_string());
        fs::create_dir(&data).unwrap();
        fs::write(data.join("chunks-0.redb"), bytes).unwrap();
        let summing = worker(&server, &data);
        summing.wait_for_log("opened the log", 1);
        caught_up(&server).await;
        let stderr = summing.stop().expect(0).stderr;
        no_panic(&stderr);
        let aside = one_set_aside(&data, &parse_log(&stderr));
        assert!(same(&fs::read(aside).unwrap(), bytes), "number {n} is as it was");
        // Later ones are to fold the log as well.
        server.jetstream().await.get_stream("OBJ_stream-sum-state").await.unwrap().purge().await.unwrap();
    }
    let summing = worker(&server, &folder.path().join("0"));
    close(&server, 1, 0..20).await;
    summing.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_whose_log_was_purged_comes_back_from_a_snapshot() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    apply(&server, 1);
    open(&server, 1, 0..10).await;
    let summing = worker(&server, folder.path());
    caught_up(&server).await;
    // A clean stop leaves a snapshot.
    summing.stop().expect(0);
    let log = server.jetstream().await.get_stream("chunks-0").await.unwrap();
    log.purge().sequence(10).await.unwrap();
    cut_in_half(&folder.path().join("chunks-0.redb"));
    let summing = worker(&server, folder.path());
    close(&server, 1, 0..10).await;
    let log = parse_log(&summing.stop().expect(0).stderr);
    one_set_aside(folder.path(), &log);
    let restored: Vec<_> = log.iter().filter(|entry| entry["message"] == "restored a snapshot").collect();
    assert_eq!(restored.len(), 1);
    assert_eq!(restored[0]["position"], 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_neither_snapshot_nor_log_reaches_the_refusal_names_what_was_set_aside() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folded(&server, folder.path(), 10).await;
    let log = server.jetstream().await.get_stream("chunks-0").await.unwrap();
    log.purge().sequence(8).await.unwrap();
    cut_in_half(&path);
    // At once, and after a restart as well, when the store is an empty one and nothing else tells why.
    for _ in 0..2 {
        let ended = summer(&server, folder.path(), "--worker a").run().expect(1);
        let aside = set_aside(folder.path());
        assert_eq!(aside.len(), 1);
        for what in ["LogTruncated: messages 1 to 7 are no longer kept", "damaged", aside[0].to_str().unwrap()] {
            assert!(ended.sentence().contains(what), "{what}: {}", ended.sentence());
        }
    }
}

/// A summer of two partitions that has let go of nearly all rows of its live streams, and keeps next to no page of a store.
async fn forgetful(server: &Server, folder: &Path, streams: usize) -> Process {
    apply(server, 2);
    let summing = summer(server, folder, "--worker a")
        .env("STREAM_SUM_SUMMER__CACHE_BYTES", "20KiB")
        .env("STREAM_SUM_SUMMER__CHECKPOINT_INTERVAL", "20ms")
        .spawn();
    open(server, 2, 0..streams).await;
    caught_up(server).await;
    summing
}

fn opened(log: &[Value], name: &str) -> usize {
    log.iter().filter(|entry| entry["message"] == "opened the log" && entry["log"] == name).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_met_in_the_middle_of_folding_is_mended_while_the_other_partitions_go_on() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let summing = forgetful(&server, folder.path(), 400).await;
    for n in 0..100 {
        damage_row(&folder.path().join("chunks-0.redb"), n, 2);
    }
    close(&server, 2, 0..400).await;
    Program::at(&server, "chunker --streams 100 --chunks 3").run().expect(0);
    let stderr = summing.stop().expect(0).stderr;
    no_panic(&stderr);
    let log = parse_log(&stderr);
    one_set_aside(folder.path(), &log);
    assert_eq!((opened(&log, "chunks-0"), opened(&log, "chunks-1")), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_cut_short_under_a_running_summer_is_made_again() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let summing = forgetful(&server, folder.path(), 400).await;
    // All that it has but the header: half of the file may be pages that nobody misses.
    let file = fs::OpenOptions::new().write(true).open(folder.path().join("chunks-0.redb")).unwrap();
    file.set_len(4096).unwrap();
    close(&server, 2, 0..400).await;
    let stderr = summing.stop().expect(0).stderr;
    no_panic(&stderr);
    one_set_aside(folder.path(), &parse_log(&stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_met_by_a_snapshot_alone_is_mended_as_well() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    Program::at(&server, "topology apply --partitions 1")
        .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "4MiB")
        .env("STREAM_SUM_TOPOLOGY__SUMS_MAX_BYTES", "64MiB")
        .run()
        .expect(0);
    open(&server, 1, 0..3).await;
    let summing = worker(&server, folder.path());
    // A third of the log's bound: a snapshot is due.
    Program::at(&server, "chunker --streams 70 --chunks 20 --chunk-bytes 1024").run().expect(0);
    summing.wait_for_log("wrote a snapshot", 1);
    caught_up(&server).await;
    summing.kill();
    damage_row(&folder.path().join("chunks-0.redb"), 1, 1);
    // Without one in the bucket, whoever starts with so much of the log in its store writes another. Nothing is folded
    // meanwhile.
    server.jetstream().await.get_stream("OBJ_stream-sum-state").await.unwrap().purge().await.unwrap();
    let summing = worker(&server, folder.path());
    summing.wait_for_log(SET_ASIDE, 1);
    close(&server, 1, 0..3).await;
    let stderr = summing.stop().expect(0).stderr;
    no_panic(&stderr);
    one_set_aside(folder.path(), &parse_log(&stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_met_by_the_last_snapshot_sets_the_store_aside_before_the_next_start() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folded(&server, folder.path(), 3).await;
    damage_row(&path, 1, 1);
    let summing = worker(&server, folder.path());
    summing.wait_for_log("opened the log", 1);
    one_set_aside(folder.path(), &parse_log(&summing.stop().expect(0).stderr));
    let again = worker(&server, folder.path());
    close(&server, 1, 0..3).await;
    again.stop().expect(0);
    assert_eq!(set_aside(folder.path()).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_another_format_is_refused_by_name_and_kept() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chunks-0.redb");
    // As the version before checksums wrote it.
    let db = Database::create(&path).unwrap();
    let tx = db.begin_write().unwrap();
    tx.open_table(TableDefinition::<&[u8; 16], &[u8]>::new("streams")).unwrap();
    let owner = [&b"\x83\xa3log\xa8chunks-0\xa9partition\x00\xaapartitions\x01"[..]].concat();
    tx.open_table(TableDefinition::<&str, &[u8]>::new("meta")).unwrap().insert("owner", owner.as_slice()).unwrap();
    tx.commit().unwrap();
    drop(db);
    let ended = summer(&server, folder.path(), "").run().expect(1);
    for what in [path.to_str().unwrap(), "format 1", "run the version that wrote it, or move the file away"] {
        assert!(ended.sentence().contains(what), "{what}: {}", ended.sentence());
    }
    assert!(path.exists() && set_aside(folder.path()).is_empty());
    fs::rename(&path, folder.path().join("old")).unwrap();
    let summing = worker(&server, folder.path());
    summing.wait_for_log("opened the log", 1);
    summing.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_damaged_store_is_refused_until_somebody_has_seen_to_the_disk() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folded(&server, folder.path(), 3).await;
    for n in 1..=3 {
        cut_in_half(&path);
        let summing = worker(&server, folder.path());
        caught_up(&server).await;
        summing.wait_for_log("opened the log", 1);
        summing.kill();
        assert_eq!(set_aside(folder.path()).len(), n);
    }
    cut_in_half(&path);
    let damaged = fs::read(&path).unwrap();
    let ended = summer(&server, folder.path(), "--worker a").run().expect(1);
    for what in ["chunks-0.redb is damaged", "as 3 before it were", "see that the disk is sound, and move those away"] {
        assert!(ended.sentence().contains(what), "{what}: {}", ended.sentence());
    }
    assert!(fs::read(&path).unwrap() == damaged);
    set_aside(folder.path()).iter().for_each(|path| fs::remove_file(path).unwrap());
    let summing = worker(&server, folder.path());
    close(&server, 1, 0..3).await;
    summing.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_id_of_a_worker_is_drawn_again() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker-id");
    for bytes in [&b"\xff\xfe\x00\x01bad\n"[..], b"a name.>", b"0badcaf"] {
        fs::write(&path, bytes).unwrap();
        let summing = summer(&server, folder.path(), "").spawn();
        summing.wait_for_log("opened the log", 1);
        let log = parse_log(&summing.stop().expect(0).stderr);
        assert!(
            log.iter().any(|entry| entry["level"] == "ERROR" && entry["path"] == path.to_str().unwrap()),
            "{log:?}"
        );
        let drawn = fs::read_to_string(&path).unwrap();
        assert!(drawn.len() == 8 && drawn.bytes().all(|b| b.is_ascii_hexdigit()), "{drawn}");
    }
    wait_for("nothing but the store and the id", || fs::read_dir(folder.path()).unwrap().count() == 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_room_ends_a_summer_in_one_sentence_and_damages_nothing() {
    const STREAMS: usize = 12_000;
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let jetstream = server.jetstream().await;
    for first in (0..STREAMS).step_by(1000) {
        let data: Vec<_> = (first..first + 1000).map(data).collect();
        // Of one partition, as `id_in` counts them.
        let ids = (first as u64..).map(|n| StreamId::new([[7; 8], n.to_be_bytes()].concat().try_into().unwrap()));
        let chunks: Vec<_> = ids.zip(&data).map(|(id, data)| (id, 1, data.as_slice())).collect();
        publish(&jetstream, batch(&chunks)).await;
    }
    // A store begins with a bit more than 1 MiB, and doubles: here it may not. More than once, because whoever looks after a summer
    // starts it again.
    for _ in 0..2 {
        let full = Program::in_shell("trap '' XFSZ; ulimit -f 3000", "summer --worker a").with_server(&server);
        let ended = full.arg("--data-dir").arg(folder.path()).run().expect(1);
        for what in [folder.path().join("chunks-0.redb").to_str().unwrap(), "File too large"] {
            assert!(ended.sentence().contains(what), "{what}: {}", ended.sentence());
        }
        assert_eq!(set_aside(folder.path()), [] as [PathBuf; 0]);
    }
    let summing = worker(&server, folder.path());
    caught_up(&server).await;
    close(&server, 1, STREAMS - 20..STREAMS).await;
    summing.stop().expect(0);
    assert_eq!(set_aside(folder.path()), [] as [PathBuf; 0]);
}
