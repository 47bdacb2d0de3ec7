//! Progress: bars at a terminal, and nowhere else.

use crate::support::{Program, Server, Terminal, apply, summer, wait_for};
use std::fs;
use std::process::Command;

#[test]
fn a_summer_shows_what_it_does_at_a_terminal_and_nothing_of_it_elsewhere() {
    let server = Server::start();
    apply(&server, 2);
    let folder = tempfile::tempdir().unwrap();
    let url = server.url();
    let environment = [("STREAM_SUM_NATS__SERVERS", url.as_str())];
    let arguments = format!("summer --worker a --data-dir {}", folder.path().display());
    let mut summing = Terminal::new(&arguments, &environment);
    wait_for("what it does", || summing.screen().contains("partitions: 2 folding; 0 streams live"));
    summing.press(b"\x03");
    let (code, screen) = summing.end();
    assert_eq!(code, Some(0), "{screen}");

    let elsewhere = summer(&server, folder.path(), "--worker a").spawn();
    elsewhere.wait_for_log("opened the log", 2);
    let ended = elsewhere.stop().expect(0);
    assert!(!ended.stderr.contains('\x1b') && !ended.stderr.contains("2 folding"), "{}", ended.stderr);
}

#[test]
fn a_finite_chunker_and_sum_show_bars_that_leave_the_results_whole() {
    let server = Server::start();
    apply(&server, 2);
    let folder = tempfile::tempdir().unwrap();
    let _summer = summer(&server, &folder.path().join("data"), "").spawn();
    let url = server.url();
    let environment = [("STREAM_SUM_NATS__SERVERS", url.as_str())];

    let (code, screen) = Terminal::new("chunker --streams 400 --chunks 10 --rate 4000", &environment).end();
    assert_eq!(code, Some(0), "{screen}");
    assert!(screen.contains(" of 400 streams verified, "), "{screen}");
    // The bar is gone when the ledger comes.
    let ledger = &screen[screen.rfind("streams   ").unwrap()..];
    assert!(ledger.lines().any(|line| line.split_whitespace().eq(["verified", "400"])), "{screen}");
    assert!(!ledger.contains('\x1b'), "{ledger:?}");

    let file = folder.path().join("file");
    fs::write(&file, vec![7; 32 << 20]).unwrap();
    let (code, screen) = Terminal::new(&format!("sum {}", file.display()), &environment).end();
    assert_eq!(code, Some(0), "{screen}");
    assert!(screen.contains(" of 32.00 MiB, "), "{screen}");
    let line = String::from_utf8(Command::new("sha1sum").arg(&file).output().unwrap().stdout).unwrap();
    assert!(screen.contains(line.trim_end()), "{screen}");

    // Elsewhere not a byte of it.
    for arguments in ["chunker --streams 10 --chunks 1".to_owned(), format!("sum {}", file.display())] {
        let ended = Program::at(&server, &arguments).run().expect(0);
        assert!(!ended.stderr.contains('\x1b') && !ended.stderr.contains("MiB"), "{}", ended.stderr);
        assert!(!ended.stdout().contains('\x1b'));
    }
}
