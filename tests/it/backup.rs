//! JetStream's own backup of a stream, and its way back: what `nats stream backup` and `nats stream restore` do.

use async_nats::Client;
use async_nats::jetstream;
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};

/// A stream as a backup holds it.
pub struct Backup {
    config: Value,
    state: Value,
    chunks: Vec<Bytes>,
}

async fn ask(client: &Client, subject: String, request: Value) -> Value {
    let answer = client.request(subject, request.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
    answer
}

pub async fn back_up(client: &Client, stream: &str) -> Backup {
    let inbox = client.new_inbox();
    let mut arriving = client.subscribe(inbox.clone()).await.unwrap();
    let request = json!({ "deliver_subject": inbox, "no_consumers": true, "chunk_size": 128 << 10 });
    let told = ask(client, format!("$JS.API.STREAM.SNAPSHOT.{stream}"), request).await;
    let mut chunks = Vec::new();
    loop {
        let chunk = arriving.next().await.unwrap();
        if chunk.payload.is_empty() {
            break;
        }
        chunks.push(chunk.payload);
        if let Some(reply) = chunk.reply {
            client.publish(reply, Bytes::new()).await.unwrap();
        }
    }
    Backup { config: told["config"].clone(), state: told["state"].clone(), chunks }
}

/// Brings a stream back that is not there any more.
pub async fn bring_back(client: &Client, stream: &str, backup: &Backup) {
    let request = json!({ "config": backup.config, "state": backup.state });
    let told = ask(client, format!("$JS.API.STREAM.RESTORE.{stream}"), request).await;
    let subject = told["deliver_subject"].as_str().unwrap().to_owned();
    for chunk in &backup.chunks {
        client.request(subject.clone(), chunk.clone()).await.unwrap();
    }
    let end = client.request(subject, Bytes::new()).await.unwrap();
    let end: Value = serde_json::from_slice(&end.payload).unwrap();
    assert!(end["error"].is_null(), "{end}");
}

/// Deletes streams, and brings them back from their backups.
pub async fn exchange(jetstream: &jetstream::Context, client: &Client, backups: &[(&str, Backup)]) {
    for (stream, backup) in backups {
        jetstream.delete_stream(stream).await.unwrap();
        bring_back(client, stream, backup).await;
    }
}
