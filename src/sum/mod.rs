//! The summer: what a chunk does to the row of its stream.
//!
//! | the stream has | the chunk | outcome |
//! | --- | --- | --- |
//! | no row | `seq_no` 1 | opened; closing at once is the SHA-1 of nothing |
//! | no row | `seq_no` > 1 | rejected `unknown` |
//! | an expired row, not yet forgotten | `seq_no` > 1 | rejected `expired` |
//! | a live row | last + 1 | extended, or completed where `data` is empty |
//! | a live row | <= last | duplicate: dropped and counted |
//! | a live row | > last + 1 | rejected `gap`; the stream becomes broken |
//! | a broken row | any | rejected `broken` |
//! | a completed row | <= its `seq_no` / beyond | duplicate / rejected `after-end` |
//!
//! An expired row is no row but for the word in a reject, and a forgotten one is none at all. This is all that is special
//! about summing: the [machine](jetfold) around it would do the same for any other deterministic fold.

pub mod answer;
pub mod chunk;
pub mod codec;
pub mod held;
pub mod names;
mod output;
pub mod row;
pub mod running;
pub mod stream_id;
pub mod topology_section;

use crate::sum::chunk::{Chunk, SeqNo};
use crate::sum::row::{Expiry, Row};
use crate::sum::running::{RunningSum, Sum};
use crate::sum::stream_id::StreamId;
use jetfold::LogTime;
use jetfold::Words;
use jetfold::values::{Size, Span};
use jetfold::{Application, Cx, Facts, Input, Slot, Undecodable};
use std::time::Duration;

/// On what every fold of a system must agree; it stands in the logs' metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The most data, in bytes, that one chunk may hold.
    pub max_chunk_bytes: usize,
    pub expiry: Expiry,
}

/// The rules' names in the logs' metadata.
pub const MAX_CHUNK_BYTES: &str = "max-chunk-bytes";
pub const IDLE_EXPIRY: &str = "idle-expiry";
pub const COMPLETED_EXPIRY: &str = "completed-expiry";

/// A time of the configuration in nanoseconds, and back.
pub fn nanos(span: Span) -> LogTime {
    LogTime::try_from(span.0.as_nanos()).unwrap_or(LogTime::MAX)
}

fn span(nanos: LogTime) -> Span {
    Span(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
}

/// One message moves the log's clock by this part of `expiry.idle` at the most.
const LONGEST_STEP: LogTime = 8;

/// What stream-sum calls things.
pub const WORDS: Words = Words {
    logs: "chunks",
    outputs: "sums",
    rejects: "rejects",
    state: "stream-sum-state",
    members: "stream-sum-members",
    worker: "summer",
    record: "chunk",
    records: "chunks",
    key: "stream",
    keys: "streams",
    output: "final",
    output_plural: "finals",
    conflict: "ConflictingFinal",
    outputs_forgot: "SumsForgot",
    result: "sum",
    outputs_described: "the final of every stream, once a subject",
    apply: "stream-sum topology apply",
    adopt: "stream-sum topology apply --adopt",
    force: "--force",
    largest_record: "topology.max_chunk_bytes",
    outputs_max_bytes: "topology.sums_max_bytes",
    on_violation: "summer.on_violation",
    worker_name: "--worker",
    data_dir: "--data-dir",
    batch_bytes: "chunker.batch_bytes",
    partitions: "summer.partitions",
    folding: "summing",
    accept: "--accept",
    accept_while_running: "stream-sum accept",
    has_put_out: "completed",
    lost_messages: "that they are lost: later chunks of the streams that they were of become rejects",
    lost: "something was lost, and what it belongs to will get no final",
    // A chunk can't be told from one that is sent again long after its stream's end unless the beginning of its stream was
    // folded.
    after_a_loss: "later chunks of the streams that have lost some are in rejects: as `gap`, then `broken`, where the \
                   beginning of the stream was folded, and as `unknown` where it was not",
};

/// The fold of chunks to sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summer {
    rules: Rules,
}

impl Summer {
    pub fn new(rules: Rules) -> Self {
        Self { rules }
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }
}

/// Why a chunk is not folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Not the first chunk, of a stream that nothing is known of: its beginning is lost, maybe with what of a log was accepted as
    /// lost, or it is sent again long after its end.
    Unknown,
    /// Not the first chunk, of a stream that was known and has expired: it came too late.
    Expired,
    /// Chunks are missing before this one.
    Gap,
    /// Of a stream that lost a chunk before.
    Broken,
    /// Beyond the closing chunk.
    AfterEnd,
    /// More data than one chunk may hold.
    Oversized,
}

impl Reason {
    /// Each of them.
    pub const ALL: [Self; 6] = [Self::Unknown, Self::Expired, Self::Gap, Self::Broken, Self::AfterEnd, Self::Oversized];
}

impl From<Reason> for &'static str {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Unknown => "unknown",
            Reason::Expired => "expired",
            Reason::Gap => "gap",
            Reason::Broken => "broken",
            Reason::AfterEnd => "after-end",
            Reason::Oversized => "oversized",
        }
    }
}

/// What a summer counts beside records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes of data folded into sums.
    pub bytes: u64,
    pub completed: u64,
    pub duplicates: u64,
}

impl jetfold::Tally for Tally {
    fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.completed += other.completed;
        self.duplicates += other.duplicates;
    }

    fn counts(&self) -> Vec<(&'static str, u64)> {
        vec![("bytes", self.bytes), ("completed", self.completed), ("duplicates", self.duplicates)]
    }
}

impl Application for Summer {
    const NAME: &'static str = "stream-sum";
    const FORMAT: u32 = 2;
    /// The wire format of 1 is the same, and its log time was another.
    const OLDER_FORMATS: &'static [u32] = &[1];
    const ROWS: &'static str = "streams";
    const WORDS: Words = WORDS;
    /// `SeqNo` numbers every chunk.
    const INPUT: Input = Input::Own;

    type Key = StreamId;
    type Row = Row;
    type Record<'a> = Chunk<'a>;
    type Output = Sum;
    type Reason = Reason;
    type Tally = Tally;

    #[inline]
    fn records<'a>(&self, payload: &'a [u8]) -> impl Iterator<Item = Result<Chunk<'a>, Undecodable>> {
        codec::chunks(payload)
    }

    #[inline]
    fn key<'r>(&self, chunk: &'r Chunk<'_>) -> &'r StreamId {
        &chunk.id
    }

    #[inline]
    fn fold(&self, mut slot: Slot<'_, Row>, chunk: &Chunk<'_>, cx: &mut Cx<'_, Self>) -> Result<(), Reason> {
        if chunk.data.len() > self.rules.max_chunk_bytes && !jetfold::planted!("chunks-have-no-bounds") {
            return Err(Reason::Oversized);
        }
        let changed_at = cx.now;
        let (seq_no, value) = match slot.get() {
            // The most frequent comes first.
            Some(Row::Live { sum, .. }) => {
                if chunk.seq_no <= sum.seq_no() && !jetfold::planted!("a-duplicate-is-folded") {
                    cx.tally.duplicates += 1;
                    return Ok(());
                }
                let Some(Row::Live { sum, changed_at: at }) = slot.get_mut() else { unreachable!("it is live") };
                if sum.update(chunk).is_err() {
                    let seq_no = sum.seq_no();
                    slot.set(Row::Broken { seq_no, changed_at });
                    return Err(Reason::Gap);
                }
                *at = changed_at;
                if !chunk.closes() {
                    cx.tally.bytes += chunk.data.len() as u64;
                    return Ok(());
                }
                (sum.seq_no(), sum.value())
            }
            None if chunk.seq_no > SeqNo::FIRST && !jetfold::planted!("a-stream-begins-anywhere") => {
                // A row that is forgotten may be collected at any time, so it must not tell.
                let was_known = slot.expired().is_some_and(|row| !self.is_forgotten(row, cx.now));
                return Err(if was_known { Reason::Expired } else { Reason::Unknown });
            }
            None => {
                let sum = RunningSum::open(chunk);
                match chunk.closes() {
                    true => (sum.seq_no(), sum.value()),
                    false => {
                        cx.tally.bytes += chunk.data.len() as u64;
                        slot.set(Row::Live { sum, changed_at });
                        return Ok(());
                    }
                }
            }
            Some(Row::Broken { .. }) => return Err(Reason::Broken),
            Some(Row::Completed { seq_no, .. }) if chunk.seq_no > *seq_no => return Err(Reason::AfterEnd),
            Some(Row::Completed { .. }) => {
                cx.tally.duplicates += 1;
                return Ok(());
            }
        };
        slot.set(Row::Completed { seq_no, value, changed_at });
        cx.tally.completed += 1;
        cx.put_out(Sum { id: chunk.id, seq_no, value });
        Ok(())
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let Rules { max_chunk_bytes, expiry } = self.rules;
        vec![
            (MAX_CHUNK_BYTES, Size(max_chunk_bytes as u64).to_string()),
            (IDLE_EXPIRY, span(expiry.idle).to_string()),
            (COMPLETED_EXPIRY, span(expiry.completed).to_string()),
        ]
    }

    fn agreed(self, facts: &Facts) -> Result<Self, &'static str> {
        let said = |key: &'static str| facts.get(key).map_or("", String::as_str);
        let time = |key| said(key).parse::<Span>().map(nanos).map_err(|_| key);
        let max_chunk_bytes = said(MAX_CHUNK_BYTES).parse::<Size>().map_err(|_| MAX_CHUNK_BYTES)?.bytes();
        let expiry = Expiry { idle: time(IDLE_EXPIRY)?, completed: time(COMPLETED_EXPIRY)? };
        Ok(Self::new(Rules { max_chunk_bytes, expiry }))
    }

    fn largest_record(&self) -> usize {
        self.rules.max_chunk_bytes
    }

    fn longest_step(&self) -> LogTime {
        self.rules.expiry.idle / LONGEST_STEP
    }

    #[inline]
    fn is_expired(&self, row: &Row, now: LogTime) -> bool {
        row.is_expired(now, self.rules.expiry)
    }

    fn is_forgotten(&self, row: &Row, now: LogTime) -> bool {
        row.is_forgotten(now, self.rules.expiry)
    }

    fn was_put_out(&self, id: &StreamId, row: &Row) -> Option<(Sum, LogTime)> {
        Some((row.final_sum(*id)?, row.changed_at()))
    }

    #[inline]
    fn is_live(&self, row: &Row) -> bool {
        matches!(row, Row::Live { .. })
    }

    fn loss(&self, reason: Reason, chunk: &Chunk<'_>) -> Option<String> {
        let Chunk { id, seq_no, .. } = chunk;
        (reason == Reason::Gap).then(|| format!("chunk {seq_no} of stream {id} follows a gap: chunks were lost"))
    }
}

#[cfg(test)]
mod tests;
