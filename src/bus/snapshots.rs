//! Snapshots of stores in the object store: put whole under a name that no other has, listed and looked up by leader
//! reads, removed without a trace.

use crate::bus::connect::Connection;
use crate::bus::names::Names;
use crate::bus::read::{self, NoAnswer, Which};
use crate::checkpoint::{Accepted, Checkpoint, Position};
use crate::joined::joined;
use crate::row::UnixNanos;
use async_nats::jetstream::object_store::{ObjectInfo, ObjectMetadata};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use futures_util::TryStreamExt;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{Read, Write};
use std::str::FromStr;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncWriteExt, duplex};
use tokio_util::io::SyncIoBridge;

/// Bytes of an object in one message.
const PIECE: usize = 256 << 10;

/// Bytes on their way between the object store and whoever writes or reads them.
const BUFFER: usize = 1 << 20;

/// The keys of an object's metadata that hold, as JSON, the checkpoint and what was accepted before.
const CHECKPOINT_KEY: &str = "stream-sum.checkpoint";
const ACCEPTED_KEY: &str = "stream-sum.accepted";

/// Room that a piece needs in a message beyond itself.
const HEADROOM: usize = 64 << 10;

/// `<partition>/<position>/<random>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub partition: u32,
    pub position: Position,
    random: String,
}

impl Name {
    pub fn new(partition: u32, position: Position) -> Self {
        Self { partition, position, random: hex::encode(rand::random::<[u8; 8]>()) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.partition, self.position, self.random)
    }
}

impl FromStr for Name {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(3, '/');
        let mut part = || parts.next().ok_or(());
        let partition = part()?.parse().map_err(|_| ())?;
        let position = part()?.parse().map_err(|_| ())?;
        Ok(Self { partition, position, random: part()?.to_owned() })
    }
}

/// A snapshot that the leader knows.
#[derive(Clone, Debug)]
pub struct Listed {
    pub name: Name,
    /// Where the store stood.
    pub checkpoint: Checkpoint,
    /// What of its log was accepted as lost before.
    pub accepted: Vec<Accepted>,
    /// Compressed.
    pub bytes: u64,
    nuid: String,
    pieces: usize,
}

/// Why a snapshot could not be put.
#[derive(Debug, thiserror::Error)]
pub enum PutError<E> {
    #[error("{0}")]
    NoAnswer(String),
    #[error("{0}")]
    Write(E),
}

/// Why a snapshot could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FetchError<E> {
    /// Trying again may help.
    #[error("{0}")]
    NoAnswer(String),
    /// The leader has lost part of it, or what it has is not what was put.
    #[error("{0}")]
    Damaged(String),
    #[error("{0}")]
    Read(E),
}

/// The object store of one system's snapshots.
#[derive(Clone, Debug)]
pub struct Snapshots {
    connection: Connection,
    bucket: String,
}

impl Snapshots {
    pub fn new(connection: Connection, names: &Names) -> Self {
        Self { connection, bucket: names.state_bucket() }
    }

    fn stream(&self) -> String {
        format!("OBJ_{}", self.bucket)
    }

    fn meta_subject(&self, name: &str) -> String {
        format!("$O.{}.M.{}", self.bucket, URL_SAFE.encode(name))
    }

    fn pieces_subject(&self, nuid: &str) -> String {
        format!("$O.{}.C.{nuid}", self.bucket)
    }

    /// The snapshots of a partition, the furthest first.
    pub async fn list(&self, partition: u32) -> Result<Vec<Listed>, NoAnswer> {
        let mut listed = Vec::new();
        for info in self.objects().await? {
            let Ok(name) = info.name.parse::<Name>() else { continue };
            if name.partition != partition {
                continue;
            }
            let told = |key: &str| info.metadata.get(key).map_or("", String::as_str);
            // What another version wrote otherwise is nothing that this one could restore.
            let Ok(checkpoint) = serde_json::from_str(told(CHECKPOINT_KEY)) else { continue };
            let Ok(accepted) = serde_json::from_str(told(ACCEPTED_KEY)) else { continue };
            let bytes = info.size as u64;
            listed.push(Listed { name, checkpoint, accepted, bytes, nuid: info.nuid, pieces: info.chunks });
        }
        listed.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.name.position));
        Ok(listed)
    }

    /// What the leader says of every object that is there.
    async fn objects(&self) -> Result<Vec<ObjectInfo>, NoAnswer> {
        let mut objects = Vec::new();
        for subject in self.subjects("M.>").await?.into_keys() {
            let found = read::message(&self.connection.jetstream, &self.stream(), Which::LastOf(&subject)).await?;
            // Removed meanwhile, or somebody else's.
            let Some(message) = found else { continue };
            let Ok(info) = serde_json::from_slice::<ObjectInfo>(&message.payload) else { continue };
            if !info.deleted {
                objects.push(info);
            }
        }
        Ok(objects)
    }

    /// Subjects of the bucket, and how many messages each has, by the leader.
    async fn subjects(&self, filter: &str) -> Result<HashMap<String, usize>, NoAnswer> {
        let refuse = |error: &dyn fmt::Display| NoAnswer::new(error.to_string());
        let stream =
            self.connection.jetstream.get_stream_no_info(self.stream()).await.map_err(|error| refuse(&error))?;
        let filter = format!("$O.{}.{filter}", self.bucket);
        let subjects = stream.info_with_subjects(filter).await.map_err(|error| refuse(&error))?;
        subjects.try_collect().await.map_err(|error| refuse(&error))
    }

    /// Puts a snapshot that `write` writes, on a thread of its own. Nothing stays of one that could not be written
    /// whole; what an interrupt leaves is [swept](Self::sweep).
    pub async fn put<T: Send + 'static, E: Send + 'static>(
        &self,
        name: &Name,
        checkpoint: &Checkpoint,
        accepted: &[Accepted],
        write: impl FnOnce(&mut dyn Write) -> Result<T, E> + Send + 'static,
    ) -> Result<T, PutError<E>> {
        let no_answer = |error: &dyn fmt::Display| PutError::NoAnswer(error.to_string());
        let bucket =
            self.connection.jetstream.get_object_store(&self.bucket).await.map_err(|error| no_answer(&error))?;
        let checkpoint = serde_json::to_string(checkpoint).expect("a checkpoint has a JSON form");
        let accepted = serde_json::to_string(accepted).expect("what was accepted has a JSON form");
        let most = self.connection.client.server_info().max_payload.saturating_sub(HEADROOM).max(1);
        let metadata = ObjectMetadata {
            name: name.to_string(),
            description: None,
            chunk_size: Some(PIECE.min(most)),
            headers: None,
            metadata: HashMap::from([(CHECKPOINT_KEY.to_owned(), checkpoint), (ACCEPTED_KEY.to_owned(), accepted)]),
        };
        let (input, mut output) = duplex(BUFFER);
        let mut input = SyncIoBridge::new(input);
        let writing = tokio::task::spawn_blocking(move || write(&mut input));
        let put = bucket.put(metadata, &mut output).await;
        // Where putting has failed, whoever writes must not wait for a reader.
        drop(output);
        let written = joined(writing.await);
        match (put, written) {
            (Ok(_), Ok(written)) => Ok(written),
            (Err(error), _) => Err(no_answer(&error)),
            (Ok(info), Err(error)) => {
                // It was cut short, and looks whole.
                self.remove_object(&info.name, &info.nuid).await.map_err(|error| no_answer(&error))?;
                Err(PutError::Write(error))
            }
        }
    }

    /// Lets `take` read a snapshot, on a thread of its own. The leader is asked for piece after piece: a consumer may
    /// sit beside a replica that lags, and waits for ever for what is not there.
    pub async fn fetch<T: Send + 'static, E: Send + 'static>(
        &self,
        snapshot: &Listed,
        take: impl FnOnce(&mut dyn Read) -> Result<T, E> + Send + 'static,
    ) -> Result<T, FetchError<E>> {
        let (output, mut input) = duplex(BUFFER);
        let mut output = SyncIoBridge::new(output);
        let taking = tokio::task::spawn_blocking(move || take(&mut output));
        let subject = self.pieces_subject(&snapshot.nuid);
        let passing = async {
            let mut next = 1;
            for piece in 0..snapshot.pieces {
                let which = Which::NextOf(next, &subject);
                let found = read::message(&self.connection.jetstream, &self.stream(), which).await;
                let found = found.map_err(|cause| FetchError::NoAnswer(cause.to_string()))?;
                let gone = || FetchError::Damaged(format!("{piece} of its {} pieces are there", snapshot.pieces));
                let message = found.ok_or_else(gone)?;
                next = message.sequence + 1;
                // Whoever takes it may have seen enough, and says why.
                if input.write_all(&message.payload).await.is_err() {
                    return Ok(());
                }
            }
            Ok(())
        };
        let passed = passing.await;
        drop(input);
        let taken = joined(taking.await);
        passed?;
        taken.map_err(FetchError::Read)
    }

    /// Removes a snapshot, and leaves no tombstone of it.
    pub async fn remove(&self, snapshot: &Listed) -> Result<(), NoAnswer> {
        self.remove_object(&snapshot.name.to_string(), &snapshot.nuid).await
    }

    async fn remove_object(&self, name: &str, nuid: &str) -> Result<(), NoAnswer> {
        // First what names the pieces: pieces without a name are swept, a name without pieces would be damaged.
        self.purge(&self.meta_subject(name)).await?;
        self.purge(&self.pieces_subject(nuid)).await
    }

    async fn purge(&self, subject: &str) -> Result<(), NoAnswer> {
        let refuse = |error: &dyn fmt::Display| NoAnswer::new(error.to_string());
        let stream =
            self.connection.jetstream.get_stream_no_info(self.stream()).await.map_err(|error| refuse(&error))?;
        stream.purge().filter(subject).await.map(|_| ()).map_err(|error| refuse(&error))
    }

    /// Removes the pieces that no object names, and that nobody has added to for `age`: interrupted puts. Returns how
    /// many puts that were.
    pub async fn sweep(&self, age: Duration) -> Result<usize, NoAnswer> {
        // Before the objects: one that is finished in between is found among them.
        let pieces = self.subjects("C.>").await?;
        let named: HashSet<String> = self.objects().await?.iter().map(|info| self.pieces_subject(&info.nuid)).collect();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut swept = 0;
        for subject in pieces.into_keys().filter(|subject| !named.contains(subject)) {
            let last = read::message(&self.connection.jetstream, &self.stream(), Which::LastOf(&subject)).await?;
            let Some(last) = last else { continue };
            if older_than(last.time, age, now) {
                self.purge(&subject).await?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}

fn older_than(at: UnixNanos, age: Duration, now: Duration) -> bool {
    let at = Duration::from_nanos(u64::try_from(at).unwrap_or(0));
    now.saturating_sub(at) >= age
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_partition_and_position() {
        let name = Name::new(3, 17);
        assert_eq!(name.to_string().parse(), Ok(name.clone()));
        assert_ne!(name, Name::new(3, 17));
        for other in ["", "3", "3/17", "x/17/ab", "3/-1/ab"] {
            assert!(other.parse::<Name>().is_err(), "{other}");
        }
    }
}
