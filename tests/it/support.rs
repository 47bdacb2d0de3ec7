//! A real nats-server, the real program, and waiting for conditions.

mod terminal;

pub use terminal::Terminal;

use async_nats::jetstream;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use stream_sum::final_names::{FinalNames, names};
use stream_sum::local_server::LocalServer;
use stream_sum::nats_server;
use stream_sum::stream_id::StreamId;
use tempfile::TempDir;

/// How long a condition may take on a machine that does many things at once.
pub const PATIENCE: Duration = Duration::from_secs(60);

fn nats_server_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools");
        nats_server::find_for_tests(&tools).unwrap_or_else(|error| panic!("{error}"))
    })
}

/// A nats-server of the test's own, on a free port, with its store in a temporary folder.
pub struct Server {
    folder: TempDir,
    local: LocalServer,
    child: Option<Child>,
}

impl Server {
    pub fn start() -> Self {
        Self::with_config("")
    }

    /// `extra` is appended to the configuration file.
    pub fn with_config(extra: &str) -> Self {
        Self::with(Some(&names("").mapping(8)), extra)
    }

    /// `mapping` is the account mapping for clients that can't hash.
    pub fn with(mapping: Option<&(String, String)>, extra: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let local = LocalServer::new(nats_server_program().to_owned(), folder.path(), None, mapping, extra).unwrap();
        let mut server = Self { folder, local, child: None };
        server.launch();
        server
    }

    fn launch(&mut self) {
        let mut child = self.local.logged_command().unwrap().spawn().unwrap();
        wait_for("nats-server to listen", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("nats-server ended ({status}): {}", self.local.last_word());
            }
            self.local.listens(child.id())
        });
        self.child = Some(child);
    }

    pub fn store(&self) -> PathBuf {
        self.local.store()
    }

    /// What it has said.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.local.log()).unwrap()).into_owned()
    }

    pub fn url(&self) -> String {
        self.local.url()
    }

    pub fn signal(&self, signal: Signal) {
        kill(pid(self.child.as_ref().expect("a server that runs")), signal).unwrap();
    }

    /// Ends the server as a signal does.
    pub fn stop(&mut self, signal: Signal) {
        let mut child = self.child.take().expect("a server that runs");
        kill(pid(&child), signal).unwrap();
        child.wait().unwrap();
    }

    /// Starts it again, where it was, with what it had stored.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "it runs");
        self.launch();
    }

    /// Gives the running server another configuration, as its operator would. `extra` is what comes after the usual.
    pub fn reconfigure(&self, extra: &str) {
        let usual = include_str!("../../nats/local.conf");
        fs::write(self.folder.path().join("local.conf"), format!("{usual}\n{extra}")).unwrap();
        self.signal(Signal::SIGHUP);
    }

    pub async fn client(&self) -> async_nats::Client {
        async_nats::connect(self.url()).await.unwrap()
    }

    pub async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client().await)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Three servers that know each other. Routes need ports that are known beforehand, so free ones are picked.
pub fn cluster() -> Vec<Server> {
    let held: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<_> = held.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
    drop(held);
    let routes: Vec<_> = ports.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
    let node = |(n, port): (usize, &u16)| {
        Server::with_config(&format!(
            "server_name: node-{n}\ncluster {{ name: test, host: 127.0.0.1, port: {port}, routes: [{}] }}\n",
            routes.join(", ")
        ))
    };
    ports.iter().enumerate().map(node).collect()
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap())
}

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
            if name.starts_with("STREAM_SUM") || name == "NATS_URL" {
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

pub fn parse_log(text: &str) -> Vec<Value> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The sum of a field over log entries of one message.
pub fn total(log: &[Value], message: &str, field: &str) -> u64 {
    log.iter().filter(|entry| entry["message"] == message).filter_map(|entry| entry[field].as_u64()).sum()
}

#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits for something that has to be asked for.
pub async fn wait_until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A topology of `partitions` on a server, small enough for any disk.
pub fn apply(server: &Server, partitions: u32) {
    Program::at(server, &format!("topology apply --partitions {partitions}"))
        .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "256MiB")
        .env("STREAM_SUM_TOPOLOGY__SUMS_MAX_BYTES", "256MiB")
        .run()
        .expect(0);
}

/// A summer with a data folder, and whatever else it takes.
pub fn summer(server: &Server, folder: &Path, more: &str) -> Program {
    Program::at(server, &format!("summer {more}")).arg("--data-dir").arg(folder)
}

/// What `status --json` prints, whether all partitions are folded or not.
pub fn status(server: &Server) -> Value {
    let ended = Program::at(server, "status --json").run();
    assert!([0, 1].contains(&ended.code()), "{}", ended.stderr);
    serde_json::from_str(&ended.stdout()).unwrap_or_else(|error| panic!("{error}: {}", ended.stderr))
}

/// Publishes a message byte by byte, with headers that no client library would send, and waits until the server has read it: who
/// hangs up with something unread takes back what the server has not read either.
pub fn publish_raw(server: &Server, subject: &str, headers: &str, payload: &[u8]) {
    let mut raw = TcpStream::connect(server.url().trim_start_matches("nats://")).unwrap();
    raw.write_all(b"CONNECT {\"verbose\":false,\"headers\":true}\r\n").unwrap();
    write!(raw, "HPUB {subject} {} {}\r\n{headers}", headers.len(), headers.len() + payload.len()).unwrap();
    raw.write_all(payload).unwrap();
    raw.write_all(b"\r\nPING\r\n").unwrap();
    raw.set_read_timeout(Some(PATIENCE)).unwrap();
    let answered = BufReader::new(raw).lines().any(|line| line.unwrap() == "PONG");
    assert!(answered, "the server hung up");
}

/// The number of a field of a chunker's report.
pub fn count(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("no {field} in {report}"))
}

/// A chunk batch, byte by byte as a foreign client would write it.
pub fn batch(chunks: &[(StreamId, u64, &[u8])]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, seq_no, data) in chunks {
        payload.extend([0x93, 0xc4, 16]);
        payload.extend(id.as_bytes());
        match u8::try_from(*seq_no) {
            Ok(seq_no) if seq_no < 128 => payload.push(seq_no),
            Ok(seq_no) => payload.extend([0xcc, seq_no]),
            Err(_) => {
                payload.push(0xcf);
                payload.extend(seq_no.to_be_bytes());
            }
        }
        match u8::try_from(data.len()) {
            Ok(len) => payload.extend([0xc4, len]),
            Err(_) => {
                payload.push(0xc6);
                payload.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
            }
        }
        payload.extend(*data);
    }
    payload
}

/// The `n`-th ID, of those that begin with `tag`, that belongs to a partition.
pub fn id_in(partition: u32, partitions: u32, tag: u8, n: usize) -> StreamId {
    let ids = (0..u64::MAX).map(|n| {
        let mut bytes = [tag; 16];
        bytes[8..].copy_from_slice(&n.to_be_bytes());
        StreamId::new(bytes)
    });
    ids.filter(|id| id.partition(partitions) == partition).nth(n).unwrap()
}

/// Every message of a stream, read one by one as any client can.
pub async fn messages(jetstream: &jetstream::Context, stream: &str) -> Vec<jetstream::message::StreamMessage> {
    let stream = jetstream.get_stream(stream).await.unwrap();
    let state = &stream.cached_info().state;
    let mut all = Vec::new();
    for sequence in state.first_sequence.max(1)..=state.last_sequence {
        if let Ok(message) = stream.get_raw_message(sequence).await {
            all.push(message);
        }
    }
    all
}

/// Copies a folder with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Bytes that do not repeat, cheaply.
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}
