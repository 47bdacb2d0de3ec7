//! The keeper: sees to it that nothing is left behind, however its parent dies.
//!
//! A process of its own, in a process group of its own. It holds one end of a pipe; when the other end closes, because
//! the parent is done or dead, it kills what the parent has started and not seen end, and removes the parent's folder.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

/// The command under which the program is its own keeper.
pub const COMMAND: &str = "keeper";

/// What was killed a moment ago may still write.
const REMOVING: Duration = Duration::from_secs(10);

/// One line of the pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// A process was started.
    Started(u32),
    /// It has ended, and was waited for: its number may be another's from now on.
    Ended(u32),
}

impl Note {
    pub fn line(self) -> String {
        match self {
            Self::Started(pid) => format!("started {pid}\n"),
            Self::Ended(pid) => format!("ended {pid}\n"),
        }
    }

    fn read(line: &str) -> Option<Self> {
        match line.split_once(' ')? {
            ("started", pid) => Some(Self::Started(pid.parse().ok()?)),
            ("ended", pid) => Some(Self::Ended(pid.parse().ok()?)),
            _ => None,
        }
    }
}

/// Lets what is meant for the program pass by: signals that ask it to stop, and those that go to all of its name. The
/// signals are ignored for as long as what is returned is kept.
pub fn go_unnoticed() -> Vec<Signals> {
    // Only Linux has this file, and only there is it of use.
    fs::write("/proc/self/comm", COMMAND).ok();
    let ignored = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    ignored.into_iter().filter_map(|kind| signal(kind).ok()).collect()
}

/// Keeps until the pipe closes, then cleans up.
pub fn keep(pipe: impl BufRead, folder: Option<&Path>) {
    let mut running = BTreeSet::new();
    for line in pipe.lines() {
        let Ok(line) = line else { break };
        match Note::read(&line) {
            Some(Note::Started(pid)) => _ = running.insert(pid),
            Some(Note::Ended(pid)) => _ = running.remove(&pid),
            None => {}
        }
    }
    for pid in running.into_iter().filter_map(|pid| i32::try_from(pid).ok()) {
        // Gone already is as good.
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
    }
    let Some(folder) = folder else { return };
    let deadline = Instant::now() + REMOVING;
    while let Err(error) = fs::remove_dir_all(folder)
        && error.kind() != io::ErrorKind::NotFound
        && Instant::now() < deadline
    {
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn what_has_not_ended_is_killed_and_the_folder_goes() {
        let folder = tempfile::tempdir().unwrap().keep();
        fs::write(folder.join("file"), "text").unwrap();
        let sleep = || Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let (mut left, mut ended) = (sleep(), sleep());
        let notes = [Note::Started(left.id()), Note::Started(ended.id()), Note::Ended(ended.id())];
        let pipe = notes.map(Note::line).concat() + "what is this\nstarted x\n";
        keep(pipe.as_bytes(), Some(&folder));
        assert!(!folder.exists());
        assert!(!left.wait().unwrap().success());
        assert!(ended.try_wait().unwrap().is_none(), "its number may be another's");
        ended.kill().unwrap();
        ended.wait().unwrap();
    }
}
