//! `sum` beside `sha1sum`.

use crate::support::{Program, Server, apply, messages, noise, summer, wait_for, wait_until};
use futures_util::StreamExt;
use jetfold::{PartitionStanding, WorkerStanding};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use stream_sum::sum::codec;
use stream_sum::sum::names::names;

fn sha1sum(folder: &Path, names: &[OsString]) -> Vec<u8> {
    Command::new("sha1sum").args(names).current_dir(folder).output().unwrap().stdout
}

fn sum(server: &Server, folder: &Path, names: &[OsString]) -> Program {
    names.iter().fold(Program::at(server, "sum").arg("--"), Program::arg).current_dir(folder)
}

/// Is a summer that lies: it answers the first closing chunk with the digest of something else.
fn lie(server: &Server) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let jetstream = server.jetstream().await;
        let log = jetstream.get_stream("chunks-0").await.unwrap();
        let found = wait_until("chunks", async || log.get_raw_message(1).await.ok()).await;
        let id = &found.payload[3..19];
        let hex_id = hex::encode(id);
        let payload = [&[0x93, 0xc4, 16], id, &[2, 0xc4, 20], &[7; 20]].concat();
        let subject = format!("sums.{}.{}", &hex_id[..8], &hex_id[8..]);
        jetstream.publish(subject, payload.into()).await.unwrap().await.unwrap();
    });
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
        ended
            .sentence()
            .starts_with("stream-sum: no final came within 2s for 1 file(s), the first of them a: partition "),
        "{}",
        ended.stderr
    );
    assert!(ended.sentence().ends_with(" is folded by nobody: start a summer"), "{}", ended.stderr);
}

#[test]
fn a_partition_that_nobody_folds_is_named_long_before_the_deadline_and_a_summer_that_starts_is_in_time() {
    let server = Server::start();
    apply(&server, 2);
    let data = tempfile::tempdir().unwrap();
    let _half = summer(&server, &data.path().join("0"), "--worker half --partitions 0").spawn();
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<OsString> = (0..40).map(|n| format!("file-{n}").into()).collect();
    for name in &names {
        fs::write(folder.path().join(name), name.as_encoded_bytes()).unwrap();
    }
    let summing = sum(&server, folder.path(), &names).spawn();
    summing.wait_for_log("finals stay out: partition 1 is folded by nobody: start a summer", 1);
    let _other = summer(&server, &data.path().join("1"), "--worker other --partitions 1").spawn();
    assert!(summing.wait().expect(0).stdout == sha1sum(folder.path(), &names));
}

#[tokio::test]
async fn a_final_that_stays_out_although_a_worker_has_its_partition_is_explained_by_what_that_one_says() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a b"), b"a").unwrap();
    let client = server.client().await;
    for (trouble, why) in [
        (None, "see by `stream-sum status` how far each partition is"),
        (Some("no answer"), "partition 0 is not folded, since worker w waits: no answer"),
    ] {
        // Only says that it folds.
        let mut questions = client.subscribe(names("").standing_subject()).await.unwrap();
        client.flush().await.unwrap();
        let client = client.clone();
        let answering = tokio::spawn(async move {
            while let Some(question) = questions.next().await {
                let place = PartitionStanding { trouble: trouble.map(str::to_owned), ..PartitionStanding::default() };
                let told =
                    WorkerStanding { worker: "w".to_owned(), partitions: vec![place], ..WorkerStanding::default() };
                client.publish(question.reply.unwrap(), serde_json::to_vec(&told).unwrap().into()).await.unwrap();
            }
        });
        let summing = sum(&server, folder.path(), &["a b".into()]).env("STREAM_SUM_CHUNKER__DEADLINE", "2s").spawn();
        let ended = tokio::task::spawn_blocking(|| summing.wait()).await.unwrap().expect(1);
        answering.abort();
        let expected = format!("stream-sum: no final came within 2s for 1 file(s), the first of them 'a b': {why}");
        assert_eq!(ended.sentence(), expected);
    }
}

#[test]
fn a_final_that_is_not_the_file_s_sha1_is_never_printed() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), b"a").unwrap();
    let summing = sum(&server, folder.path(), &["a".into()]).spawn();
    lie(&server);
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

#[test]
fn a_check_believes_only_the_final_of_a_file() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), b"a").unwrap();
    let list = sha1sum(folder.path(), &["a".into()]);
    fs::write(folder.path().join("list"), &list).unwrap();
    let checking = Program::at(&server, "sum -c list").current_dir(folder.path()).spawn();
    lie(&server);
    let ended = checking.wait().expect(3);
    assert_eq!(ended.stdout(), "a: FAILED open or read\n");
    assert!(ended.stderr.contains("stream-sum: a: its final says 0707"), "{}", ended.stderr);
}

#[test]
fn with_few_descriptors_fewer_files_are_read_at_once_and_none_is_lost() {
    let server = Server::start();
    apply(&server, 2);
    let data = tempfile::tempdir().unwrap();
    let _summer = summer(&server, data.path(), "").spawn();
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<OsString> = (0..200).map(|n| format!("file-{n}").into()).collect();
    for (n, name) in names.iter().enumerate() {
        fs::write(folder.path().join(name), noise(n * 2000, n as u64)).unwrap();
    }
    let expected = sha1sum(folder.path(), &names);
    // The second time others hold some that the limit does not tell of.
    let held = "for fd in 3 4 5 6 7 8 9; do eval \"exec $fd</dev/null\"; done";
    for setup in ["ulimit -n 24".to_owned(), format!("ulimit -n 24; {held}"), format!("ulimit -n 21; {held}")] {
        let program = Program::in_shell(&setup, "sum").with_server(&server).current_dir(folder.path());
        let ended = names.iter().fold(program, Program::arg).run().expect(0);
        assert!(ended.stdout == expected, "{setup}: {}\n{}", ended.stdout(), ended.stderr);
    }
}

#[test]
fn with_too_few_descriptors_it_says_so_and_ends() {
    let server = Server::start();
    apply(&server, 1);
    let data = tempfile::tempdir().unwrap();
    let _summer = summer(&server, data.path(), "").spawn();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), b"a").unwrap();
    let expected = sha1sum(folder.path(), &["a".into()]);
    for limit in 6..16 {
        let program = Program::in_shell(&format!("ulimit -n {limit}"), "sum a").with_server(&server);
        let ended = program.env("STREAM_SUM_NATS__STARTUP_TIMEOUT", "1s").current_dir(folder.path()).run();
        if ended.code() == 0 {
            assert!(ended.stdout == expected);
        } else {
            let ended = ended.expect(1);
            assert!(ended.sentence().contains("Too many open files"), "{limit}: {}", ended.stderr);
        }
    }
}

#[test]
fn a_standard_input_that_is_closed_is_no_empty_one() {
    let server = Server::start();
    apply(&server, 1);
    let data = tempfile::tempdir().unwrap();
    let _summer = summer(&server, data.path(), "").spawn();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), b"a").unwrap();
    let a = String::from_utf8(sha1sum(folder.path(), &["a".into()])).unwrap();
    fs::write(folder.path().join("list"), a.replace("  a", "  -")).unwrap();
    let sum = |setup: &str, arguments: &str| {
        Program::in_shell(setup, &format!("sum {arguments}")).with_server(&server).current_dir(folder.path()).run()
    };
    for arguments in ["-", ""] {
        let ended = sum("exec <&-", arguments).expect(1);
        assert_eq!((ended.stdout(), ended.sentence()), (String::new(), "stream-sum: -: Bad file descriptor"));
    }
    let ended = sum("exec <&-", "a - a").expect(1);
    assert_eq!((ended.stdout(), ended.sentence()), (a.repeat(2), "stream-sum: -: Bad file descriptor"));
    let ended = sum("exec <&-", "-c").expect(1);
    assert_eq!((ended.stdout(), ended.sentence()), (String::new(), "stream-sum: 'standard input': read error"));
    let ended = sum("exec <&-", "-c list").expect(1);
    assert_eq!(ended.stdout(), "-: FAILED open or read\n");
    assert!(ended.stderr.starts_with("stream-sum: -: Bad file descriptor\n"), "{}", ended.stderr);
    // One that can only be written is none either.
    let ended = sum("exec 0>/dev/null", "-").expect(1);
    assert_eq!((ended.stdout(), ended.sentence()), (String::new(), "stream-sum: -: Bad file descriptor"));
    // What is there and empty is something else, however it was opened.
    for setup in ["exec </dev/null", "exec <>/dev/null"] {
        assert_eq!(sum(setup, "-").expect(0).stdout(), "da39a3ee5e6b4b0d3255bfef95601890afd80709  -\n");
    }
}

#[test]
fn results_that_have_nowhere_to_go_are_a_failure_of_every_command_that_has_some() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let summer = Program::in_shell("exec >&-", "summer").with_server(&server).arg("--data-dir").arg(&data).spawn();
    fs::write(folder.path().join("a"), b"a").unwrap();
    fs::write(folder.path().join("list"), sha1sum(folder.path(), &["a".into()])).unwrap();
    let run = |setup: &str, arguments: &str| {
        Program::in_shell(setup, arguments).with_server(&server).current_dir(folder.path()).run()
    };
    for arguments in [
        "sum a",
        "sum -c list",
        "get 0badcafe000000000000000000000000",
        "status",
        "status --json --watch",
        "config",
        "topology show",
        "topology apply",
        "chunker --streams 1",
        "up --streams 1",
        "--version",
        "help",
        "sum --help",
    ] {
        let ended = run("exec >&-", arguments).expect(1);
        assert!(ended.sentence().starts_with("stream-sum: standard output is closed"), "{arguments}: {}", ended.stderr);
    }
    let ended = run("exec 1</dev/null", "config").expect(1);
    assert!(ended.sentence().contains("open for reading only"), "{}", ended.stderr);
    for arguments in ["--version", "sum a"] {
        let ended = run("exec >/dev/full", arguments).expect(1);
        assert!(ended.sentence().contains("No space left on device"), "{}", ended.stderr);
    }
    // What has none needs no place for them; nor is /dev/null none, however it was opened.
    run("exec >&-", "sum -c --status list").expect(0);
    run("exec >/dev/null", "sum a").expect(0);
    run("exec 1<>/dev/null", "sum a").expect(0);
    // Nobody could be told that standard error is closed.
    assert_eq!(run("exec 2>&-", "sum a").expect(0).stdout, sha1sum(folder.path(), &["a".into()]));
    run("exec 2>&-", "sum missing").expect(1);
    run("exec <&- >&- 2>&-", "sum a").expect(1);
    summer.stop().expect(0);
}
