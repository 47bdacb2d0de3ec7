//! Replicas, compared: each server is parted from the others, and asked for every message that it has itself.

use async_nats::Client;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::Config;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use jetfold::nats::read;
use serde::Serialize;
use sha1::{Digest, Sha1};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Questions that are under way at once, to one server.
const AT_ONCE: usize = 256;

/// Of a stream at most so many messages are compared, the last ones: more would take longer than the run.
const MOST: u64 = 200_000;

/// How long one answer may take, and how long all replicas may take to be current.
const ANSWER: Duration = Duration::from_secs(10);
const CURRENT: Duration = Duration::from_secs(60);

const AGAIN: Duration = Duration::from_millis(200);

/// What came of comparing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Replicas {
    /// Streams that were compared, and messages that each server holds of them.
    pub logs: u64,
    pub messages: u64,
    pub equal: bool,
    pub differences: Vec<String>,
}

/// One stream, as its leader says it is before the servers are parted.
#[derive(Clone, Debug)]
pub struct Extent {
    pub stream: String,
    pub first: u64,
    pub last: u64,
}

/// Waits until all replicas of all streams are current, and has each server answer for what it has itself.
pub async fn prepare(jetstream: &Context, streams: &[String]) -> Result<Vec<Extent>, String> {
    let until = Instant::now() + CURRENT;
    let mut extents = Vec::new();
    for name in streams {
        let info = loop {
            let info = read::stream(jetstream, name).await;
            if let Ok(Some(info)) = info
                && info.cluster.as_ref().is_some_and(|cluster| {
                    cluster.leader.is_some() && cluster.replicas.iter().all(|peer| peer.current && !peer.offline)
                })
            {
                break info;
            }
            if Instant::now() >= until {
                return Err(format!("the replicas of {name} were not all current within {} s", CURRENT.as_secs()));
            }
            sleep(AGAIN).await;
        };
        // Only whoever is told so answers for a stream that it does not lead.
        let config = Config { allow_direct: true, ..info.config.clone() };
        jetstream.update_stream(config).await.map_err(|error| format!("{name} can't be changed: {error}"))?;
        let last = info.state.last_sequence;
        let first = info.state.first_sequence.max(last.saturating_sub(MOST - 1));
        extents.push(Extent { stream: name.clone(), first, last });
    }
    Ok(extents)
}

/// What each of these servers has, once they are parted: it must be the same.
pub async fn compare(servers: &[(String, Client)], extents: &[Extent]) -> Replicas {
    let mut found = Replicas { logs: extents.len() as u64, equal: true, ..Replicas::default() };
    for extent in extents {
        let mut digests = Vec::new();
        for (server, client) in servers {
            match held(client, extent).await {
                Ok(held) => digests.push((server, held)),
                Err(cause) => {
                    found.differences.push(format!("{server} could not be asked for {}: {cause}", extent.stream))
                }
            }
        }
        let Some((_, first)) = digests.first() else { continue };
        found.messages += first.count;
        for (server, held) in digests.iter().filter(|(_, held)| held != first) {
            found.differences.push(format!(
                "{}: {server} holds {} messages, {} holds {}, and they are not the same",
                extent.stream, held.count, digests[0].0, first.count
            ));
        }
    }
    found.equal = found.differences.is_empty();
    found
}

/// Messages, and the digest of all: sequence, time, subject, headers and content.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    count: u64,
    digest: [u8; 20],
}

async fn held(client: &Client, extent: &Extent) -> Result<Held, String> {
    let Extent { stream: name, first, last } = extent;
    let (mut count, mut digest) = (0, Sha1::new());
    let sequences: BoxStream<'_, u64> = stream::iter(*first..=*last).filter(|n| std::future::ready(*n > 0)).boxed();
    let mut answers = sequences.map(|sequence| message(client, name, sequence)).buffered(AT_ONCE);
    while let Some(answer) = answers.next().await {
        if let Some(told) = answer? {
            count += 1;
            digest.update(told);
        }
    }
    Ok(Held { count, digest: digest.finalize().into() })
}

/// One message with what belongs to it; `None` if the server has none there.
async fn message(client: &Client, stream: &str, sequence: u64) -> Result<Option<Vec<u8>>, String> {
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    let question = format!("{{\"seq\":{sequence}}}");
    let answer = timeout(ANSWER, client.request(subject, question.into())).await;
    let answer = answer.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())?;
    if answer.status.is_some_and(|status| status.as_u16() == 404) {
        return Ok(None);
    }
    let headers = answer.headers.ok_or("an answer without headers")?;
    // Who has answered is no part of the message.
    let mut told: Vec<_> = headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(move |value| format!("{name}: {value}\n")))
        .collect();
    told.sort_unstable();
    Ok(Some([told.concat().into_bytes(), answer.payload.to_vec()].concat()))
}
