//! jetfold's word count: real processes that die at any time, and counts that are right.

use crate::support::{Process, Program, Server, wait_until};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const PARTITIONS: u32 = 4;

/// A server with the objects of word count, and a folder for stores and texts.
struct Stack {
    server: Server,
    folder: TempDir,
}

impl Stack {
    fn start() -> Self {
        let stack = Self { server: Server::start(), folder: tempfile::tempdir().unwrap() };
        stack.program("apply").run().expect(0);
        stack
    }

    fn program(&self, arguments: &str) -> Program {
        Program::of_jetfold("word_count", &self.server, arguments)
            .env("JETFOLD_TOPOLOGY__PARTITIONS", &PARTITIONS.to_string())
    }

    fn store(&self, worker: &str) -> PathBuf {
        self.folder.path().join(format!("store-{worker}"))
    }

    fn worker(&self, name: &str) -> Program {
        self.program("count")
            .env("JETFOLD_WORKER__WORKER", name)
            .env("JETFOLD_WORKER__CHECKPOINT_INTERVAL", "50ms")
            .env_path("JETFOLD_WORKER__DATA_DIR", &self.store(name))
    }

    fn say(&self, producer: &str, text: &Path) -> Program {
        self.program(&format!("say {producer}")).stdin(text)
    }

    fn text(&self, name: &str, lines: u64) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text(name, lines)).unwrap();
        path
    }

    /// Asks for each word until its count is this, or cannot become it any more.
    async fn expect(&self, counts: &BTreeMap<String, u64>) {
        let client = self.server.client().await;
        for (word, expected) in counts {
            let partition = <String as jetfold::Key>::partition(word, PARTITIONS);
            let subject = format!("word-count.workers.ask.{partition}");
            let found = wait_until(&format!("{expected} times {word}"), async || {
                let answer = client.request(subject.clone(), word.clone().into()).await.ok()?;
                let found: u64 = std::str::from_utf8(&answer.payload).unwrap().parse().unwrap();
                (found >= *expected).then_some(found)
            })
            .await;
            assert_eq!(found, *expected, "{word}");
        }
    }
}

/// Lines of a few words each: frequent ones and rare ones.
fn text(name: &str, lines: u64) -> String {
    let mut text = String::new();
    for n in 0..lines {
        writeln!(text, "the {} of w{} and  w{} {name}", n % 7, n % 50, n * n % 97).unwrap();
    }
    text
}

fn counts(texts: &[&Path]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for text in texts {
        for word in fs::read_to_string(text).unwrap().split_whitespace() {
            *counts.entry(word.to_owned()).or_insert(0) += 1;
        }
    }
    counts
}

/// Kills a process after a moment, unless it has ended well.
fn kill_after(mut process: Process, moment: Duration) -> bool {
    std::thread::sleep(moment);
    let ended = !process.is_running();
    if ended {
        process.wait().expect(0);
    } else {
        process.kill();
    }
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_counted_once_whoever_is_killed_while_it_is_said_and_counted() {
    let stack = Stack::start();
    let text = stack.text("a", 60_000);
    let mut has_said = false;
    for round in 0..12 {
        let worker = stack.worker("w").spawn();
        if !has_said {
            has_said = kill_after(stack.say("reader", &text).spawn(), Duration::from_millis(40 + 37 * round));
        }
        worker.kill();
    }
    let worker = stack.worker("w").spawn();
    stack.say("reader", &text).run().expect(0);
    // Said to the end, it has nothing to add.
    stack.say("reader", &text).run().expect(0);
    stack.expect(&counts(&[&text])).await;
    let asked = stack.program("ask the").run().expect(0);
    assert_eq!(asked.stdout(), "60000\n");
    worker.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_at_any_point_of_a_commit_counts_each_word_once() {
    let stack = Stack::start();
    let text = stack.text("a", 4_000);
    stack.say("reader", &text).run().expect(0);
    for point in ["effects-confirmed:1", "before-commit:2", "after-commit:1", "after-commit:3", "before-commit:1"] {
        let dying = stack.worker("w").env("JETFOLD_CRASH_AT", point).spawn();
        // Whatever is left to fold is enough to come that far.
        let more = stack.text(&format!("more-{point}"), 50);
        stack.say(&format!("p-{}", point.replace(':', "-")), &more).run().expect(0);
        let ended = dying.wait();
        assert!(ended.status.code().is_none(), "{point}: {:?} {}", ended.status, ended.stderr);
    }
    let texts: Vec<_> = fs::read_dir(stack.folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let texts: Vec<&Path> = texts.iter().filter(|path| path.is_file()).map(PathBuf::as_path).collect();
    let worker = stack.worker("w").spawn();
    stack.expect(&counts(&texts)).await;
    worker.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_on_the_same_partitions_arrive_at_the_same_counts() {
    let stack = Stack::start();
    let text = stack.text("a", 5_000);
    let workers = ["a", "b"].map(|name| stack.worker(name).spawn());
    stack.say("reader", &text).run().expect(0);
    stack.expect(&counts(&[&text])).await;
    // Each by itself.
    let [first, second] = workers;
    first.stop().expect(0);
    stack.expect(&counts(&[&text])).await;
    second.kill();
    let first = stack.worker("a").spawn();
    stack.expect(&counts(&[&text])).await;
    first.stop().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_has_lost_its_disk_counts_the_same() {
    let stack = Stack::start();
    let text = stack.text("a", 5_000);
    let worker = stack.worker("w").spawn();
    stack.say("reader", &text).run().expect(0);
    stack.expect(&counts(&[&text])).await;
    // A clean stop puts the stores away.
    worker.stop().expect(0);
    fs::remove_dir_all(stack.store("w")).unwrap();
    let more = stack.text("b", 1_000);
    let worker = stack.worker("w").spawn();
    stack.say("reader-b", &more).run().expect(0);
    stack.expect(&counts(&[&text, &more])).await;
    worker.kill();
    fs::remove_dir_all(stack.store("w")).unwrap();
    let worker = stack.worker("w").spawn();
    stack.expect(&counts(&[&text, &more])).await;
    worker.stop().expect(0);
}

#[test]
fn what_goes_wrong_is_one_sentence() {
    let server = Server::start();
    let program = |arguments: &str| Program::of_jetfold("word_count", &server, arguments);
    for (program, said) in [
        (program("count"), "there is no stream word-count-log-0 at"),
        (program("ask word"), "there is no stream word-count-log-0 at"),
        (program("apply").env("JETFOLD_TOPOLOGY__PARTITION", "4"), "JETFOLD_TOPOLOGY__PARTITION can't be used"),
    ] {
        let ended = program.run();
        assert_eq!(ended.code(), 1);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.contains(said), "{}", ended.stderr);
    }
    program("apply").run().expect(0);
    let folder = tempfile::tempdir().unwrap();
    let noise = folder.path().join("noise");
    fs::write(&noise, b"\xff\xfe\n").unwrap();
    let ended = program("say reader").stdin(&noise).run();
    assert_eq!((ended.code(), ended.stderr.as_str()), (1, "Error: stream did not contain valid UTF-8\n"));
    let ended = program("ask word").run();
    assert!(ended.stderr.contains("no worker answers for partition"), "{}", ended.stderr);
    let disagrees = program("apply").env("JETFOLD_TOPOLOGY__PARTITIONS", "3").run();
    assert!(disagrees.stderr.contains("topology.partitions is 3 here, but 8"), "{}", disagrees.stderr);
}

#[test]
fn the_page_on_a_worker_of_one_s_own_shows_the_example_as_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/your-own-worker.md")).unwrap();
    let example = fs::read_to_string(root.join("crates/jetfold/examples/word_count.rs")).unwrap();
    assert!(page.contains(&format!("```rust\n{example}```")), "docs/your-own-worker.md shows another program");
}
