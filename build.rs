//! Which commit a release is built from, for `--version` and for reports: `STREAM_SUM_COMMIT`, or what git says here. Other builds
//! name none, and are not made anew for each commit.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=STREAM_SUM_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    let given = std::env::var("STREAM_SUM_COMMIT").ok().filter(|commit| !commit.is_empty());
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = given.or_else(|| is_release.then(of_git).flatten());
    let version = std::env::var("CARGO_PKG_VERSION").expect("cargo sets it");
    let version = commit.map_or_else(|| version.clone(), |commit| format!("{version} ({commit})"));
    println!("cargo::rustc-env=STREAM_SUM_VERSION={version}");
}

/// The commit, and whether what is built is another; `None` if this is no checkout of git's, or there is no git.
fn of_git() -> Option<String> {
    let folder = git(&["rev-parse", "--absolute-git-dir"])?;
    // Each commit and each checkout adds a line to the second. What is not there would count as changed.
    let places = ["HEAD", "logs/HEAD"].map(|place| Path::new(&folder).join(place));
    for place in places.iter().filter(|place| place.exists()) {
        println!("cargo::rerun-if-changed={}", place.display());
    }
    for source in ["src", "crates", "config", "nats", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={source}");
    }
    let commit = git(&["rev-parse", "--short=10", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() { commit } else { format!("{commit}, changed") })
}

fn git(arguments: &[&str]) -> Option<String> {
    let ended = Command::new("git").args(arguments).output().ok()?;
    let said = String::from_utf8(ended.stdout).ok()?;
    ended.status.success().then(|| said.trim().to_owned())
}
