//! The program as somebody at a terminal has it.

use super::{nats_server_program, wait_for};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// The program at a terminal of its own, which is Python's: what is typed there goes to the processes in its foreground.
pub struct Terminal {
    child: Child,
    _folder: TempDir,
    screen: PathBuf,
}

impl Terminal {
    /// `arguments` are split at spaces.
    pub fn new(arguments: &str, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let screen = folder.path().join("screen");
        let words = [&[env!("CARGO_BIN_EXE_stream-sum")], &*arguments.split_whitespace().collect::<Vec<_>>()].concat();
        let script = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
        let child = Command::new("python3")
            .args(["-c", script])
            .args(words)
            .env("NATS_SERVER", nats_server_program())
            .env("TERM", "xterm")
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(File::create(&screen).unwrap())
            .spawn()
            .unwrap();
        Self { child, _folder: folder, screen }
    }

    pub fn press(&mut self, keys: &[u8]) {
        std::io::Write::write_all(self.child.stdin.as_mut().unwrap(), keys).unwrap();
    }

    /// Everything that was written to it, control sequences included.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.screen).unwrap()).into_owned()
    }

    /// Waits for the program's end: its exit code, and all that it wrote.
    pub fn end(mut self) -> (Option<i32>, String) {
        let mut status = None;
        wait_for("its end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        (status.and_then(|status| status.code()), self.screen())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
