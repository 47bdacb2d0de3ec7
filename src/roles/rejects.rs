//! `rejects`: what could not be folded, why, what would have been right, and what of it can be folded by now.
//!
//! A reject is a batch of which something was rejected, named by its sequence in the stream of rejects. Nothing is taken out of that
//! stream: it forgets what is older than `rejects_retention`.

use crate::roles::{asking, status};
use crate::sum::answer::{Answered, Found};
use crate::sum::chunk::Chunk;
use crate::sum::codec;
use crate::sum::names::names;
use crate::sum::stream_id::StreamId;
use crate::sum::topology_section;
use jetfold::nats::connect::{self, ConnectError, Connection};
use jetfold::nats::names::Names;
use jetfold::nats::publish::{self, Refusal};
use jetfold::nats::read::NoAnswer;
use jetfold::rejects::{Dropped, Reject};
use jetfold::{AskError, Position, rfc3339};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write;
use std::time::Duration;
use tokio::time::timeout;

/// How long dropping may take.
const DROPPING: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum RejectsError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("rejects gives no answer ({0}): see that NATS is up and `stream-sum topology apply` was run")]
    NoAnswer(#[from] NoAnswer),
    #[error("no log of this system answers: see that NATS is up and `stream-sum topology apply` was run")]
    NoTopology,
    #[error("there is no reject {0}: see `stream-sum rejects list`; it may be older than rejects are kept")]
    None(Position),
    #[error(
        "of reject {0} only length and digest were kept, because the batch was too large: there are no chunks to show"
    )]
    Omitted(Position),
    #[error("reject {sequence} was {said}: that stays")]
    DroppedBefore { sequence: Position, said: String },
    #[error("it is not known whether reject {0} is dropped, because rejects gives no answer: say it again")]
    NotDropped(Position),
    #[error("what stands in a stream can't be asked: {0}")]
    Ask(#[from] AskError),
    #[error("partition {partition} takes nothing ({cause}): try again")]
    NotTaken { partition: u32, cause: String },
}

/// A chunk of a reject, and why it was rejected, if it was.
struct Shown<'a> {
    index: usize,
    chunk: Chunk<'a>,
    reason: Option<String>,
}

pub struct Rejects {
    connection: Connection,
    names: Names,
    topology: topology_section::Config,
    stored: jetfold::rejects::Rejects,
}

impl Rejects {
    pub async fn connect(nats: &connect::Config, topology: &topology_section::Config) -> Result<Self, RejectsError> {
        let connection = connect::connect(nats, "stream-sum rejects").await?;
        let names = names(&topology.prefix);
        let stored = jetfold::rejects::Rejects::new(connection.clone(), names.clone());
        Ok(Self { connection, names, topology: topology.clone(), stored })
    }

    /// Does what this user must be allowed to do.
    pub async fn unless_denied<T>(
        &self,
        work: impl Future<Output = Result<T, RejectsError>>,
    ) -> Result<T, RejectsError> {
        self.connection.unless_denied(work).await?
    }

    /// A line each, the oldest first, at most so many. `dropped`: of those that were dropped, with why.
    pub async fn list(
        &self,
        partition: Option<u32>,
        reason: Option<&str>,
        limit: usize,
        dropped: bool,
    ) -> Result<String, RejectsError> {
        let found = self.stored.list(partition, reason, limit, dropped).await?;
        let line = |(reject, why): (Reject, Option<Dropped>)| match why {
            None => format!("{reject}\n"),
            Some(why) => format!("{reject}; {}\n", said(&why)),
        };
        Ok(found.into_iter().map(line).collect())
    }

    /// Takes a reject out of what is to be worked off, and keeps why: once, whoever says it again.
    pub async fn drop(&self, sequence: Position, why: &str) -> Result<String, RejectsError> {
        let reject = self.one(sequence).await?;
        match timeout(DROPPING, self.stored.drop(&reject, why)).await {
            Ok(None) => Ok(format!("reject {sequence} is dropped; the batch is kept for as long as rejects are\n")),
            Ok(Some(before)) => Err(RejectsError::DroppedBefore { sequence, said: said(&before) }),
            Err(_) => Err(RejectsError::NotDropped(sequence)),
        }
    }

    /// Every chunk of a reject, rejected or not.
    pub async fn show(&self, sequence: Position) -> Result<String, RejectsError> {
        let reject = self.one(sequence).await?;
        let mut text = self.headed(&reject).await?;
        match chunks(&reject)? {
            Ok(chunks) => {
                for Shown { index, chunk, reason } in chunks {
                    let (id, seq_no, bytes) = (chunk.id, chunk.seq_no, chunk.data.len());
                    let reason = reason.as_deref().unwrap_or("-");
                    writeln!(text, "{index}  stream {id}  chunk {seq_no}  {bytes} bytes  {reason}")
                        .expect("a String takes it");
                }
            }
            Err(what) => writeln!(text, "it is no list of chunks: {what}").expect("a String takes it"),
        }
        Ok(text)
    }

    /// Of each rejected chunk: how its stream stands now, and what would have been right.
    pub async fn explain(&self, sequence: Position) -> Result<String, RejectsError> {
        let reject = self.one(sequence).await?;
        let mut text = self.headed(&reject).await?;
        let chunks = match chunks(&reject)? {
            Ok(chunks) => chunks,
            Err(what) => {
                writeln!(text, "{what}: a batch is one chunk or more, each an array of 16 bytes, a number from 1 and its data; see the README").expect("a String takes it");
                return Ok(text);
            }
        };
        let partitions = self.partitions().await?;
        for Shown { index, chunk, reason } in chunks {
            let Some(reason) = reason else { continue };
            let partition = chunk.id.partition(partitions);
            let Answered { stream, position } = self.asked(chunk.id, partitions).await?;
            let (id, seq_no) = (chunk.id, chunk.seq_no);
            let right = right(&reason, partition, &stream);
            let now = stands(&stream);
            writeln!(
                text,
                "{index}  chunk {seq_no} of stream {id} was {reason}: {right}. By position {position} {now}"
            )
            .expect("a String takes it");
        }
        Ok(text)
    }

    /// Sends what can be folded by now once more, to the log that it belongs to. Chunks number themselves, so it is folded once, whoever
    /// retries it as well, or dies meanwhile.
    pub async fn retry(&self, sequence: Position) -> Result<String, RejectsError> {
        let reject = self.one(sequence).await?;
        let Ok(chunks) = chunks(&reject)? else {
            return Ok("nothing of it can be folded: it is no list of chunks\n".to_owned());
        };
        let partitions = self.partitions().await?;
        let mut next: BTreeMap<_, Option<u64>> = BTreeMap::new();
        let mut batches: BTreeMap<u32, (u64, Vec<u8>)> = BTreeMap::new();
        let mut text = String::new();
        for Shown { index, chunk, reason } in chunks {
            let Some(reason) = reason else { continue };
            let (id, seq_no, partition) = (chunk.id, chunk.seq_no.get(), chunk.id.partition(partitions));
            if let Entry::Vacant(place) = next.entry(id) {
                place.insert(match self.asked(id, partitions).await?.stream {
                    Found::Live { seq_no, .. } => Some(seq_no.saturating_add(1)),
                    Found::Unknown => Some(1),
                    Found::Broken { .. } | Found::Completed { .. } | Found::Refused => None,
                });
            }
            let expected = next.get_mut(&id).expect("it was just looked up");
            if *expected == Some(seq_no) && reason != "oversized" {
                *expected = Some(seq_no.saturating_add(1));
                let (count, batch) = batches.entry(partition).or_default();
                *count += 1;
                codec::encode_chunk(batch, &chunk);
            } else {
                writeln!(text, "{index}  chunk {seq_no} of stream {id} can't be folded: it is {reason} still")
                    .expect("a String takes it");
            }
        }
        for (partition, (count, batch)) in batches {
            let (log, subject) = (self.names.log(partition), self.names.log_subject(partition));
            let published = publish::publish(&self.connection, &log, &subject, None, batch.into()).await;
            let position = published
                .map_err(|refusal: Refusal| RejectsError::NotTaken { partition, cause: format!("{refusal:?}") })?;
            writeln!(text, "{count} chunks are in the log of partition {partition} again, at position {position}")
                .expect("a String takes it");
        }
        Ok(text)
    }

    async fn one(&self, sequence: Position) -> Result<Reject, RejectsError> {
        self.stored.one(sequence).await?.ok_or(RejectsError::None(sequence))
    }

    /// Its line, and why it was dropped, if it was.
    async fn headed(&self, reject: &Reject) -> Result<String, RejectsError> {
        let why = self.stored.why_dropped(reject).await?;
        Ok(format!("{reject}\n{}", why.map(|why| format!("it was {}\n", said(&why))).unwrap_or_default()))
    }

    async fn partitions(&self) -> Result<u32, RejectsError> {
        status::partitions(&self.connection, &self.topology).await.ok_or(RejectsError::NoTopology)
    }

    /// How a stream stands, by whoever folds it.
    async fn asked(&self, id: StreamId, partitions: u32) -> Result<Answered, RejectsError> {
        Ok(asking::how_far(&self.connection, &self.names, id, partitions).await?)
    }
}

fn said(Dropped { why, time }: &Dropped) -> String {
    format!("dropped {}: {}", rfc3339(*time), why.replace(['\r', '\n'], " "))
}

/// The chunks of a reject; the inner error says what is wrong with the batch.
fn chunks(reject: &Reject) -> Result<Result<Vec<Shown<'_>>, String>, RejectsError> {
    let payload = reject.payload().ok_or(RejectsError::Omitted(reject.sequence))?;
    let chunks = codec::chunks(payload).enumerate().map(|(index, chunk)| {
        let reason = reject.reason_at(index);
        chunk.map(|chunk| Shown { index, chunk, reason }).map_err(|error| error.to_string())
    });
    Ok(chunks.collect())
}

/// What would have been right.
fn right(reason: &str, partition: u32, stream: &Found) -> String {
    match reason {
        "misrouted" => format!("its stream is of partition {partition}, and its batch was in the log of another"),
        "oversized" => "it holds more than max_chunk_bytes of the topology: its data goes into more chunks".to_owned(),
        "unknown" => {
            "nothing was known of its stream, which chunk 1 opens: that was lost, or this came again long after the end"
                .to_owned()
        }
        "expired" => "its stream was forgotten before it came: chunks follow each other within idle_expiry".to_owned(),
        "after-end" => {
            "its stream had ended: nothing comes after the closing chunk, which is the first without data".to_owned()
        }
        "gap" => match stream {
            Found::Broken { seq_no } => {
                format!("a chunk before it is missing: chunk {} was to come", seq_no.saturating_add(1))
            }
            _ => "a chunk before it is missing".to_owned(),
        },
        "broken" => "its stream had lost a chunk before, and gets no final: all of it goes under another ID".to_owned(),
        other => format!("{other} is no reason that this version knows"),
    }
}

fn stands(stream: &Found) -> String {
    match stream {
        Found::Unknown => "nothing is known of the stream".to_owned(),
        Found::Live { seq_no, .. } => {
            format!("the stream is under way, and chunk {} is next", seq_no.saturating_add(1))
        }
        Found::Broken { seq_no } => format!("the stream is broken after chunk {seq_no}"),
        Found::Completed { seq_no, .. } => format!("the stream has ended with chunk {seq_no}"),
        Found::Refused => "the question was not understood".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sum::Reason;
    use jetfold::MISROUTED;

    #[test]
    fn of_every_reason_it_is_said_what_would_have_been_right() {
        for reason in Reason::ALL.map(<&str>::from).into_iter().chain([MISROUTED]) {
            let said = right(reason, 3, &Found::Unknown);
            assert!(!said.contains("no reason that this version knows"), "{reason}");
        }
    }
}
