//! What each user may not do, asked of the server, whose streams stay as they are.

use super::{PARTITIONS, Secure, User, opened};
use crate::support::{Ended, Program, wait_for, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;

/// Streams beside the logs.
const OTHERS: [&str; 4] = ["sums", "rejects", "OBJ_stream-sum-state", "KV_stream-sum-members"];

fn logs() -> Vec<String> {
    (0..PARTITIONS).map(|partition| format!("chunks-{partition}")).collect()
}

fn streams() -> Vec<String> {
    logs().into_iter().chain(OTHERS.map(str::to_owned)).collect()
}

/// A question about each of these streams, for each of these verbs; `%` is the stream.
fn api(verbs: &[&str], streams: &[String]) -> Vec<String> {
    let question = |verb: &&str, stream: &String| format!("$JS.API.{}", verb.replace('%', stream));
    verbs.iter().flat_map(|verb| streams.iter().map(move |stream| question(verb, stream))).collect()
}

/// What changes a stream.
const CHANGES: [&str; 9] = [
    "STREAM.CREATE.%",
    "STREAM.UPDATE.%",
    "STREAM.DELETE.%",
    "STREAM.PURGE.%",
    "STREAM.MSG.DELETE.%",
    "STREAM.RESTORE.%",
    "STREAM.SNAPSHOT.%",
    "STREAM.PEER.REMOVE.%",
    "STREAM.LEADER.STEPDOWN.%",
];

/// What reads its messages, in every way that there is.
const READS: [&str; 8] = [
    "STREAM.MSG.GET.%",
    "DIRECT.GET.%",
    "DIRECT.GET.%.chunks.0",
    "CONSUMER.CREATE.%",
    "CONSUMER.CREATE.%.mine",
    "CONSUMER.CREATE.%.mine.chunks.0",
    "CONSUMER.DURABLE.CREATE.%.mine",
    "CONSUMER.MSG.NEXT.%.mine",
];

/// No summer is called so.
const MEMBER: &str = "$KV.stream-sum-members.mine";

/// Subjects that streams store.
const STORED: [&str; 8] = [
    "chunks.0",
    "chunks.7",
    "sums.0badcafe.0badcafe",
    "sums.other",
    "rejects.0.1.1",
    MEMBER,
    "$O.stream-sum-state.M.bWluZQ==",
    "$O.stream-sum-state.C.mine",
];

/// All subjects of `from` that begin in none of these ways.
fn but(from: &[String], may: &[&str]) -> Vec<String> {
    from.iter().filter(|subject| !may.iter().any(|may| subject.starts_with(may))).cloned().collect()
}

fn owned(subjects: &[&str]) -> Vec<String> {
    subjects.iter().map(|subject| (*subject).to_owned()).collect()
}

impl User {
    async fn ask(&self, subject: &str, question: &Value) -> Value {
        let answer = self.client.request(subject.to_owned(), question.to_string().into()).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    }

    /// The server refuses to take each of these, and names it.
    async fn may_not_publish_to(&self, subjects: &[String]) {
        for subject in subjects {
            self.client.publish(subject.clone(), "{}".into()).await.unwrap();
        }
        self.are_refused("Publish to", subjects).await;
    }

    async fn may_not_subscribe_to(&self, subjects: &[&str]) {
        for subject in subjects {
            drop(self.client.subscribe((*subject).to_owned()).await.unwrap());
        }
        self.are_refused("Subscription to", &owned(subjects)).await;
    }

    async fn are_refused(&self, what: &str, subjects: &[String]) {
        assert!(!subjects.is_empty());
        // Whatever the server has to say of them comes before this answer.
        self.ask("$JS.API.STREAM.INFO.sums", &json!({})).await;
        for subject in subjects {
            let refusal = format!("Permissions Violation for {what} \"{subject}\"");
            let is_told = || self.said.lock().unwrap().iter().any(|said| said.contains(&refusal));
            wait_until(&refusal, async || is_told().then_some(())).await;
        }
    }
}

/// Each stream: its configuration, where it ends, where it begins, and how many messages it has of each subject; and the consumers of
/// a log. A consumer of `sums` is gone some time after its chunker, and what summers say of themselves within seconds.
async fn everything(admin: &User) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for stream in streams() {
        let subject = format!("$JS.API.STREAM.INFO.{stream}");
        let info = admin.ask(&subject, &json!({ "subjects_filter": ">" })).await;
        let (config, state) = (&info["config"], &info["state"]);
        assert!(config.is_object(), "{info}");
        let kept = match stream.starts_with("KV_") {
            true => json!([null, { MEMBER: state["subjects"][MEMBER] }]),
            false => json!([state["first_seq"], state["subjects"]]),
        };
        let consumers = state["consumer_count"].as_u64().filter(|_| stream.starts_with("chunks-"));
        all.insert(stream, json!([config, state["last_seq"], kept, consumers]));
    }
    all
}

/// A server that has summed a few streams, and what its streams are then.
async fn summed() -> (Secure, User, BTreeMap<String, Value>) {
    let secure = Secure::with_streams("64MiB");
    let folder = tempfile::tempdir().unwrap();
    let summer = secure.summer(folder.path(), "a");
    secure.run_as("chunker", "chunker --streams 20").run().expect(0);
    wait_for("all logs to be opened", || opened(&summer) >= PARTITIONS as usize);
    summer.stop().expect(0);
    let admin = secure.user("admin").await;
    let before = everything(&admin).await;
    (secure, admin, before)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunker_can_publish_no_final_and_read_no_log_and_touch_no_stream() {
    let (secure, admin, before) = summed().await;
    let chunker = secure.user("chunker").await;
    let others = owned(&[
        "summers.committed.0",
        "summers.accept.0",
        "summers.accepted.0",
        "_INBOX_summer.a",
        "_INBOX_reader.a",
        "_INBOX.a",
        "_R_.a",
        "chunk.a",
    ]);
    chunker.may_not_publish_to(&[but(&owned(&STORED), &["chunks."]), others].concat()).await;
    chunker.may_not_publish_to(&api(&READS, &logs())).await;
    chunker.may_not_publish_to(&api(&READS, &owned(&["rejects", "OBJ_stream-sum-state"]))).await;
    chunker.may_not_publish_to(&api(&CHANGES, &streams())).await;
    let consumers = ["CONSUMER.INFO.%.summer-a", "CONSUMER.DELETE.%.summer-a", "CONSUMER.NAMES.%", "CONSUMER.LIST.%"];
    chunker.may_not_publish_to(&api(&consumers, &logs())).await;
    chunker.may_not_publish_to(&api(&["CONSUMER.DELETE.%.a", "CONSUMER.PAUSE.%.a"], &owned(&["sums"]))).await;
    chunker.may_not_subscribe_to(&[">", "chunks.*", "sums.>", "_INBOX.>", "_INBOX_summer.>", "$KV.>", "_R_.>"]).await;
    assert_eq!(everything(&admin).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_summer_can_publish_no_chunk_and_purge_no_finals_and_delete_no_stream() {
    let (secure, admin, before) = summed().await;
    let summer = secure.user("summer").await;
    summer
        .may_not_publish_to(&owned(&[
            "chunks.0",
            "chunks.7",
            "sums.a",
            "sums.a.b.c",
            "_INBOX_admin.a",
            "summers.accept.0",
        ]))
        .await;
    let changes = but(&api(&CHANGES, &streams()), &["$JS.API.STREAM.PURGE.chunks-", "$JS.API.STREAM.PURGE.OBJ_"]);
    assert!(changes.contains(&"$JS.API.STREAM.PURGE.sums".to_owned()));
    summer.may_not_publish_to(&changes).await;
    summer.may_not_publish_to(&api(&["STREAM.PURGE.%", "CONSUMER.CREATE.%.a"], &owned(&["chunks-8"]))).await;
    let consumers = ["CONSUMER.CREATE.%", "CONSUMER.CREATE.%.a", "CONSUMER.DELETE.%.a", "CONSUMER.MSG.NEXT.%.a"];
    summer.may_not_publish_to(&api(&consumers, &owned(&OTHERS))).await;
    summer.may_not_subscribe_to(&[">", "chunks.*", "sums.>", "_INBOX.>", "_INBOX_admin.>", "$JS.>"]).await;
    assert_eq!(everything(&admin).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_can_only_read() {
    let (secure, admin, before) = summed().await;
    let reader = secure.user("reader").await;
    reader.may_not_publish_to(&owned(&STORED)).await;
    reader
        .may_not_publish_to(&owned(&[
            "summers.committed.0",
            "summers.accept.0",
            "summers.accepted.0",
            "_INBOX_chunker.a",
            "_INBOX_summer.a",
            "_R_.a",
        ]))
        .await;
    reader.may_not_publish_to(&api(&CHANGES, &streams())).await;
    let consumers = ["CONSUMER.CREATE.%", "CONSUMER.CREATE.%.a", "CONSUMER.DELETE.%.summer-a", "CONSUMER.MSG.NEXT.%.a"];
    reader.may_not_publish_to(&api(&consumers, &streams())).await;
    reader.may_not_subscribe_to(&[">", "chunks.*", "sums.>", "_INBOX.>", "_INBOX_chunker.>", "$KV.>"]).await;
    assert_eq!(everything(&admin).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_can_read_no_message_and_purge_and_delete_nothing() {
    let (_secure, admin, before) = summed().await;
    admin.may_not_publish_to(&owned(&STORED)).await;
    admin.may_not_publish_to(&api(&READS, &streams())).await;
    let changes = but(&api(&CHANGES, &streams()), &["$JS.API.STREAM.CREATE.", "$JS.API.STREAM.UPDATE."]);
    admin.may_not_publish_to(&changes).await;
    admin.may_not_publish_to(&api(&["STREAM.CREATE.%", "STREAM.UPDATE.%"], &owned(&["other", "chunks-8"]))).await;
    assert_eq!(everything(&admin).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_whoever_calls_has_sent_to_a_stream_is_stored_nowhere() {
    let (secure, admin, before) = summed().await;
    let folder = tempfile::tempdir().unwrap();
    let summer = secure.summer(folder.path(), "a");
    wait_for("all logs to be opened", || opened(&summer) >= PARTITIONS as usize);
    for role in ["chunker", "reader"] {
        let user = secure.user(role).await;
        for question in ["$JS.API.STREAM.INFO.sums", "$JS.API.STREAM.MSG.GET.sums", "summers.standing"] {
            for stored in STORED {
                let asked = user.client.publish_with_reply(question, stored, r#"{"seq":1}"#.into());
                asked.await.unwrap();
            }
        }
        // The answers come before this one, where there are any.
        user.ask("$JS.API.STREAM.INFO.sums", &json!({})).await;
        user.client.request("summers.standing", "".into()).await.ok();
        let said = user.said.lock().unwrap().join("\n");
        assert!(!said.contains("Violation"), "{said}");
    }
    // The summer goes on beside: it puts nothing more into logs, which it may purge, and nothing at these subjects.
    let of_subjects = |all: &BTreeMap<String, Value>| {
        let count = |subject: &&str| all.values().filter_map(|stream| stream[2][1][subject].as_u64()).sum::<u64>();
        let ends: Vec<_> = logs().iter().map(|log| all[log][1].clone()).collect();
        let counts: Vec<_> = STORED[2..].iter().map(count).collect();
        (ends, counts)
    };
    let after = everything(&admin).await;
    assert_eq!(of_subjects(&after), of_subjects(&before));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_a_chunker_can_deliver_no_final_as_another() {
    let (secure, admin, before) = summed().await;
    let chunker = secure.user("chunker").await;
    let consume = async |deliver_subject: Option<&str>| {
        let consumer = json!({ "deliver_policy": "all", "ack_policy": "none", "deliver_subject": deliver_subject });
        let question = json!({ "stream_name": "sums", "config": consumer, "action": "create" });
        chunker.ask("$JS.API.CONSUMER.CREATE.sums", &question).await
    };
    let pushed = consume(Some("sums.0badcafe.0badcafe")).await;
    assert!(pushed["error"]["description"].as_str().is_some_and(|said| said.contains("cycle")), "{pushed}");
    let pulled = consume(None).await["name"].as_str().unwrap().to_owned();
    for stored in STORED {
        let asked =
            chunker.client.publish_with_reply(format!("$JS.API.CONSUMER.MSG.NEXT.sums.{pulled}"), stored, "1".into());
        asked.await.unwrap();
    }
    // Whatever it delivers comes before this answer.
    chunker.ask(&format!("$JS.API.CONSUMER.INFO.sums.{pulled}"), &json!({})).await;
    assert_eq!(everything(&admin).await, before);
}

#[test]
fn whoever_has_no_key_or_another_gets_in_nowhere() {
    let secure = Secure::with_streams("64MiB");
    let stranger = secure.server.folder().join("stranger.nk");
    fs::write(&stranger, nkeys::KeyPair::new_user().seed().unwrap()).unwrap();
    let id = "0badcafe000000000000000000000000";
    let commands = ["topology apply", "topology show", "summer", "chunker --streams 1", "status", &format!("get {id}")];
    for command in commands {
        let at = || {
            let program = Program::at(&secure.server, command).current_dir(secure.server.folder());
            program.env("STREAM_SUM_NATS__TLS_CA", secure.key("ca.pem").to_str().unwrap())
        };
        let refused = |ended: Ended| {
            let ended = ended.expect(2);
            assert!(ended.sentence().contains("refuses these credentials"), "{command}: {}", ended.sentence());
        };
        refused(at().run());
        refused(at().arg("--nkey").arg(&stranger).run());
        refused(at().env("STREAM_SUM_NATS__USER", "admin").env("STREAM_SUM_NATS__PASSWORD", "admin").run());
        refused(at().env("STREAM_SUM_NATS__TOKEN", "t0ken").run());
    }
}

#[test]
fn a_server_that_another_authority_vouches_for_is_refused_in_one_sentence() {
    let (secure, other) = (Secure::start(), Secure::start());
    for ca in [other.key("ca.pem").to_str().unwrap(), ""] {
        let program = secure.run_as("admin", "topology show").env("STREAM_SUM_NATS__TLS_CA", ca);
        let ended = program.env("STREAM_SUM_NATS__STARTUP_TIMEOUT", "1s").run().expect(2);
        for said in ["no secure connection to", "invalid peer certificate", "check nats.tls_ca"] {
            assert!(ended.sentence().contains(said), "{ca}: {}", ended.sentence());
        }
    }
}
