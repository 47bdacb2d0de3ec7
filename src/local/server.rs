//! A nats-server on this machine alone: its files in a folder, and the command that starts it.

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde::Deserialize;
use std::fs::{self, File, TryLockError};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Host, port, and JetStream with more room than any disk.
const CONFIG: &str = include_str!("../../nats/local.conf");

/// Connecting to a port of this machine takes no longer, unless the server there hangs.
const CONNECT: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
pub enum LocalServerError {
    #[error("the folder {} can't be used for nats-server: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("the folder {} is in use by another nats-server: name another with --data-dir", path.display())]
    InUse { path: PathBuf },
    #[error("{address} can't be listened on ({source}): name another port with --port")]
    Port { address: SocketAddr, source: io::Error },
    #[error("nats-server ended before it listened: {0}")]
    Ended(String),
    #[error("nats-server did not listen on any port within {} s", .0.as_secs())]
    Deaf(Duration),
}

/// The file that `local.conf` includes: subjects for clients that can't hash, mapped to the logs by the server's own
/// hash, which is ours.
pub fn mapping_file((from, to): &(String, String)) -> String {
    format!(
        "# Made from the number of partitions: a chunk published to {}<ID, 32 lower-case hex> goes to the log of its stream.\n\
         mappings {{\n  \"{from}\": \"{to}\"\n}}\n",
        from.trim_end_matches('*'),
    )
}

/// The files of one server, and how it is started from them, any number of times.
#[derive(Clone, Debug)]
pub struct LocalServer {
    program: PathBuf,
    folder: PathBuf,
    host: IpAddr,
    /// Any free one where there is none; once it listens, it keeps its port.
    port: Option<u16>,
    /// Where in its log its present life begins.
    log_from: u64,
    /// Held for as long as the folder is used: two servers would spoil each other's store.
    lock: Arc<File>,
}

impl LocalServer {
    /// Writes the files of a server to `folder`, which is made where it is not there. `mapping` is source and
    /// destination of the account mapping, where there is to be one; `more` goes to the end of the configuration.
    pub fn new(
        program: PathBuf,
        folder: &Path,
        address: Option<SocketAddr>,
        mapping: Option<&(String, String)>,
        more: &str,
    ) -> Result<Self, LocalServerError> {
        let refuse = |source| LocalServerError::Folder { path: folder.to_owned(), source };
        fs::create_dir_all(folder.join("ports")).map_err(refuse)?;
        let lock = File::create(folder.join("lock")).map_err(refuse)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LocalServerError::InUse { path: folder.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(refuse(source)),
        }
        let write = || {
            fs::write(folder.join("local.conf"), format!("{CONFIG}\n{more}"))?;
            fs::write(folder.join("mapping.conf"), mapping.map_or_else(String::new, mapping_file))
        };
        write().map_err(refuse)?;
        if let Some(address) = address {
            TcpListener::bind(address).map_err(|source| LocalServerError::Port { address, source })?;
        }
        let host = address.map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip());
        let port = address.map(|address| address.port());
        Ok(Self { program, folder: folder.to_owned(), host, port, log_from: 0, lock: Arc::new(lock) })
    }

    /// Everything that the server has stored.
    pub fn store(&self) -> PathBuf {
        self.folder.join("jetstream")
    }

    /// What the server has said, over all its lives.
    pub fn log(&self) -> PathBuf {
        self.folder.join("nats-server.log")
    }

    pub fn url(&self) -> String {
        format!("nats://{}", SocketAddr::new(self.host, self.port.unwrap_or_default()))
    }

    /// The command that starts it, without standard input; what it says goes to where this process says it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        let port = self.port.map_or("-1".to_owned(), |port| port.to_string());
        command.arg("-c").arg(self.folder.join("local.conf")).args(["--addr", &self.host.to_string(), "--port", &port]);
        command.arg("--store_dir").arg(&self.folder).arg("--ports_file_dir").arg(self.folder.join("ports"));
        command.stdin(Stdio::null());
        command
    }

    /// The same, and what it says goes to its log.
    pub fn logged_command(&mut self) -> io::Result<Command> {
        let log = File::options().create(true).append(true).open(self.log())?;
        self.log_from = log.metadata()?.len();
        let mut command = self.command();
        command.stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    /// Whether the process `pid`, started by its command, takes connections by now.
    pub fn listens(&mut self, pid: u32) -> bool {
        let Some(port) = self.port.or_else(|| self.port_of(pid)) else { return false };
        let connected = TcpStream::connect_timeout(&(self.host, port).into(), CONNECT).is_ok();
        if connected {
            self.port = Some(port);
        }
        connected
    }

    /// Becomes the server. Returns only where that can't be done. The folder stays locked.
    pub fn exec(&self) -> io::Error {
        match fcntl(&*self.lock, FcntlArg::F_SETFD(FdFlag::empty())) {
            Ok(_) => self.command().exec(),
            Err(error) => error.into(),
        }
    }

    /// The last line of its log, in its present life, that says why it ended.
    pub fn last_word(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let from = usize::try_from(self.log_from).unwrap_or(usize::MAX).min(log.len());
        let log = String::from_utf8_lossy(&log[from..]);
        let fatal = |line: &&str| line.contains("[FTL]") || line.contains("[ERR]") || line.starts_with("nats-server:");
        let line = log.lines().rfind(fatal).or_else(|| log.lines().last()).unwrap_or("it did not say why");
        line.rsplit("] ").next().unwrap_or(line).trim().to_owned()
    }

    /// The server writes its ports to a file that is named by its program and process.
    fn port_of(&self, pid: u32) -> Option<u16> {
        #[derive(Deserialize)]
        struct Ports {
            nats: Vec<String>,
        }
        let program = self.program.file_name()?.to_str()?;
        let file = self.folder.join("ports").join(format!("{program}_{pid}.ports"));
        let ports: Ports = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
        ports.nats.first()?.rsplit(':').next()?.parse().ok()
    }
}
