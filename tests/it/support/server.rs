//! A real nats-server, or three of them.

use super::{nats_server_program, pid, wait_for};
use async_nats::jetstream;
use nix::sys::signal::{Signal, kill};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use stream_sum::local::server::LocalServer;
use stream_sum::sum::names::{FinalNames, names};
use tempfile::TempDir;

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

    /// With a configuration in the place of the usual one, as the file `nats/…` of a folder that `beside` puts more into.
    pub fn of(config: &str, beside: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let nats = folder.path().join("nats");
        let local = LocalServer::new(nats_server_program().to_owned(), &nats, None, None, "").unwrap();
        fs::write(nats.join("local.conf"), config).unwrap();
        beside(folder.path());
        let mut server = Self { folder, local, child: None };
        server.launch();
        server
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
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

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a server that runs").id()
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
        let usual = include_str!("../../../nats/local.conf");
        fs::write(self.folder.path().join("local.conf"), format!("{usual}\n{extra}")).unwrap();
        self.signal(Signal::SIGHUP);
    }

    /// Whether this server is of an older minor version than this; then the test that asks is left out, and says why.
    pub fn leaves_out_before(version: (u64, u64), why: &str) -> bool {
        let is_older = version_of(nats_server_program()).is_some_and(|found| found < version);
        if is_older {
            println!("left out: {why}");
        }
        is_older
    }

    pub async fn client(&self) -> async_nats::Client {
        async_nats::connect(self.url()).await.unwrap()
    }

    pub async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client().await)
    }
}

/// Major and minor version of a nats-server, as it says them.
fn version_of(program: &Path) -> Option<(u64, u64)> {
    let said = Command::new(program).arg("--version").output().ok()?.stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    let mut numbers = said.trim().strip_prefix("nats-server: v")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
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
