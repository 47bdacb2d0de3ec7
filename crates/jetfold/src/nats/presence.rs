//! Presence: what workers say of themselves in the key-value bucket of their system, and what is heard there.
//!
//! An entry is put in the way of every client of such buckets, under the worker's name, and expires with the bucket's `max_age`.
//! Whoever is there subscribes to the subjects of the bucket, and so hears each entry as it is put: no consumer has to be kept, and
//! what was put before is read once.

use crate::group::member::Member;
use crate::nats::connect::Connection;
use crate::nats::names::Names;
use crate::nats::publish::{self, Refusal};
use crate::nats::read::{self, NoAnswer, Which};
use async_nats::{HeaderMap, Message, SubscribeError};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, future};

/// The header with which clients of key-value buckets take an entry away.
const OPERATION: &str = "KV-Operation";
const DELETED: &str = "DEL";

/// The most entries that are read at the start: each takes a question.
const MOST_READ: usize = 4096;

/// What is heard of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    Says(String, Member),
    /// It has taken its entry away.
    Left(String),
}

#[derive(Clone, Debug)]
pub struct Presence {
    connection: Connection,
    /// The JetStream stream of the bucket.
    stream: String,
    /// What stands before a worker's name.
    subject: String,
    me: String,
}

impl Presence {
    /// Of the worker `me`.
    pub fn new(connection: Connection, names: &Names, me: &str) -> Self {
        let bucket = names.members_bucket();
        Self { connection, stream: format!("KV_{bucket}"), subject: format!("$KV.{bucket}."), me: me.to_owned() }
    }

    /// Puts what this worker is. `Ok`: the bucket holds it.
    pub async fn say(&self, member: &Member) -> Result<(), Refusal> {
        self.put(None, member.encode().into()).await
    }

    /// Takes the entry of this worker away.
    pub async fn leave(&self) -> Result<(), Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert(OPERATION, DELETED);
        self.put(Some(headers), Bytes::new()).await
    }

    async fn put(&self, headers: Option<HeaderMap>, entry: Bytes) -> Result<(), Refusal> {
        let subject = format!("{}{}", self.subject, self.me);
        publish::publish(&self.connection, &self.stream, &subject, headers, entry).await.map(|_| ())
    }

    /// What all workers say from now on, this one included. Reconnects are survived.
    pub async fn listen(&self) -> Result<impl Stream<Item = Heard> + Unpin + use<>, SubscribeError> {
        let subject = self.subject.clone();
        let said = self.connection.client.subscribe(format!("{subject}>")).await?;
        Ok(said.filter_map(move |message| {
            let Message { subject: put, payload, headers, .. } = message;
            let is_deleted = headers.is_some_and(|headers| headers.get(OPERATION).is_some());
            future::ready(put.strip_prefix(&subject).and_then(|name| heard(name, &payload, is_deleted)))
        }))
    }

    /// What the bucket holds; `None` if there is no such bucket.
    pub async fn read(&self) -> Result<Option<Vec<Heard>>, NoAnswer> {
        let jetstream = &self.connection.jetstream;
        if read::stream(jetstream, &self.stream).await?.is_none() {
            return Ok(None);
        }
        let (mut entries, mut next, filter) = (Vec::new(), 1, format!("{}>", self.subject));
        while entries.len() < MOST_READ
            && let Some(message) = read::message(jetstream, &self.stream, Which::NextOf(next, &filter)).await?
        {
            next = message.sequence + 1;
            let is_deleted = message.header(OPERATION).is_some();
            let name = message.subject.strip_prefix(&self.subject);
            entries.extend(name.and_then(|name| heard(name, &message.payload, is_deleted)));
        }
        Ok(Some(entries))
    }
}

/// What is no member comes from somebody else: nothing is heard.
fn heard(name: &str, entry: &[u8], is_deleted: bool) -> Option<Heard> {
    match is_deleted {
        true => Some(Heard::Left(name.to_owned())),
        false => Member::decode(entry).map(|member| Heard::Says(name.to_owned(), member)),
    }
}
