//! `up`: the local stack, what happens when parts of it die, and that nothing of it is left behind.

use crate::support::{PATIENCE, Process, Program, Server, Terminal, apply, count, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// `up` with a folder of its own for what is temporary.
fn up(temporary: &Path, arguments: &str) -> Program {
    Program::new("up")
        .args(&arguments.split_whitespace().collect::<Vec<_>>())
        .env_path("TMPDIR", temporary)
        .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "256MiB")
}

/// The numbers behind "pid" in what `up` says of one of its children, the first to the last.
fn pids(process: &Process, child: &str) -> Vec<i32> {
    let said = process.stderr_so_far();
    let lines = said.lines().filter(|line| line.contains(child) && !line.contains("starting it again"));
    let pids = lines.filter_map(|line| line.split("(pid ").nth(1)?.split(')').next()?.parse().ok());
    pids.collect()
}

/// `up` without end, at work, and its nats-server and two summers.
fn at_work(temporary: &Path) -> (Process, Vec<i32>) {
    let up = up(temporary, "--rate 20000").spawn();
    wait_for("a line", || up.stderr_so_far().contains(" verified  "));
    let all: Vec<i32> = ["nats-server", "summer 0", "summer 1"].iter().flat_map(|child| pids(&up, child)).collect();
    assert_eq!(all.len(), 3);
    (up, all)
}

fn runs(pid: i32) -> bool {
    // A process that nobody has waited for yet has no command line left.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[track_caller]
fn nothing_left(temporary: &Path, pids: &[i32]) {
    wait_for("everything to be gone", || {
        !pids.iter().copied().any(runs) && fs::read_dir(temporary).unwrap().next().is_none()
    });
}

#[test]
fn a_stack_has_a_server_of_its_own_whatever_server_every_client_is_told_of() {
    let temporary = tempfile::tempdir().unwrap();
    let up = up(temporary.path(), "--streams 10").env("NATS_URL", "nats://127.0.0.1:1").spawn();
    let ended = up.wait_for(PATIENCE).expect(0);
    let said = ended.stdout();
    assert!(said.contains("verified                10"), "{said}");
}

#[test]
fn a_killed_summer_and_a_killed_server_are_started_again_and_the_run_is_verified() {
    let temporary = tempfile::tempdir().unwrap();
    let report = temporary.path().with_extension("json");
    let up = up(temporary.path(), "--rate 40000 --partitions 4").arg("--report").arg(&report).spawn();
    let said = |what: &str| wait_for(what, || up.stderr_so_far().contains(what));
    said(" chunks/s ");
    let first = pids(&up, "summer 1")[0];
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    said(&format!("summer 1 (pid {first}) was killed by SIGKILL: starting it again"));
    said("summer 1 runs again (pid ");
    let server = pids(&up, "nats-server")[0];
    kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
    said(&format!("nats-server (pid {server}) was killed by SIGKILL: starting it again"));
    said("nats-server runs again (pid ");
    let all: Vec<i32> = ["nats-server", "summer 0", "summer 1"].iter().flat_map(|child| pids(&up, child)).collect();
    assert!(all.len() >= 5, "{}", up.stderr_so_far());
    // And on it goes: a stream is verified that was not when the server came back.
    let verified = || {
        let said = up.stderr_so_far();
        let lines = said.lines().filter_map(|line| line.split(" verified").next()?.rsplit("  ").next());
        lines.filter_map(|number| number.replace(',', "").parse::<u64>().ok()).next_back().unwrap_or(0)
    };
    let before = verified();
    wait_for("more", || verified() > before + 100);
    up.signal(Signal::SIGTERM);
    let ended = up.wait_for(Duration::from_secs(15)).expect(0);
    let said: Value = serde_json::from_str(&fs::read_to_string(&report).unwrap()).unwrap();
    assert!(count(&said, "verified") > before + 100, "{said}");
    assert_eq!(count(&said, "verified") + count(&said, "unfinished"), count(&said, "streams"), "{said}");
    fs::remove_file(report).unwrap();
    assert!(ended.stderr.contains("nats --server nats://127.0.0.1:") && ended.stderr.contains(" status --watch"));
    nothing_left(temporary.path(), &all);
}

#[test]
fn a_killed_server_is_a_handful_of_lines_of_each_process() {
    let temporary = tempfile::tempdir().unwrap();
    let (up, all) = at_work(temporary.path());
    let before = up.stderr_so_far().len();
    let since = || up.stderr_so_far()[before..].to_owned();
    kill(Pid::from_raw(all[0]), Signal::SIGKILL).unwrap();
    wait_for("the server", || since().contains("nats-server runs again (pid "));
    let lines = || since().lines().filter(|line| line.contains(" verified  ")).count();
    let seen = lines();
    wait_for("three more seconds of work", || lines() >= seen + 3);
    let said = since();
    // How late finals are is said once a second for as long as they are: it is no trouble of a connection.
    let is_trouble = |line: &&str| (line.contains("WARN") || line.contains("ERROR")) && !line.contains("are delayed");
    let troubles: Vec<&str> = said.lines().filter(is_trouble).collect();
    let of = |name: &str| troubles.iter().filter(|line| line.starts_with(&format!("{name} | "))).count();
    let of_summers = ["summer 0", "summer 1"].map(of);
    // The connection, the logs that are opened again, the group, and what may not be out: each kind once, whatever meets it.
    assert!(of_summers.iter().all(|lines| (1..=4).contains(lines)), "{said}");
    // Two of these say what became of the server itself.
    assert!(troubles.len() - of_summers.iter().sum::<usize>() <= 5, "{said}");
    up.stop().expect(0);
    nothing_left(temporary.path(), &all);
}

#[test]
fn an_interrupt_counts_what_is_unfinished_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let (up, all) = at_work(temporary.path());
    up.signal(Signal::SIGINT);
    let ended = up.wait_for(Duration::from_secs(15)).expect(0);
    let unfinished =
        ended.stdout().lines().find_map(|line| line.strip_prefix("unfinished")?.trim().parse::<u64>().ok());
    assert!(unfinished.unwrap() > 0, "{}", ended.stdout());
    nothing_left(temporary.path(), &all);
}

#[test]
fn whoever_kills_it_kills_all_of_it() {
    let temporary = tempfile::tempdir().unwrap();
    let (up, all) = at_work(temporary.path());
    up.kill();
    nothing_left(temporary.path(), &all);
}

#[test]
fn a_keeper_that_is_killed_has_a_successor() {
    let temporary = tempfile::tempdir().unwrap();
    let (up, all) = at_work(temporary.path());
    let keepers = || -> Vec<i32> {
        let children = format!("/proc/{0}/task/{0}/children", up.pid());
        let children = fs::read_to_string(children).unwrap();
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(|pid| !all.contains(pid)).collect()
    };
    let first = keepers();
    assert_eq!(first.len(), 1);
    // It is asked to stop, and does not; killed it is.
    kill(Pid::from_raw(first[0]), Signal::SIGTERM).unwrap();
    kill(Pid::from_raw(first[0]), Signal::SIGKILL).unwrap();
    wait_for("another keeper", || keepers().first().is_some_and(|keeper| *keeper != first[0] && runs(*keeper)));
    up.kill();
    nothing_left(temporary.path(), &all);
}

#[test]
fn with_a_server_that_hangs_it_still_ends_in_time() {
    let temporary = tempfile::tempdir().unwrap();
    let (up, all) = at_work(temporary.path());
    kill(Pid::from_raw(all[0]), Signal::SIGSTOP).unwrap();
    up.signal(Signal::SIGTERM);
    up.wait_for(Duration::from_secs(11)).expect(0);
    nothing_left(temporary.path(), &all);
}

#[test]
fn at_a_terminal_one_line_is_rewritten_and_ctrl_c_is_one_signal() {
    let temporary = tempfile::tempdir().unwrap();
    let environment =
        [("TMPDIR", temporary.path().to_str().unwrap()), ("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "256MiB")];
    let mut terminal = Terminal::new("up --rate 20000", &environment);
    wait_for("the line", || terminal.screen().matches(" in flight ").count() >= 3);
    terminal.press(b"\x03");
    let (code, screen) = terminal.end();
    assert_eq!(code, Some(0), "{screen}");
    assert!(screen.contains("latency     p50"), "{screen}");
    // To the start of the line, and cleared: the lines before it are gone.
    assert!(screen.contains("\r\x1b[2K"), "rewritten: {screen:?}");
    assert_eq!(screen.matches("stopping: draining and committing").count(), 1, "{screen}");
    assert!(!screen.contains("was killed") && !screen.contains("starting it again"), "{screen}");
    nothing_left(temporary.path(), &[]);
}

#[tokio::test]
async fn a_stack_of_ones_own_remembers_for_minutes_unless_told_otherwise() {
    let temporary = tempfile::tempdir().unwrap();
    for (retention, kept, expiry) in [(None, 300, "5m"), (Some("2h"), 7200, "5m")] {
        let mut program = up(temporary.path(), "--rate 1000 --partitions 2");
        if let Some(retention) = retention {
            program = program.env("STREAM_SUM_TOPOLOGY__SUMS_RETENTION", retention);
        }
        let up = program.spawn();
        wait_for("a line", || up.stderr_so_far().contains(" verified  "));
        let said = up.stderr_so_far();
        let url = said.split_whitespace().find(|word| word.starts_with("nats://")).unwrap().to_owned();
        let jetstream = async_nats::jetstream::new(async_nats::connect(url).await.unwrap());
        let sums = jetstream.get_stream("sums").await.unwrap();
        assert_eq!(sums.cached_info().config.max_age, Duration::from_secs(kept));
        let log = jetstream.get_stream("chunks-1").await.unwrap();
        assert_eq!(log.cached_info().config.metadata["stream-sum.completed-expiry"], expiry);
        up.stop().expect(0);
    }
}

#[test]
fn a_second_ctrl_c_does_not_wait_and_still_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let (up, all) = at_work(temporary.path());
    // A server that does not answer: what was sent can't be verified, so there is something to wait for.
    kill(Pid::from_raw(all[0]), Signal::SIGSTOP).unwrap();
    up.signal(Signal::SIGINT);
    wait_for("the first", || up.stderr_so_far().contains("stopping: draining"));
    up.signal(Signal::SIGINT);
    assert_eq!(up.wait_for(Duration::from_secs(5)).code(), 130);
    nothing_left(temporary.path(), &all);
}

#[test]
fn a_server_that_is_there_is_used_with_the_partitions_that_it_has() {
    let server = Server::start();
    apply(&server, 3);
    let temporary = tempfile::tempdir().unwrap();
    let ended = up(temporary.path(), "--streams 200 --summers 3").args(&["--server", &server.url()]).run().expect(0);
    assert!(!ended.stderr.contains("store in"), "{}", ended.stderr);
    assert!(ended.stderr.contains("summer 2     shares the partitions (pid "), "{}", ended.stderr);
    let ended = up(temporary.path(), "--streams 1 --summers 4").args(&["--server", &server.url()]).run().expect(2);
    assert!(ended.sentence().contains("4 summers for 3 partitions"), "{}", ended.stderr);
    nothing_left(temporary.path(), &[]);
}

#[test]
fn a_folder_that_is_named_is_kept_and_gone_on_with() {
    let temporary = tempfile::tempdir().unwrap();
    let kept = tempfile::tempdir().unwrap();
    let kept = kept.path().join("stack");
    for run in ["0badcafe", "1badcafe"] {
        up(temporary.path(), "--streams 300 --partitions 2")
            .arg("--data-dir")
            .arg(&kept)
            .args(&["--id-prefix", run])
            .run()
            .expect(0);
    }
    let again = up(temporary.path(), "--streams 1 --id-prefix 0badcafe").arg("--data-dir").arg(&kept).run().expect(2);
    assert!(again.sentence().contains("sums holds finals 0badcafe.* already"), "{}", again.stderr);
    let running = up(temporary.path(), "--rate 1000").arg("--data-dir").arg(&kept).spawn();
    wait_for("a line", || running.stderr_so_far().contains(" in flight "));
    let second = up(temporary.path(), "--streams 1").arg("--data-dir").arg(&kept).run().expect(1);
    assert!(second.sentence().contains("is in use by another nats-server"), "{}", second.stderr);
    running.stop().expect(0);
    assert!(kept.join("summer-0/chunks-0.redb").is_file() && kept.join("nats/jetstream").is_dir());
}

#[test]
fn a_port_or_folder_in_the_way_is_one_sentence() {
    let temporary = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let ended = up(temporary.path(), &format!("--streams 1 --port {port}")).run().expect(1);
    assert!(ended.sentence().contains(&format!("127.0.0.1:{port} can't be listened on")), "{}", ended.stderr);
    assert!(ended.sentence().contains("--port"), "{}", ended.stderr);
    nothing_left(temporary.path(), &[]);

    let file = temporary.path().join("file");
    fs::write(&file, "").unwrap();
    let ended = up(temporary.path(), "--streams 1").arg("--data-dir").arg(&file).run().expect(1);
    assert!(ended.sentence().contains("name another with --data-dir"), "{}", ended.stderr);
    let ended = up(&file, "--streams 1").run().expect(1);
    assert!(ended.sentence().contains("set TMPDIR, or name a folder with --data-dir"), "{}", ended.stderr);
    fs::remove_file(&file).unwrap();

    let ended = up(temporary.path(), "--streams 1").env("STREAM_SUM_CHUNKER__CHUNK_BYTES", "1048576").run().expect(2);
    assert!(ended.sentence().contains("chunker.chunk_bytes is 1048576"), "{}", ended.stderr);
    nothing_left(temporary.path(), &[]);
}

#[test]
fn a_server_of_ones_own_listens_where_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("nats://127.0.0.1:{port}");
    // Where the other commands look for it.
    let mut server = Program::new("server").env("NATS_URL", &url).arg("--data-dir").arg(folder.path()).spawn();
    Program::new("topology apply --partitions 2").args(&["--server", &url]).run().expect(0);
    assert!(folder.path().join("jetstream").is_dir());
    let second = |port: u16, folder: &Path| {
        Program::new(&format!("server --port {port}")).arg("--data-dir").arg(folder).run().expect(1)
    };
    let other = tempfile::tempdir().unwrap();
    let taken = second(port, other.path());
    assert!(taken.sentence().contains(&format!("127.0.0.1:{port} can't be listened on")), "{}", taken.stderr);
    // Two servers on one store would spoil it.
    let used = second(port + 1, folder.path());
    assert!(used.sentence().contains("is in use by another nats-server"), "{}", used.stderr);
    let elsewhere =
        Program::new("server").env("NATS_URL", "nats://192.0.2.1:4222").current_dir(folder.path()).run().expect(2);
    assert!(elsewhere.sentence().contains("name a --port"), "{}", elsewhere.stderr);
    assert!(server.is_running());
    server.signal(Signal::SIGINT);
    server.wait_for(PATIENCE);
}

#[test]
fn a_server_listens_on_the_very_address_that_the_others_look_for() {
    let folder = tempfile::tempdir().unwrap();
    let Ok(free) = TcpListener::bind("[::1]:0") else { return };
    let url = format!("nats://{}", free.local_addr().unwrap());
    drop(free);
    let server = Program::new("server").env("NATS_URL", &url).arg("--data-dir").arg(folder.path()).spawn();
    Program::new("topology apply --partitions 2").env("NATS_URL", &url).run().expect(0);
    server.signal(Signal::SIGINT);
    server.wait_for(PATIENCE);
}

#[test]
fn a_data_folder_need_not_have_a_name_that_is_text() {
    let temporary = tempfile::tempdir().unwrap();
    let kept = temporary.path().join(OsStr::from_bytes(b"k\xe9pt"));
    up(temporary.path(), "--streams 20 --partitions 2").arg("--data-dir").arg(&kept).run().expect(0);
    assert!(kept.join("summer-0/chunks-0.redb").is_file());
}

#[test]
fn where_no_nats_server_can_be_kept_the_way_out_is_named() {
    let temporary = tempfile::tempdir().unwrap();
    let ended = up(temporary.path(), "--streams 1")
        .env("NATS_SERVER", "")
        .env("PATH", "/usr/bin:/bin")
        .env("CARGO_MANIFEST_DIR", "/dev/null")
        .env("XDG_CACHE_HOME", "/dev/null/cache")
        .current_dir(temporary.path())
        .run()
        .expect(1);
    assert!(ended.sentence().contains("or set NATS_SERVER to a nats-server 2.10 or newer"), "{}", ended.stderr);
}
