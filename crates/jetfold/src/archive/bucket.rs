//! Snapshots of stores in the object store: put whole under a name that no other has, listed and looked up by leader
//! reads, removed without a trace.

use crate::archive::listed;
pub use crate::archive::listed::{Listed, Name, Unreadable};
use crate::checkpoint::Checkpoint;
use crate::identity::accept::Accepted;
use crate::joined::joined;
use crate::nats::connect::Connection;
use crate::nats::names::Names;
use crate::nats::read::{self, NoAnswer, Subjects, Which};
use crate::time::{UnixNanos, age};
use async_nats::jetstream::object_store::{ObjectInfo, ObjectMetadata};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use std::cmp::Reverse;
use std::collections::HashSet;
use std::fmt;
use std::io::{BufWriter, Read, Write};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, duplex};
use tokio_util::io::SyncIoBridge;

/// Bytes of an object in one message.
const PIECE: usize = 256 << 10;

/// Bytes on their way between the object store and whoever writes or reads them.
const BUFFER: usize = 1 << 20;

/// Room that a piece needs in a message beyond itself.
const HEADROOM: usize = 64 << 10;

/// A partition's snapshots, as the leader knew them at one moment.
#[derive(Clone, Debug)]
pub struct Look {
    /// When, by the leader's clock, which has stamped the snapshots too.
    pub at: UnixNanos,
    /// The furthest first.
    pub listed: Vec<Listed>,
    /// What another version wrote, the furthest first.
    pub unreadable: Vec<Unreadable>,
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

/// An object that is there, and when the leader stored what names it.
struct Object {
    info: ObjectInfo,
    put_at: UnixNanos,
}

/// The object store of one system's snapshots.
#[derive(Clone, Debug)]
pub struct Snapshots {
    connection: Connection,
    names: Names,
    bucket: String,
}

impl Snapshots {
    pub fn new(connection: Connection, names: &Names) -> Self {
        Self { connection, names: names.clone(), bucket: names.state_bucket() }
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

    /// The snapshots of a partition that can be restored, the furthest first. Of those that can't, because another
    /// version wrote them, the furthest is named.
    pub async fn list(&self, partition: u32) -> Result<Vec<Listed>, NoAnswer> {
        let Look { listed, unreadable, .. } = self.look(partition).await?;
        if let Some(unreadable) = unreadable.first() {
            tracing::warn!(
                snapshot = %unreadable.name,
                "a snapshot is passed over: {unreadable}. The version that wrote it can restore it"
            );
        }
        Ok(listed)
    }

    /// All snapshots of a partition.
    pub async fn look(&self, partition: u32) -> Result<Look, NoAnswer> {
        let Subjects { at, counts } = self.subjects("M.>").await?;
        let mut look = Look { at, listed: Vec::new(), unreadable: Vec::new() };
        for subject in counts.into_keys().filter(|subject| self.is_of(subject, partition)) {
            let Some(Object { info, put_at }) = self.object(&subject).await? else { continue };
            let Ok(name) = info.name.parse::<Name>() else { continue };
            if name.partition != partition {
                continue;
            }
            match listed::told(&self.names, name, info, put_at) {
                Ok(listed) => look.listed.push(listed),
                Err(unreadable) => look.unreadable.push(unreadable),
            }
        }
        look.listed.sort_by_key(|snapshot| Reverse((snapshot.name.position, snapshot.put_at)));
        look.unreadable.sort_by_key(|snapshot| Reverse((snapshot.name.position, snapshot.put_at)));
        Ok(look)
    }

    /// Whether a subject names a snapshot of a partition.
    fn is_of(&self, subject: &str, partition: u32) -> bool {
        let encoded = subject.rsplit('.').next().unwrap_or_default();
        let name = URL_SAFE.decode(encoded).ok().and_then(|name| String::from_utf8(name).ok());
        name.and_then(|name| name.parse::<Name>().ok()).is_some_and(|name| name.partition == partition)
    }

    /// What the leader says of an object; `None` if it was removed meanwhile, or is somebody else's.
    async fn object(&self, subject: &str) -> Result<Option<Object>, NoAnswer> {
        let found = read::message(&self.connection.jetstream, &self.stream(), Which::LastOf(subject)).await?;
        let Some(message) = found else { return Ok(None) };
        let info = serde_json::from_slice::<ObjectInfo>(&message.payload).ok();
        // What it names becomes part of a subject.
        let info = info.filter(|info| !info.deleted && info.nuid.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        Ok(info.filter(|info| !info.nuid.is_empty()).map(|info| Object { info, put_at: message.time }))
    }

    /// Subjects of the bucket, by the leader.
    async fn subjects(&self, filter: &str) -> Result<Subjects, NoAnswer> {
        let filter = format!("$O.{}.{filter}", self.bucket);
        let subjects = read::subjects(&self.connection.jetstream, &self.stream(), &filter).await?;
        let (bucket, apply) = (&self.bucket, self.names.words().apply);
        let gone = || NoAnswer::new(format!("the object store {bucket} is gone: run `{apply}`"));
        subjects.ok_or_else(gone)
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
        let most = self.connection.client.server_info().max_payload.saturating_sub(HEADROOM).max(1);
        let metadata = ObjectMetadata {
            name: name.to_string(),
            description: None,
            chunk_size: Some(PIECE.min(most)),
            headers: None,
            metadata: listed::metadata(&self.names, checkpoint, accepted),
        };
        let (input, mut output) = duplex(BUFFER);
        // The client makes a piece of whatever it reads at once: as much as one holds, then, and not each small write.
        let mut input = BufWriter::with_capacity(PIECE, SyncIoBridge::new(input));
        let writing = tokio::task::spawn_blocking(move || {
            let written = write(&mut input);
            // What nobody takes any more could not be put either, and that is said.
            input.flush().ok();
            written
        });
        let put = bucket.put(metadata, &mut output).await;
        // Where putting has failed, whoever writes must not wait for a reader.
        drop(output);
        let written = joined(writing.await);
        match (put, written) {
            (Ok(_), Ok(written)) => Ok(written),
            (Err(error), _) => Err(no_answer(&error)),
            (Ok(info), Err(error)) => {
                // The writer failed, but the object store has stored what came so far as a complete object: remove it.
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

    /// Removes a snapshot that can't be read here.
    pub async fn remove_unreadable(&self, snapshot: &Unreadable) -> Result<(), NoAnswer> {
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

    /// Removes the pieces that no object names, and that nobody has added to for as long as it takes to call a put `interrupted`.
    /// Returns how many puts that were.
    pub async fn sweep(&self, interrupted: Duration) -> Result<usize, NoAnswer> {
        // Before the objects: one that is finished in between is found among them.
        let Subjects { at, counts: pieces } = self.subjects("C.>").await?;
        let mut named = HashSet::new();
        for subject in self.subjects("M.>").await?.counts.into_keys() {
            named.extend(self.object(&subject).await?.map(|object| self.pieces_subject(&object.info.nuid)));
        }
        let mut swept = 0;
        for subject in pieces.into_keys().filter(|subject| !named.contains(subject)) {
            let last = read::message(&self.connection.jetstream, &self.stream(), Which::LastOf(&subject)).await?;
            let Some(last) = last else { continue };
            if age(last.time, at) >= interrupted {
                self.purge(&subject).await?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}
