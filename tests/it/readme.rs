//! The README is run, not read.

use crate::support::Server;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The shell blocks, without the lines that the test itself stands for: its server, its build, and itself.
fn commands(readme: &str) -> String {
    let mut commands = String::new();
    let mut inside = false;
    for line in readme.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            "nats-server -js" | "cargo build --release" | "cargo test" => {}
            line if inside => {
                commands.push_str(line);
                commands.push('\n');
            }
            _ => {}
        }
    }
    commands
}

#[test]
fn its_commands_do_as_they_stand() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::create_dir_all(folder.path().join("target/release")).unwrap();
    symlink(env!("CARGO_BIN_EXE_stream-sum"), folder.path().join("target/release/stream-sum")).unwrap();
    for file in ["README.md", "Cargo.toml"] {
        fs::copy(project.join(file), folder.path().join(file)).unwrap();
    }
    let commands = commands(&fs::read_to_string(project.join("README.md")).unwrap());
    assert!(commands.lines().count() >= 6, "{commands}");
    // The summer that it leaves in the background ends with the script.
    let script = format!("set -eu\ntrap 'kill $(jobs -p); wait' EXIT\n{commands}");
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder.path())
        .env("NATS_URL", server.url())
        .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "64MiB")
        .env("STREAM_SUM_TOPOLOGY__SUMS_MAX_BYTES", "64MiB")
        .stdin(Stdio::null())
        .process_group(0)
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains("created sums\n"), "{stdout}");
    assert!(stdout.lines().any(|line| line.split_whitespace().eq(["verified", "1000"])), "{stdout}");
    let own = Command::new("sha1sum").args(["README.md", "Cargo.toml"]).current_dir(project).output().unwrap();
    assert!(stdout.contains(&String::from_utf8(own.stdout).unwrap()), "{stdout}");
    assert!(stdout.contains("  0badcafe000000000000000000000000  seq_no=101  2"), "{stdout}");
}
