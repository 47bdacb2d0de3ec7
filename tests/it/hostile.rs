//! A publisher that means harm, against a real summer, while an honest run goes on: ten thousand batches in its logs, and whatever else a
//! publisher reaches. That each batch is judged rightly is shown a million times in `tests/hostile/`; here it goes through a server.

#[path = "../hostile/decoder.rs"]
#[allow(dead_code)]
mod decoder;
#[path = "../hostile/dice.rs"]
#[allow(dead_code)]
mod dice;
#[path = "../hostile/forge.rs"]
mod forge;
#[path = "../hostile/model.rs"]
#[allow(dead_code)]
mod model;

use crate::support::{
    Process, Program, Server, apply, batch, count, id_in, messages, parse_log, publish_raw, status, summer, total,
    wait_for, wait_until,
};
use async_nats::jetstream;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use dice::Dice;
use forge::Forge;
use jetfold::testing::outside;
use model::Model;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fs;

const PARTITIONS: u32 = 2;

/// Hostile batches in each log.
const BATCHES: usize = 5_000;

/// What a chunk may hold, by default.
const MAX_CHUNK_BYTES: usize = 512 << 10;

/// Memory of a summer that an honest run of this size takes as well, in KiB: rows, caches of two stores, and what is under way.
const MOST_KIB: u64 = 256 << 10;

/// The most that a process has ever held, in KiB.
fn peak(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

/// That the process is the one that was started, holds no more than it may, and has not panicked.
fn is_unharmed(summing: &mut Process) {
    assert!(summing.is_running());
    let held = peak(summing);
    assert!(held < MOST_KIB, "{held} KiB");
    println!("{held} KiB at the most");
    let said = summing.stderr_so_far();
    assert!(!said.contains("panicked"), "{said}");
}

async fn put(jetstream: &jetstream::Context, subject: &str, payload: Vec<u8>) {
    jetstream.publish(subject.to_owned(), payload.into()).await.unwrap().await.unwrap();
}

/// Waits until all of both logs is committed.
fn all_is_committed(server: &Server) {
    wait_for("all of it to be committed", || {
        let status = status(server);
        let partitions = status["partitions"].as_array().unwrap().clone();
        partitions.iter().all(|partition| partition["workers"][0]["lag"] == 0)
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_hostile_batches_beside_an_honest_run_are_accounted_for_and_harm_nobody() {
    const STREAMS: u64 = 3000;
    let server = Server::start();
    apply(&server, PARTITIONS);
    let folder = tempfile::tempdir().unwrap();
    let mut summing = summer(&server, &folder.path().join("data"), "--worker a").spawn();
    summing.wait_for_log("opened the log", 2);
    let report = folder.path().join("report.json");
    let chunking = Program::at(&server, &format!("chunker --streams {STREAMS} --chunks 10 --rate 8000 --report"));
    let chunking = chunking.arg(&report).spawn();

    let jetstream = server.jetstream().await;
    let mut forge = Forge::new(Dice::of(11));
    let mut models: Vec<_> = (0..PARTITIONS).map(|n| Model::new(n, PARTITIONS, MAX_CHUNK_BYTES)).collect();
    let (mut rejects, mut rejected, mut finals) = (0, 0, 0);
    let mut acks = VecDeque::new();
    for n in 0..BATCHES * models.len() {
        let (partition, payload) = (n % models.len(), forge.batch());
        forge.dice.is_sent(&payload);
        let outcome = models[partition].fold(&payload);
        rejects += usize::from(!outcome.rejected.is_empty());
        rejected += outcome.rejected.len();
        finals += outcome.finals.len();
        acks.push_back(jetstream.publish(format!("chunks.{partition}"), payload.into()).await.unwrap());
        if acks.len() > 500 {
            acks.pop_front().unwrap().await.unwrap();
        }
    }
    for ack in acks {
        ack.await.unwrap();
    }
    // Headers that no client library takes: the batch is folded all the same.
    let broken =
        ["NATS/1.0\r\nno colon\r\n\r\n", "NATS/1.0\r\n: nameless\r\n\r\n", "NOT/1.0\r\n\r\n", "\0\0\0\0\r\n\r\n"];
    for headers in broken {
        publish_raw(&server, "chunks.1", headers, b"junk");
    }
    (rejects, rejected) = (rejects + broken.len(), rejected + broken.len());

    let ended = chunking.wait().expect(0);
    let report: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    assert_eq!((count(&report, "verified"), &report["verdict"]), (STREAMS, &"verified".into()), "{}", ended.stderr);
    all_is_committed(&server);
    is_unharmed(&mut summing);
    let sums = jetstream.get_stream("sums").await.unwrap().cached_info().state.messages;
    assert_eq!(sums, STREAMS + finals as u64, "a final for each stream that has ended, whoever has sent it");
    let told = messages(&jetstream, "rejects").await;
    let header = |message: &jetstream::message::StreamMessage, name: &str| {
        message.headers.get(name).unwrap_or_else(|| panic!("no {name}")).as_str().to_owned()
    };
    let counted: usize = told.iter().map(|message| header(message, "Reject-Count").parse::<usize>().unwrap()).sum();
    assert_eq!((told.len(), counted), (rejects, rejected), "each batch of which something was refused, and each chunk");
    assert!(told.iter().all(|message| header(message, "Reject-Chunks").len() <= 4 << 10));
    let log = parse_log(&summing.stop().expect(0).stderr);
    // What was under way when its connection ended is found there by the next session.
    let fields = ["rejects_published", "rejects_already_there", "rejects_differing"];
    let [published, again, differing] = fields.map(|field| total(&log, "stopped", field));
    let rejects = rejects as u64;
    assert!(published <= rejects && published + again >= rejects && differing == 0, "{published} {again} {differing}");
}

/// Anything at all, of any length up to `most`.
fn junk(dice: &mut Dice, most: usize) -> Vec<u8> {
    let len = dice.below(most);
    dice.bytes(len)
}

/// Objects of the bucket of snapshots that nobody has put: names that parse, and whatever may be wrong with the rest.
fn made_up_snapshots(dice: &mut Dice) -> Vec<(String, Vec<u8>)> {
    let checkpoint = |position: u64| {
        json!({ "position": position, "log_created": 1, "log_born": i64::MIN, "message_time": i64::MAX, "log_time": i64::MIN,
            "refolds_through": u64::MAX, "live_streams": u64::MAX, "sums": null, "rejects": null })
    };
    let positions = ["0", "1", "9999999", "18446744073709551615", "18446744073709551616", "-1", "x"];
    let mut objects = Vec::new();
    for position in positions {
        for partition in ["0", "1", "7", "4294967295"] {
            let name = format!("{partition}/{position}/made-up");
            let whole = json!({ "name": &name, "bucket": "stream-sum-state", "nuid": "nothing", "size": usize::MAX, "chunks": usize::MAX,
                "metadata": { "stream-sum.format": "2", "stream-sum.accepted": "[]",
                    "stream-sum.checkpoint": checkpoint(position.parse().unwrap_or(u64::MAX)).to_string() } });
            let payload = match dice.below(6) {
                0 => junk(dice, 400),
                1 => b"[".repeat(50_000),
                2 => json!({ "name": name, "nuid": "*.>", "size": -1 }).to_string().into_bytes(),
                _ => whole.to_string().into_bytes(),
            };
            objects.push((name, payload));
        }
    }
    objects
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_entries_of_the_group_and_names_of_snapshots_that_are_made_up_harm_nobody() {
    let server = Server::start();
    apply(&server, PARTITIONS);
    let folder = tempfile::tempdir().unwrap();
    let mut summing = summer(&server, &folder.path().join("a"), "--worker a").spawn();
    summing.wait_for_log("opened the log", 2);
    let (client, jetstream) = (server.client().await, server.jetstream().await);
    let mut dice = Dice::of(12);

    // Questions: each is answered, and none of them is understood.
    for n in 0..300 {
        let subject = format!("summers.ask.{}", n % PARTITIONS);
        let question = if n % 50 == 0 { vec![0xff; 1 << 19] } else { junk(&mut dice, 2000) };
        let answer = client.request(subject, question.into()).await.unwrap();
        assert!(answer.payload.ends_with(br#""state":"refused"}"#), "{:?}", answer.payload);
    }
    // What nobody expects an answer to, with headers that end the connection of whoever parses them.
    for subject in ["summers.ask.0", "summers.producers.0", "summers.committed.0", "summers.standing", "$SRV.INFO"] {
        for headers in ["NATS/1.0\r\n\r\n", "NATS/1.0\r\nno colon\r\n\r\n", "NOT/1.0\r\n\r\n"] {
            publish_raw(&server, subject, headers, &junk(&mut dice, 300));
        }
    }

    // The group: junk, members that hold partitions which are not there, and one that claims all with the highest term there is.
    for n in 0..300 {
        let entry = match n % 3 {
            0 => junk(&mut dice, 300),
            1 => b"\x97\x92\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xa1n\xc2\xc2\x00\xdd\xff\xff\xff\xff".to_vec(),
            _ => outside::entry(1, (0..300).map(|partition| partition << 8 | 7), u64::MAX),
        };
        put(&jetstream, &format!("$KV.stream-sum-members.made-up-{n}"), entry).await;
    }
    put(&jetstream, "$KV.stream-sum-members.liar", outside::entry(u64::MAX, 0..PARTITIONS, u64::MAX)).await;
    // Snapshots.
    for (name, payload) in made_up_snapshots(&mut dice) {
        put(&jetstream, &format!("$O.stream-sum-state.M.{}", URL_SAFE.encode(&name)), payload).await;
    }
    put(&jetstream, "$O.stream-sum-state.M.no base64".replace(' ', "-").as_str(), b"{}".to_vec()).await;

    // The liar is silent, so what it has claimed is taken back, and a stream is summed in each partition.
    let folds = async |tag: u8| {
        for partition in 0..PARTITIONS {
            let id = id_in(partition, PARTITIONS, tag, 0);
            put(&jetstream, &format!("chunks.{partition}"), batch(&[(id, 1, b"a"), (id, 2, b"")])).await;
            let hex_id = id.to_string();
            let subject = format!("sums.{}.{}", &hex_id[..8], &hex_id[8..]);
            let sums = jetstream.get_stream("sums").await.unwrap();
            wait_until("its final", async || sums.get_last_raw_message_by_subject(&subject).await.ok()).await;
        }
    };
    folds(21).await;
    is_unharmed(&mut summing);
    summing.stop().expect(0);

    // One that has no store looks for a snapshot first, and passes all of these over.
    let mut another = summer(&server, &folder.path().join("b"), "--worker b").spawn();
    folds(22).await;
    is_unharmed(&mut another);
    another.stop().expect(0);
}
