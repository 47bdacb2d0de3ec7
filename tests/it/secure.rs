//! Who may do what: `nats/secure.conf` as it stands, with keys that the example makes.

#[path = "../../examples/keys/made.rs"]
mod made;
mod operator_mode;
mod refusals;
mod secrets;

use crate::support::{Process, Program, Server, wait_for};
use async_nats::{Client, ConnectOptions};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Partitions that the lists are written out for, which are those of the defaults.
const PARTITIONS: u32 = 8;

/// The configuration, and where it is read from at every start: so it can be changed without building anything.
fn configuration() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("nats/secure.conf")).unwrap()
}

/// A server with that configuration, and the keys to it.
struct Secure {
    server: Server,
}

impl Secure {
    fn start() -> Self {
        let make = |folder: &Path| made::make(&folder.join("data/keys"), vec!["127.0.0.1".to_owned()]).unwrap();
        Self { server: Server::of(&configuration(), make) }
    }

    /// The same, with all streams.
    fn with_streams(log_max_bytes: &str) -> Self {
        let secure = Self::start();
        let applying =
            secure.run_as("admin", "topology apply").env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", log_max_bytes);
        applying.env("STREAM_SUM_TOPOLOGY__SUMS_MAX_BYTES", "64MiB").run().expect(0);
        secure
    }

    fn key(&self, name: &str) -> PathBuf {
        self.server.folder().join("data/keys").join(name)
    }

    fn seed(&self, role: &str) -> String {
        fs::read_to_string(self.key(&format!("{role}.nk"))).unwrap().trim().to_owned()
    }

    /// The program as the user of a role.
    fn run_as(&self, role: &str, arguments: &str) -> Program {
        let program = Program::at(&self.server, "--config").arg(self.key(&format!("{role}.toml")));
        // The last of them may wait for a value.
        program.args(&arguments.split_whitespace().collect::<Vec<_>>())
    }

    fn summer(&self, folder: &Path, name: &str) -> Process {
        let program = self.run_as("summer", "summer --worker").arg(name).arg("--data-dir").arg(folder.join(name));
        program.env("STREAM_SUM_SUMMER__PURGE_DELAY", "1s").spawn()
    }

    /// Waits until these and no others fold all partitions, as the reader sees it.
    fn wait_for_folding(&self, workers: &[&str]) {
        wait_for(&format!("{workers:?} to fold"), || {
            let told = self.run_as("reader", "status").run();
            let said = told.stdout();
            let folds =
                |line: &str| line.split_whitespace().nth(1).filter(|_| line.contains(" folding ")).map(str::to_owned);
            let found: BTreeSet<_> = said.lines().filter_map(folds).collect();
            told.code() == 0 && found.iter().eq(workers)
        });
    }

    /// A client of that user that does as it likes.
    async fn user(&self, role: &str) -> User {
        let said = Arc::<Mutex<Vec<String>>>::default();
        let hears = said.clone();
        let options = ConnectOptions::with_nkey(self.seed(role))
            .add_root_certificates(self.key("ca.pem"))
            .require_tls(true)
            .custom_inbox_prefix(format!("_INBOX_{role}"))
            .event_callback(move |event| {
                hears.lock().unwrap().push(event.to_string());
                std::future::ready(())
            });
        User { client: options.connect(self.server.url()).await.unwrap(), said }
    }

    /// What the server has refused to anybody.
    fn violations(&self) -> Vec<String> {
        self.server.log().lines().filter(|line| line.contains("Violation")).map(str::to_owned).collect()
    }
}

struct User {
    client: Client,
    said: Arc<Mutex<Vec<String>>>,
}

fn opened(summer: &Process) -> usize {
    summer.log().iter().filter(|entry| entry["message"] == "opened the log").count()
}

/// Whether a line of `topology show` is that of `rejects`, with one message.
fn has_one_reject(line: &str) -> bool {
    let words: Vec<_> = line.split_whitespace().collect();
    words.first() == Some(&"rejects") && words.get(2) == Some(&"1")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_system_works_with_the_least_rights_and_nothing_that_it_does_is_refused() {
    // Small logs: they have to be purged.
    let secure = Secure::with_streams("2MiB");
    secure.run_as("admin", "topology apply").run().expect(0);
    secure.run_as("admin", "topology show").run().expect(0);
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| secure.summer(folder.path(), name));
    secure.wait_for_folding(&["a", "b"]);
    let flags = "chunker --streams 400 --chunks 15 --chunk-bytes 4096 --id-prefix 0badcafe";
    let chunker = secure.run_as("chunker", flags).run().expect(0);
    assert!(chunker.stdout().contains("verified               400"), "{}", chunker.stdout());
    wait_for("a purge", || {
        a.stderr_so_far().contains("purged the log") || b.stderr_so_far().contains("purged the log")
    });
    // What can't be folded is put aside.
    let chunker = secure.user("chunker").await;
    let stored = chunker.client.request("chunks.3", "no chunk".into()).await.unwrap();
    assert!(String::from_utf8_lossy(&stored.payload).contains("chunks-3"), "{stored:?}");
    wait_for("a reject", || secure.run_as("admin", "topology show").run().stdout().lines().any(has_one_reject));
    assert!(secure.run_as("reader", "rejects list").run().expect(0).stdout().contains("undecodable"));
    // The admin is heard by summers, and answered.
    let accepted = secure.run_as("admin", "accept hole:3").run().expect(1);
    assert!(accepted.sentence().contains(" says folding at position "), "{}", accepted.stderr);
    // A stream under way is told to whoever reads.
    let id = crate::support::id_in(3, PARTITIONS, 9, 0);
    let begun = crate::support::batch(&[(id, 1, b"a")]);
    chunker.client.request("chunks.3", begun.into()).await.unwrap();
    wait_for("a stream under way", || {
        secure.run_as("reader", "get").arg(id.to_string()).run().stdout().contains("  under way at position ")
    });
    // One hands over, and the other dies: its successor has nothing but snapshots.
    a.stop().expect(0);
    b.kill();
    let c = secure.summer(folder.path(), "c");
    secure.wait_for_folding(&["c"]);
    assert!(c.stderr_so_far().contains("restored a snapshot"));

    let file = folder.path().join("a file");
    fs::write(&file, "a").unwrap();
    let summed = secure.run_as("chunker", "sum").arg(&file).run().expect(0).stdout();
    assert!(summed.starts_with("86f7e437faa5a7fce15d1ddcb9eaeaea377667b8"), "{summed}");
    let id = "0badcafe000000000000000000000000";
    assert!(secure.run_as("reader", "get").arg(id).run().expect(0).stdout().contains(id));
    c.kill();
    // Nobody answers: who reads looks for the last snapshots, and for the age of what lies behind them.
    let status = secure.run_as("reader", "status").run().expect(1).stdout();
    assert!(status.contains("lag behind the last snapshot"), "{status}");
    assert_eq!(secure.violations(), Vec::<String>::new());
}

#[test]
fn a_chunker_that_may_read_no_log_tells_by_its_own_clock_which_finals_are_late() {
    let secure = Secure::with_streams("64MiB");
    let folder = tempfile::tempdir().unwrap();
    let chunker = secure.run_as("chunker", "chunker --streams 20 --chunks 1");
    let chunker = chunker.env("STREAM_SUM_CHUNKER__DEADLINE", "10s").spawn();
    // Twice as late, they would be missing.
    wait_for("the deadline to pass", || chunker.stderr_so_far().contains("\"by_s\":10.0"));
    let _summer = secure.summer(folder.path(), "a");
    let ended = chunker.wait().expect(3);
    assert!(ended.stdout().contains("late                    20"), "{}", ended.stdout());
    assert!(ended.stderr.contains("told by this machine's clock"), "{}", ended.stderr);
}

#[test]
fn a_run_with_a_name_is_refused_to_whoever_may_not_write_beside_the_snapshots() {
    let secure = Secure::with_streams("64MiB");
    let ended = secure.run_as("chunker", "chunker --streams 1 --run nightly").run().expect(2);
    assert!(ended.sentence().contains("$JS.API.STREAM.MSG.GET.OBJ_stream-sum-state"), "{}", ended.sentence());
}
