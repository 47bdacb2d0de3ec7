//! `ReportFile`: the file of `--report`, which holds a whole report at any time.
//!
//! | what the name stands for | is written |
//! | --- | --- |
//! | a file, or nothing yet; symbolic links are followed | every few seconds: a new file takes its place |
//! | a file in a folder that takes no other | every few seconds, over what it holds |
//! | a pipe, a device, or an open file of a process as /dev/stdout | once, at the end |

use crate::cli::config::Config;
use crate::cli::document::Head;
use crate::cli::ending::CliError;
use crate::run::report::{Report, Verdict};
use jetfold::joined;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// How old what is written may be while a run goes on.
const PERIOD: Duration = Duration::from_secs(5);

/// Where the open files of a process have names.
const DESCRIPTORS: [&str; 2] = ["/proc", "/dev/fd"];

/// Symbolic links that lead to one another, at the most: as many as the system follows.
const MOST_LINKS: usize = 40;

pub struct ReportFile {
    path: PathBuf,
    head: Head,
    way: Way,
    is_failing: bool,
}

enum Way {
    Replace(PathBuf),
    Over(File),
    Once(File),
}

impl ReportFile {
    /// Writes the first report: a run of hours must not end with one that can't be written. Blocks the thread, with a pipe
    /// until somebody reads it.
    pub fn open(path: PathBuf, config: &Config) -> Result<Self, CliError> {
        let head = Head::new(config);
        let first = head.document(Verdict::Running, None, &Report::default());
        match Way::open(&path, &first) {
            Ok(way) => Ok(Self { path, head, way, is_failing: false }),
            Err(cause) => Err(CliError::Report { path, cause }),
        }
    }

    /// Writes how the run stands now and then, until it is over.
    pub async fn keep(mut self, mut reports: watch::Receiver<Report>) -> Self {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let mut has_begun = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                changed = reports.changed() => match changed {
                    Err(_) => return self,
                    // Which run it is should be known however soon it is killed.
                    Ok(()) if !has_begun && reports.borrow().facts.is_some() => has_begun = true,
                    Ok(()) => continue,
                }
            }
            let report = reports.borrow().clone();
            let written = tokio::task::spawn_blocking(move || {
                self.write_between(&report);
                self
            });
            self = joined(written.await);
        }
    }

    fn write_between(&mut self, report: &Report) {
        let document = self.head.document(Verdict::under_way(&report.counts), None, report);
        let written = self.way.write_between(document.as_bytes());
        if let (Err(cause), false) = (&written, self.is_failing) {
            tracing::warn!(%cause, "the report {} can't be written for now", self.path.display());
        }
        self.is_failing = written.is_err();
    }

    /// Writes the last report.
    pub fn close(mut self, verdict: Verdict, failure: Option<&str>, report: &Report) -> Result<(), CliError> {
        let document = self.head.document(verdict, failure, report);
        self.way.write(document.as_bytes()).map_err(|cause| CliError::Report { path: self.path, cause })
    }
}

impl Way {
    fn open(path: &Path, first: &str) -> io::Result<Self> {
        let path = behind_links(path)?;
        if let Some(file) = descriptor(&path) {
            return Ok(Self::Once(file?));
        }
        if fs::metadata(&path).is_ok_and(|there| !there.is_file()) {
            return Ok(Self::Once(OpenOptions::new().write(true).open(path)?));
        }
        if replace(&path, first.as_bytes()).is_ok() {
            return Ok(Self::Replace(path));
        }
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        write_over(&mut file, first.as_bytes())?;
        Ok(Self::Over(file))
    }

    fn write_between(&mut self, text: &[u8]) -> io::Result<()> {
        if let Self::Once(_) = self { Ok(()) } else { self.write(text) }
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        match self {
            Self::Replace(path) => replace(path, text),
            Self::Over(file) => write_over(file, text),
            Self::Once(file) => file.write_all(text),
        }
    }
}

/// Puts a new file in the place of the one that is there: whoever reads it, or kills this process, finds a whole one.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let there = fs::metadata(path).ok().map(|there| there.permissions());
    let mut file = tempfile::Builder::new()
        .prefix(".report-")
        // Less what the umask takes away.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder(path))?;
    if let Some(permissions) = there {
        file.as_file().set_permissions(permissions)?;
    }
    file.write_all(text)?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

fn write_over(file: &mut File, text: &[u8]) -> io::Result<()> {
    file.rewind()?;
    file.write_all(text)?;
    file.set_len(text.len() as u64)
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The name behind symbolic links, in a folder that is none; up to the name of an open file, whatever that is a link to.
fn behind_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let Some(name) = path.file_name() else { return Ok(path) };
        let real = fs::canonicalize(folder(&path))?.join(name);
        match fs::read_link(&real) {
            Ok(target) if !names_descriptor(&real) => path = folder(&real).join(target),
            _ => return Ok(real),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

fn names_descriptor(real: &Path) -> bool {
    DESCRIPTORS.iter().any(|folder| real.starts_with(folder))
}

/// The open file that a name stands for, where it does. What is in it already stays.
fn descriptor(real: &Path) -> Option<io::Result<File>> {
    if !names_descriptor(real) {
        return None;
    }
    let ours = |folder: &Path| {
        folder == Path::new("/dev/fd") || fs::canonicalize("/proc/self/fd").is_ok_and(|ours| ours == folder)
    };
    // Opened anew, a file has a place of its own to write at, and what is printed to it goes over what is written here.
    Some(match real.file_name().and_then(|name| name.to_str()) {
        Some("1") if ours(folder(real)) => io::stdout().as_fd().try_clone_to_owned().map(File::from),
        Some("2") if ours(folder(real)) => io::stderr().as_fd().try_clone_to_owned().map(File::from),
        _ => OpenOptions::new().append(true).open(real),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::config::Sources;
    use std::os::unix::fs::symlink;

    fn opened(path: &Path) -> ReportFile {
        ReportFile::open(path.to_owned(), &Config::load(Sources::default()).unwrap()).unwrap()
    }

    fn verdict(path: &Path) -> String {
        let report: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        report["verdict"].as_str().unwrap().to_owned()
    }

    fn close(file: ReportFile) {
        file.close(Verdict::Verified, None, &Report::default()).unwrap();
    }

    #[test]
    fn a_file_holds_a_whole_report_at_any_time_and_keeps_its_mode_and_the_link_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("report.json"), folder.path().join("link"));
        fs::write(&path, "one of last week").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        symlink("report.json", &link).unwrap();
        let mut file = opened(&link);
        assert_eq!(verdict(&path), "running");
        file.write_between(&Report::default());
        assert_eq!(verdict(&path), "running");
        close(file);
        assert_eq!((verdict(&path), verdict(&link)), ("verified".to_owned(), "verified".to_owned()));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left beside it");
    }

    #[test]
    fn what_is_no_file_is_written_once_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || io::read_to_string(File::open(pipe).unwrap()).unwrap()
        });
        let mut file = opened(&pipe);
        file.write_between(&Report::default());
        close(file);
        let read = reader.join().unwrap();
        assert!(read.contains("\"verified\"") && !read.contains("\"running\""), "{read}");
        close(opened(Path::new("/dev/null")));
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn an_open_file_of_a_process_is_neither_replaced_nor_emptied() {
        use std::os::fd::AsRawFd;
        let mut there = tempfile::NamedTempFile::new().unwrap();
        there.write_all(b"what was there\n").unwrap();
        let mut file = opened(Path::new(&format!("/dev/fd/{}", there.as_file().as_raw_fd())));
        file.write_between(&Report::default());
        close(file);
        let now = fs::read_to_string(there.path()).unwrap();
        let (first, report) = now.split_once('\n').unwrap();
        assert_eq!(first, "what was there");
        assert_eq!(serde_json::from_str::<serde_json::Value>(report).unwrap()["verdict"], "verified");
    }
}
