//! `sum` beside `sha1sum`.

use crate::support::{Program, Server, apply, messages, summer, wait_for, wait_until};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use stream_sum::codec;

/// Bytes that do not repeat, cheaply.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

fn sha1sum(folder: &Path, names: &[OsString]) -> Vec<u8> {
    Command::new("sha1sum").args(names).current_dir(folder).output().unwrap().stdout
}

fn sum(server: &Server, folder: &Path, names: &[OsString]) -> Program {
    names.iter().fold(Program::at(server, "sum").arg("--"), Program::arg).current_dir(folder)
}

#[test]
fn hundreds_of_files_are_printed_byte_for_byte_as_sha1sum_prints_them() {
    let server = Server::start();
    apply(&server, 4);
    let data = tempfile::tempdir().unwrap();
    let _summer = summer(&server, data.path(), "").spawn();
    let folder = tempfile::tempdir().unwrap();
    let mut names: Vec<OsString> = (0..300).map(|n| format!("file-{n}").into()).collect();
    for (n, name) in names.iter().enumerate() {
        fs::write(folder.path().join(name), noise(n * n * 7, n as u64)).unwrap();
    }
    let odd: [&[u8]; 8] =
        [b"a b", b" ", b"back\\slash", b"new\nline", b"re\rturn", b"-dash", b"\xff\xfe", "µ".as_bytes()];
    for name in odd {
        let name = OsString::from_vec(name.to_vec());
        fs::write(folder.path().join(&name), noise(1000, name.len() as u64)).unwrap();
        names.push(name);
    }
    fs::write(folder.path().join("empty"), b"").unwrap();
    names.insert(0, "empty".into());
    let mut large = fs::File::create(folder.path().join("large")).unwrap();
    let piece = noise(1 << 20, 5);
    for n in 0..110u8 {
        large.write_all(&[n]).unwrap();
        large.write_all(&piece).unwrap();
    }
    names.insert(1, "large".into());
    names.push("file-7".into());

    // What begins with a dash needs help from sha1sum's side too.
    let names: Vec<OsString> =
        names.into_iter().map(|name| if name == "-dash" { "./-dash".into() } else { name }).collect();
    let ended = sum(&server, folder.path(), &names).run().expect(0);
    let expected = sha1sum(folder.path(), &names);
    assert_eq!(expected.iter().filter(|byte| **byte == b'\n').count(), names.len());
    assert!(ended.stdout == expected, "{}\n{}", ended.stdout(), String::from_utf8_lossy(&expected));
}

#[test]
fn standard_input_is_summed_as_a_dash() {
    let server = Server::start();
    apply(&server, 1);
    let data = tempfile::tempdir().unwrap();
    let _summer = summer(&server, data.path(), "").spawn();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("input"), noise(3_000_000, 1)).unwrap();
    let input = folder.path().join("input");
    // Who names it again finds it at its end.
    let names = ["input".into(), "-".into(), "-".into()];
    let ended = sum(&server, folder.path(), &names).stdin(&input).run().expect(0);
    let digest = String::from_utf8(sha1sum(folder.path(), &["input".into()])).unwrap();
    assert_eq!(
        ended.stdout(),
        format!("{digest}{}da39a3ee5e6b4b0d3255bfef95601890afd80709  -\n", digest.replace("input", "-"))
    );
}

#[test]
fn an_unreadable_file_is_named_and_the_rest_goes_on() {
    let server = Server::start();
    apply(&server, 2);
    let data = tempfile::tempdir().unwrap();
    let _summer = summer(&server, data.path(), "").spawn();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), b"a").unwrap();
    fs::write(folder.path().join("b"), b"b").unwrap();
    fs::create_dir(folder.path().join("folder")).unwrap();
    let ended =
        sum(&server, folder.path(), &["a".into(), "nothing".into(), "folder".into(), "b".into()]).run().expect(1);
    assert_eq!(ended.stdout, sha1sum(folder.path(), &["a".into(), "b".into()]));
    assert!(ended.stderr.contains("stream-sum: nothing: No such file or directory"), "{}", ended.stderr);
    assert!(ended.stderr.contains("stream-sum: folder: Is a directory"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_pipe_that_pauses_for_longer_than_streams_are_remembered_is_named_and_the_rest_goes_on() {
    let server = Server::start();
    Program::at(&server, "topology apply --partitions 1")
        .env("STREAM_SUM_TOPOLOGY__IDLE_EXPIRY", "1s")
        .env("STREAM_SUM_TOPOLOGY__MAX_CHUNK_BYTES", "1KiB")
        .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "8MiB")
        .run()
        .expect(0);
    let data = tempfile::tempdir().unwrap();
    let _summer = summer(&server, data.path(), "").spawn();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), noise(5000, 1)).unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let summing = sum(&server, folder.path(), &["pipe".into(), "file".into()]).spawn();
    let mut pouring = fs::File::options().write(true).open(&pipe).unwrap();
    pouring.write_all(&noise(1024, 2)).unwrap();
    let jetstream = server.jetstream().await;
    wait_until("chunks of both in the log", async || {
        let batches = messages(&jetstream, "chunks-0").await;
        let ids = batches.iter().flat_map(|batch| codec::chunks(&batch.payload)).map(|chunk| chunk.unwrap().id);
        (ids.collect::<BTreeSet<_>>().len() == 2).then_some(())
    })
    .await;
    std::thread::sleep(Duration::from_millis(1500));
    pouring.write_all(&noise(1024, 3)).unwrap();
    drop(pouring);
    let ended = summing.wait().expect(1);
    assert_eq!(ended.stdout, sha1sum(folder.path(), &["file".into()]));
    let sentence = "stream-sum: pipe: less than a chunk of 1024 bytes came within topology.idle_expiry, 1s,";
    assert!(ended.stderr.contains(sentence), "{}", ended.stderr);
}

#[test]
fn without_a_summer_nothing_is_printed_and_the_deadline_ends_it() {
    let server = Server::start();
    apply(&server, 2);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), b"a").unwrap();
    let ended = sum(&server, folder.path(), &["a".into()]).env("STREAM_SUM_CHUNKER__DEADLINE", "2s").run().expect(1);
    assert_eq!(ended.stdout(), "");
    assert!(
        ended.sentence().contains("no final came within 2s for 1 file(s), the first of them a"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_final_that_is_not_the_file_s_sha1_is_never_printed() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), b"a").unwrap();
    let summing = sum(&server, folder.path(), &["a".into()]).spawn();
    // A summer that lies: it answers the first closing chunk with the digest of something else.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let jetstream = server.jetstream().await;
        let log = jetstream.get_stream("chunks-0").await.unwrap();
        let found = crate::support::wait_until("chunks", async || log.get_raw_message(1).await.ok()).await;
        let id = &found.payload[3..19];
        let hex_id = hex::encode(id);
        let payload = [&[0x93, 0xc4, 16], id, &[2, 0xc4, 20], &[7; 20]].concat();
        let subject = format!("sums.{}.{}", &hex_id[..8], &hex_id[8..]);
        jetstream.publish(subject, payload.into()).await.unwrap().await.unwrap();
    });
    let ended = summing.wait().expect(3);
    assert_eq!(ended.stdout(), "");
    let a = "86f7e437faa5a7fce15d1ddcb9eaeaea377667b8";
    let lie = "07".repeat(20);
    assert!(
        ended.stderr.contains(&format!("stream-sum: a: its final says {lie}, but its SHA-1 is {a}")),
        "{}",
        ended.stderr
    );
}

#[test]
fn files_are_printed_as_soon_as_they_and_all_before_them_are_summed() {
    let server = Server::start();
    apply(&server, 2);
    let data = tempfile::tempdir().unwrap();
    let _summer = summer(&server, data.path(), "").spawn();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), b"a").unwrap();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let names = ["a".into(), "pipe".into(), "a".into()];
    let summing = sum(&server, folder.path(), &names).spawn();
    // Opening waits for the reader, who is there while nothing has been written yet.
    let mut writing = fs::File::options().write(true).open(&pipe).unwrap();
    wait_for("the first line", || !summing.stdout_so_far().is_empty());
    assert_eq!(summing.stdout_so_far(), sha1sum(folder.path(), &["a".into()]));
    writing.write_all(b"late").unwrap();
    drop(writing);
    assert_eq!(summing.wait().expect(0).stdout().lines().count(), 3);
}
