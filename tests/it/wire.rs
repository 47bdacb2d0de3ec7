//! As a foreign client sees it: plain async-nats calls and hand-written bytes.

use crate::support::{
    Program, Server, apply, batch, id_in, messages, parse_log, publish_raw, summer, total, wait_for, wait_until,
};
use async_nats::HeaderMap;
use async_nats::jetstream;
use stream_sum::sum::stream_id::StreamId;

const BATTERY: &str = "93c410000102030405060708090a0b0c0d0e0f01c40762617474657279";
const HORSE: &str = "93c410000102030405060708090a0b0c0d0e0f02c40620686f727365";
const CLOSING: &str = "93c410000102030405060708090a0b0c0d0e0f03c400";
const FINAL: &str = "93c410000102030405060708090a0b0c0d0e0f03c4144b177dc1bb6960eddba2d012b9e29ef727b1d593";
const FINAL_SUBJECT: &str = "sums.00010203.0405060708090a0b0c0d0e0f";

async fn publish(jetstream: &jetstream::Context, subject: &str, payload: Vec<u8>) {
    jetstream.publish(subject.to_owned(), payload.into()).await.unwrap().await.unwrap();
}

async fn last(jetstream: &jetstream::Context, stream: &str, subject: &str) -> jetstream::message::StreamMessage {
    let stream = jetstream.get_stream(stream).await.unwrap();
    wait_until(subject, async || stream.get_last_raw_message_by_subject(subject).await.ok()).await
}

fn final_subject(id: StreamId) -> String {
    let hex_id = id.to_string();
    format!("sums.{}.{}", &hex_id[..8], &hex_id[8..])
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.as_str())
}

#[tokio::test]
async fn hand_written_chunks_come_back_as_the_golden_final() {
    let server = Server::start();
    apply(&server, 8);
    let folder = tempfile::tempdir().unwrap();
    let _summer = summer(&server, folder.path(), "").spawn();
    let jetstream = server.jetstream().await;
    // One chunk a message, then two in one: both are batches.
    publish(&jetstream, "chunks.3", hex::decode(BATTERY).unwrap()).await;
    publish(&jetstream, "chunks.3", hex::decode([HORSE, CLOSING].concat()).unwrap()).await;
    let found = last(&jetstream, "sums", FINAL_SUBJECT).await;
    assert_eq!(hex::encode(&found.payload), FINAL);
}

#[tokio::test]
async fn what_is_rejected_is_kept_with_its_reason_and_the_partition_goes_on() {
    let server = Server::start();
    apply(&server, 2);
    let jetstream = server.jetstream().await;
    let id = |n| id_in(0, 2, 7, n);
    let elsewhere = id_in(1, 2, 7, 0);
    let oversized = vec![0; (512 << 10) + 1];
    let mut trailing = batch(&[(id(0), 1, b"a")]);
    trailing.push(0x93);
    let batches = [
        batch(&[(id(1), 2, b"late")]),
        batch(&[(id(2), 1, b"a"), (id(2), 3, b"c"), (id(2), 2, b"b")]),
        batch(&[(id(3), 1, b""), (id(3), 2, b"more")]),
        trailing,
        Vec::new(),
        b"not MessagePack".to_vec(),
        batch(&[(elsewhere, 1, b"a"), (elsewhere, 2, b"")]),
        batch(&[(id(4), 1, &oversized)]),
        vec![0xc1; 1 << 20],
        batch(&[(id(5), 1, b"battery"), (id(5), 2, b" horse"), (id(5), 3, b"")]),
    ];
    for batch in &batches {
        publish(&jetstream, "chunks.0", batch.clone()).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, folder.path(), "").spawn();
    let done = last(&jetstream, "sums", &final_subject(id(5))).await;
    assert!(hex::encode(&done.payload).ends_with("03c4144b177dc1bb6960eddba2d012b9e29ef727b1d593"));
    summing.stop().expect(0);

    let created = jetstream.get_stream("chunks-0").await.unwrap().cached_info().created.unix_timestamp_nanos();
    let expected = [
        (1, "unknown", "1", "0 unknown"),
        (2, "gap,broken", "2", "1 gap; 2 broken"),
        (3, "after-end", "1", "1 after-end"),
        (4, "undecodable", "1", "1 undecodable"),
        (5, "undecodable", "1", "0 undecodable"),
        (6, "undecodable", "1", "0 undecodable"),
        (7, "misrouted", "2", "0-1 misrouted"),
        (8, "oversized", "1", "0 oversized"),
        (9, "undecodable", "1", "0 undecodable"),
    ];
    let rejects = messages(&jetstream, "rejects").await;
    assert_eq!(rejects.len(), expected.len());
    for (position, reason, count, chunks) in expected {
        let subject = format!("rejects.0.{created}.{position}");
        let reject = rejects.iter().find(|reject| reject.subject.as_str() == subject).expect(&subject);
        assert_eq!(header(&reject.headers, "Reject-Reason"), reason, "{position}");
        assert_eq!(header(&reject.headers, "Reject-Count"), count, "{position}");
        assert_eq!(header(&reject.headers, "Reject-Chunks"), chunks, "{position}");
        if position == 9 {
            // As large as a message may be: with headers it would not fit.
            let text = String::from_utf8(reject.payload.to_vec()).unwrap();
            assert!(text.starts_with("length=1048576 sha1="), "{text}");
        } else {
            assert_eq!(reject.payload, batches[position - 1], "{position}");
        }
    }
    assert_eq!(messages(&jetstream, "sums").await.len(), 2, "the stream that ended before more came, and the last");
}

#[tokio::test]
async fn a_batch_sent_twice_counts_once() {
    let server = Server::start();
    apply(&server, 8);
    let jetstream = server.jetstream().await;
    for payload in [BATTERY, BATTERY, HORSE, BATTERY, CLOSING, CLOSING] {
        publish(&jetstream, "chunks.3", hex::decode(payload).unwrap()).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, folder.path(), "").spawn();
    assert_eq!(hex::encode(last(&jetstream, "sums", FINAL_SUBJECT).await.payload), FINAL);
    let log = parse_log(&summing.stop().expect(0).stderr);
    assert_eq!(total(&log, "stopped", "duplicates"), 3);
    assert!(messages(&jetstream, "rejects").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_headers_no_client_can_read_holds_nobody_up() {
    let server = Server::start();
    apply(&server, 2);
    let jetstream = server.jetstream().await;
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, folder.path(), "").spawn();
    summing.wait_for_log("opened the log", 2);
    // As bytes on the wire: a client library would not send this.
    let (id, bad) = (id_in(0, 2, 8, 0), "NATS/1.0\r\nbad key: v\r\nno colon\r\n\r\n");
    let good = batch(&[(id, 1, b"a")]);
    publish_raw(&server, "chunks.0", bad, &good);
    let log = jetstream.get_stream("chunks-0").await.unwrap();
    wait_until("the message", async || (log.get_info().await.unwrap().state.messages == 1).then_some(())).await;
    // The stream that it opened goes on, and so do all others.
    publish(&jetstream, "chunks.0", batch(&[(id, 2, b"")])).await;
    Program::at(&server, "chunker --streams 100 --chunks 3").run().expect(0);
    let found = last(&jetstream, "sums", &final_subject(id)).await;
    assert!(hex::encode(&found.payload).ends_with("02c41486f7e437faa5a7fce15d1ddcb9eaeaea377667b8"));
    summing.stop().expect(0);
}

#[tokio::test]
async fn a_reject_that_another_stands_in_the_way_of_gets_a_subject_of_its_own_and_an_error_line() {
    let server = Server::start();
    apply(&server, 1);
    let jetstream = server.jetstream().await;
    let created = jetstream.get_stream("chunks-0").await.unwrap().cached_info().created.unix_timestamp_nanos();
    let subject = format!("rejects.0.{created}.1");
    publish(&jetstream, &subject, b"somebody else's".to_vec()).await;
    publish(&jetstream, "chunks.0", b"junk".to_vec()).await;
    let id = id_in(0, 1, 8, 0);
    publish(&jetstream, "chunks.0", batch(&[(id, 1, b"")])).await;
    let folder = tempfile::tempdir().unwrap();
    let counted = ["rejects_published", "rejects_already_there", "rejects_differing"];
    // Folded twice, it is found the second time.
    for (worker, counts) in [("a", [1, 0, 1]), ("b", [0, 1, 1])] {
        jetstream.get_stream("OBJ_stream-sum-state").await.unwrap().purge().await.unwrap();
        let summing = summer(&server, &folder.path().join(worker), "--worker a").spawn();
        last(&jetstream, "sums", &final_subject(id)).await;
        // The final was there before the second: what tells that it has folded is what it says.
        wait_for("the error line", || {
            summing.log().iter().any(|entry| entry["level"] == "ERROR" && entry["found"] == subject.as_str())
        });
        let log = parse_log(&summing.stop().expect(0).stderr);
        assert_eq!(counted.map(|field| total(&log, "stopped", field)), counts);
    }
    let rejects = messages(&jetstream, "rejects").await;
    assert_eq!(rejects.len(), 2);
    assert_eq!(rejects[0].payload, "somebody else's");
    assert_eq!(rejects[1].payload, "junk");
    assert!(rejects[1].subject.starts_with(&format!("{subject}.")), "{}", rejects[1].subject);
}
