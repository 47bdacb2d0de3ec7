//! The real program: not yet started, running, and ended.

use super::{PATIENCE, Server, nats_server_program, parse_log, pid, wait_for};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What a program that has ended left behind.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ended {
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    pub fn stdout(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }

    /// The one line in which the program says what went wrong.
    pub fn sentence(&self) -> &str {
        let said: Vec<_> = self.stderr.lines().filter(|line| line.starts_with("stream-sum: ")).collect();
        assert_eq!(said.len(), 1, "one sentence: {}", self.stderr);
        assert!(!self.stderr.contains("panicked") && !self.stderr.contains("backtrace"), "{}", self.stderr);
        said[0]
    }

    /// Asserts the exit code, and shows why where it is another.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "stdout: {}\nstderr: {}", String::from_utf8_lossy(&self.stdout), self.stderr);
        self
    }
}

/// The program with arguments and environment, not yet started.
pub struct Program {
    command: Command,
    folder: TempDir,
}

impl Program {
    /// `arguments` are split at spaces.
    pub fn new(arguments: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stream-sum"));
        command.args(arguments.split_whitespace());
        Self::of(command)
    }

    /// An example of the package, which cargo builds beside the program.
    pub fn example(name: &str) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_stream-sum"));
        Self::of(Command::new(program.with_file_name("examples").join(name)))
    }

    /// An example of jetfold, against a server.
    pub fn of_jetfold(name: &str, server: &Server, arguments: &str) -> Self {
        // With only some of the tests asked for, cargo has not built it.
        static BUILT: Mutex<()> = Mutex::new(());
        let building = BUILT.lock();
        let built =
            Command::new(env!("CARGO")).args(["build", "--quiet", "--locked", "--workspace", "--examples"]).status();
        assert!(built.unwrap().success());
        drop(building);
        let mut program = Self::example(name).env("NATS_URL", &server.url());
        program.command.args(arguments.split_whitespace());
        program
    }

    /// The program in the place of a shell that has done `setup` first, as in `ulimit -n 24`.
    pub fn in_shell(setup: &str, arguments: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{setup}\nexec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_stream-sum")]);
        command.args(arguments.split_whitespace());
        Self::of(command)
    }

    fn of(mut command: Command) -> Self {
        command.stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            // A bug that is planted is in the program as well.
            let is_planted = name == "JETFOLD_PLANTED";
            if name.starts_with("STREAM_SUM") || name.starts_with("JETFOLD") && !is_planted || name == "NATS_URL" {
                command.env_remove(name);
            }
        }
        command.env("NATS_SERVER", nats_server_program());
        Self { command, folder: tempfile::tempdir().unwrap() }
    }

    pub fn at(server: &Server, arguments: &str) -> Self {
        Self::new(arguments).with_server(server)
    }

    pub fn with_server(self, server: &Server) -> Self {
        self.env("STREAM_SUM_NATS__SERVERS", &server.url())
    }

    pub fn arg(mut self, argument: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub fn args(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn env_path(mut self, name: &str, value: &Path) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn stdin(mut self, file: &Path) -> Self {
        self.command.stdin(File::open(file).unwrap());
        self
    }

    pub fn current_dir(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    pub fn spawn(mut self) -> Process {
        let (stdout, stderr) = (self.folder.path().join("stdout"), self.folder.path().join("stderr"));
        let child =
            self.command.stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap()).spawn().unwrap();
        Process { child: Some(child), _folder: self.folder, stdout, stderr }
    }

    pub fn env_bytes(mut self, name: &str, value: &[u8]) -> Self {
        self.command.env(name, std::os::unix::ffi::OsStrExt::from_bytes(value) as &std::ffi::OsStr);
        self
    }

    /// Runs it to its end.
    pub fn run(self) -> Ended {
        self.spawn().wait()
    }
}

/// The program, running. Killed when it is dropped.
pub struct Process {
    child: Option<Child>,
    _folder: TempDir,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(pid(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// Waits for its end, as long as a whole test may take.
    pub fn wait(self) -> Ended {
        self.wait_for(4 * PATIENCE)
    }

    #[track_caller]
    pub fn wait_for(mut self, patience: Duration) -> Ended {
        let deadline = Instant::now() + patience;
        let mut child = self.child.take().unwrap();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() >= deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("it did not end within {patience:?}: {}", fs::read_to_string(&self.stderr).unwrap());
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        Ended {
            status,
            stdout: fs::read(&self.stdout).unwrap(),
            stderr: String::from_utf8_lossy(&fs::read(&self.stderr).unwrap()).into_owned(),
        }
    }

    /// Asks it to stop, and waits for its end.
    #[track_caller]
    pub fn stop(mut self) -> Ended {
        // One that was started a moment ago would be ended by the signal itself.
        wait_for("SIGTERM to be watched", || self.catches(Signal::SIGTERM) || !self.is_running());
        if self.is_running() {
            self.signal(Signal::SIGTERM);
        }
        self.wait_for(Duration::from_secs(15))
    }

    /// Ends it without a chance to clean up, and gives back what it had logged.
    pub fn kill(mut self) -> Vec<Value> {
        if self.is_running() {
            self.signal(Signal::SIGKILL);
        }
        parse_log(&self.wait().stderr)
    }

    /// What it has logged so far.
    pub fn log(&self) -> Vec<Value> {
        parse_log(&String::from_utf8_lossy(&fs::read(&self.stderr).unwrap()))
    }

    /// Whether the process handles SIGTERM and SIGINT itself by now.
    pub fn watches_signals(&self) -> bool {
        self.catches(Signal::SIGTERM) && self.catches(Signal::SIGINT)
    }

    fn catches(&self, signal: Signal) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        caught & (1 << (signal as i32 - 1)) != 0
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    pub fn stderr_so_far(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap()).into_owned()
    }

    pub fn stdout_so_far(&self) -> Vec<u8> {
        fs::read(&self.stdout).unwrap()
    }

    #[track_caller]
    pub fn wait_for_log(&self, message: &str, times: usize) {
        wait_for(message, || self.log().iter().filter(|entry| entry["message"] == message).count() >= times);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
            if std::thread::panicking() {
                let said = fs::read_to_string(&self.stderr).unwrap_or_default();
                let lines: Vec<_> = said.lines().collect();
                eprintln!("the last that it said:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
            }
        }
    }
}
