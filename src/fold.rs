//! The fold: what a chunk does to the row of its stream.
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
//! An expired row is no row but for the word in a reject, and a forgotten one is none at all. The fold is pure: it is handed the rows that it does not hold, and hands back effects
//! and changed rows. What it decides depends on the log alone, so that any replay arrives at the same place.

use crate::checkpoint::{Checkpoint, Position};
use crate::chunk::{Chunk, SeqNo};
use crate::codec::{self, Undecodable};
use crate::places::{INDEX_BYTES, Places};
use crate::prefetch::prefetch;
use crate::reject::{Reason, RejectedBatch, Rejections};
use crate::row::{LogTime, Row};
use crate::stream_id::StreamId;
use crate::sum::{RunningSum, Sum};
use crate::transaction::{Batch, Folded, Rules, Tally, Transaction};

/// A batch that is decoded and whose rows have their places. What the store has of the IDs in `missing` must be
/// [supplied](Fold::supply) before the batch is folded.
pub struct Staged<'a> {
    chunks: Vec<StagedChunk<'a>>,
    undecodable: Option<Undecodable>,
    /// Streams whose rows the fold does not hold, each once, unsorted.
    pub missing: Vec<StreamId>,
}

/// A chunk, and the place of its row.
#[derive(Clone, Copy)]
struct StagedChunk<'a> {
    chunk: Chunk<'a>,
    place: usize,
}

/// Bytes of memory that one held row costs. What a growing table keeps in reserve comes on top.
pub const HELD_ROW_BYTES: u64 = (size_of::<Place>() + INDEX_BYTES) as u64;

/// How many chunks ahead of the one that is folded a row is fetched into the processor's cache.
const AHEAD: usize = 12;

#[derive(Clone, Debug)]
enum Held {
    Absent,
    /// Its ID belongs to another partition, whatever it says.
    Misrouted,
    Row(Row),
}

/// Two lines of the processor's cache, and no part of a third.
#[derive(Clone, Debug)]
#[repr(align(64))]
struct Place {
    held: Held,
    /// The transaction that changed the row last; 0 where none of this fold did.
    changed_in: u64,
}

const _: () = assert!(size_of::<Place>() == 128);

/// The fold of one partition: rows read and changed, and the place it stands at.
pub struct Fold {
    rules: Rules,
    rows: Places<Place>,
    /// The rows that the open transaction has changed.
    changed: Vec<(StreamId, usize)>,
    /// Streams whose expired rows leave the store with the open transaction.
    collected: Vec<StreamId>,
    /// Where the fold stands; ahead of what is committed.
    at: Checkpoint,
    /// The open transaction, counted from 1.
    number: u64,
    tally: Tally,
    batches: u64,
    /// Memory of the last transaction, until it is committed.
    sealed_bytes: u64,
    /// Memory of the last batch's chunks, for the next.
    spare: Vec<StagedChunk<'static>>,
}

impl Fold {
    pub fn new(rules: Rules, at: Checkpoint) -> Self {
        Self {
            rules,
            rows: Places::default(),
            changed: Vec::new(),
            collected: Vec::new(),
            at,
            number: 1,
            tally: Tally::default(),
            batches: 0,
            sealed_bytes: 0,
            spare: Vec::new(),
        }
    }

    /// The position of the last batch folded.
    pub fn position(&self) -> Position {
        self.at.position
    }

    /// Batches in the open transaction.
    pub fn open_batches(&self) -> u64 {
        self.batches
    }

    /// Decodes a batch and finds the rows of its streams.
    pub fn stage<'a>(&mut self, payload: &'a [u8]) -> Staged<'a> {
        let mut staged =
            Staged { chunks: emptied(std::mem::take(&mut self.spare)), undecodable: None, missing: Vec::new() };
        for chunk in codec::chunks(payload) {
            match chunk {
                Ok(chunk) => {
                    let place = match self.rows.place_of(&chunk.id) {
                        Some(place) => place,
                        None => self.make_place(chunk.id, &mut staged.missing),
                    };
                    staged.chunks.push(StagedChunk { chunk, place });
                }
                Err(undecodable) => {
                    staged.chunks.clear();
                    staged.undecodable = Some(undecodable);
                }
            }
        }
        staged
    }

    /// A place for the row of a stream that is not held.
    fn make_place(&mut self, id: StreamId, missing: &mut Vec<StreamId>) -> usize {
        let ours = id.partition(self.rules.partitions) == self.rules.partition;
        if ours {
            missing.push(id);
        }
        let held = if ours { Held::Absent } else { Held::Misrouted };
        self.rows.insert(id, Place { held, changed_in: 0 })
    }

    /// The row of a stream that [`Fold::stage`] found missing, as the store has it.
    pub fn supply(&mut self, id: StreamId, row: Row) {
        let place = self.rows.get_mut(&id).expect("only rows that were staged are supplied");
        place.held = Held::Row(row);
    }

    /// Folds a staged batch.
    ///
    /// # Panics
    /// If `batch` is not the one after the last: a fold with a hole is no fold, so whoever pulls must know.
    pub fn fold(&mut self, batch: &Batch, staged: Staged<'_>) -> Folded {
        assert_eq!(batch.position, self.at.position + 1, "positions are dense");
        self.at.step(batch.time, self.rules.expiry.idle);
        self.batches += 1;

        let mut folded = Folded::default();
        let mut rejections = Rejections::default();
        if let Some(undecodable) = staged.undecodable {
            rejections.add(undecodable.index, Reason::Undecodable);
        }
        folded.tally.chunks = staged.chunks.len() as u64;
        for (index, StagedChunk { chunk, place }) in staged.chunks.iter().enumerate() {
            if let Some(next) = staged.chunks.get(index + AHEAD) {
                prefetch(&self.rows[next.place]);
            }
            match self.fold_chunk(*place, chunk, &mut folded.tally) {
                Ok(Some(sum)) => folded.finals.push(sum),
                Ok(None) => {}
                Err(reason) => {
                    rejections.add(index, reason);
                    if reason == Reason::Gap {
                        folded.gap.get_or_insert((chunk.id, chunk.seq_no));
                        folded.tally.gaps += 1;
                    }
                }
            }
        }
        self.spare = emptied(staged.chunks);
        if !rejections.is_empty() {
            folded.tally.rejected = rejections.count();
            let payload = batch.payload.clone();
            folded.rejected = Some(RejectedBatch { position: batch.position, payload, rejections });
        }
        self.tally.add(&folded.tally);
        folded
    }

    fn fold_chunk(&mut self, index: usize, chunk: &Chunk<'_>, tally: &mut Tally) -> Result<Option<Sum>, Reason> {
        let place = &mut self.rows[index];
        let was_live = matches!(place.held, Held::Row(Row::Live { .. }));
        let (next, result) = match decide(&mut place.held, chunk, self.at.log_time, &self.rules) {
            Outcome::Duplicate => {
                tally.duplicates += 1;
                return Ok(None);
            }
            Outcome::Rejected(reason) => return Err(reason),
            Outcome::Extended => (None, Ok(None)),
            Outcome::Became(row) => {
                tally.opened += u64::from(chunk.seq_no == SeqNo::FIRST);
                let sum = row.final_sum(chunk.id);
                tally.completed += u64::from(sum.is_some());
                (Some(row), Ok(sum))
            }
            Outcome::Broke(row) => (Some(row), Err(Reason::Gap)),
        };
        if result.is_ok() {
            tally.bytes += chunk.data.len() as u64;
        }
        if let Some(row) = next {
            let is_live = matches!(row, Row::Live { .. });
            self.at.live_streams = self.at.live_streams + u64::from(is_live) - u64::from(was_live);
            place.held = Held::Row(row);
        }
        if place.changed_in != self.number {
            place.changed_in = self.number;
            self.changed.push((chunk.id, index));
        }
        result
    }

    /// Lets rows that are forgotten leave the store with the open transaction, which is to be sealed next. `stored` is
    /// what the store had after the last transaction that was let go of, each row once: what has changed since is held, and
    /// counts.
    ///
    /// Nothing depends on when this is done, or whether: a forgotten row is no row.
    pub fn collect(&mut self, stored: &[(StreamId, Row)]) {
        let (now, expiry) = (self.at.log_time, self.rules.expiry);
        for (id, row) in stored {
            let was_live = match self.rows.get_mut(id) {
                None if row.is_forgotten(now, expiry) => {
                    // Held as absent until this is committed: till then the store still has it.
                    let place = Place { held: Held::Absent, changed_in: self.number };
                    self.rows.insert(*id, place);
                    matches!(row, Row::Live { .. })
                }
                Some(Place { held: held @ Held::Row(_), changed_in }) if *changed_in != self.number => {
                    let Held::Row(row) = &*held else { unreachable!("matched above") };
                    if !row.is_forgotten(now, expiry) {
                        continue;
                    }
                    let was_live = matches!(row, Row::Live { .. });
                    (*held, *changed_in) = (Held::Absent, self.number);
                    was_live
                }
                _ => continue,
            };
            self.at.live_streams = self.at.live_streams.saturating_sub(u64::from(was_live));
            self.collected.push(*id);
        }
    }

    /// Ends the open transaction and begins the next. `None` where nothing was folded since the last.
    pub fn seal(&mut self) -> Option<Transaction> {
        if self.batches == 0 {
            return None;
        }
        let changed = std::mem::take(&mut self.changed);
        let rows = changed.iter().enumerate().map(|(n, (id, place))| {
            if let Some((_, next)) = changed.get(n + AHEAD) {
                prefetch(&self.rows[*next]);
            }
            let Held::Row(row) = &self.rows[*place].held else { unreachable!("only rows change") };
            (*id, row.clone())
        });
        let rows: Vec<_> = rows.collect();
        self.sealed_bytes = size_of_val(rows.as_slice()) as u64;
        let number = self.number;
        self.number += 1;
        self.batches = 0;
        let (collected, tally) = (std::mem::take(&mut self.collected), std::mem::take(&mut self.tally));
        Some(Transaction { number, rows, collected, checkpoint: self.at, tally })
    }

    /// Lets go of rows until about `budget` bytes are held. What transactions after `committed` have changed stays:
    /// the store does not have it yet.
    ///
    /// # Panics
    /// If a transaction is open that has changed rows: their places would move.
    pub fn evict(&mut self, budget: u64, committed: u64) {
        assert!(self.changed.is_empty(), "rows are let go between transactions");
        let most = usize::try_from(budget / HELD_ROW_BYTES).unwrap_or(usize::MAX);
        if self.rows.len() <= most {
            return;
        }
        let number = self.number;
        let must_stay = |place: &Place| place.changed_in > committed;
        // Completed rows are seldom asked for again; live ones not extended for two transactions come next.
        self.rows.retain(|place| {
            must_stay(place) || matches!(place.held, Held::Row(Row::Live { .. })) && place.changed_in + 2 >= number
        });
        if self.rows.len() > most {
            self.rows.retain(must_stay);
        }
    }

    /// A transaction was committed, and its memory is free.
    pub fn committed(&mut self, transaction: u64) {
        if transaction + 1 == self.number {
            self.sealed_bytes = 0;
        }
    }

    /// Memory of the last transaction while it waits for its commit, in bytes.
    pub fn sealed_bytes(&self) -> u64 {
        self.sealed_bytes
    }

    /// Memory of the rows held, in bytes.
    pub fn held_bytes(&self) -> u64 {
        self.rows.len() as u64 * HELD_ROW_BYTES
    }
}

/// The memory of chunks that are no longer needed, for others. Collecting in place is what keeps it.
fn emptied<'a>(mut chunks: Vec<StagedChunk<'_>>) -> Vec<StagedChunk<'a>> {
    chunks.clear();
    chunks.into_iter().map(|_| unreachable!("it is empty")).collect()
}

/// What a chunk does to the row of its stream.
enum Outcome {
    /// Dropped: its data is in the sum already.
    Duplicate,
    Rejected(Reason),
    /// The live row has taken the chunk.
    Extended,
    /// The stream opened or completed.
    Became(Row),
    /// A chunk is missing before this one, which is rejected.
    Broke(Row),
}

/// The table at the head of this file.
fn decide(held: &mut Held, chunk: &Chunk<'_>, now: LogTime, rules: &Rules) -> Outcome {
    if matches!(held, Held::Misrouted) {
        return Outcome::Rejected(Reason::Misrouted);
    }
    if chunk.data.len() > rules.max_chunk_bytes {
        return Outcome::Rejected(Reason::Oversized);
    }
    match held {
        Held::Row(row) if !row.is_expired(now, rules.expiry) => match row {
            Row::Live { sum, .. } if chunk.seq_no <= sum.seq_no() => Outcome::Duplicate,
            Row::Live { sum, changed_at } => {
                if sum.update(chunk).is_err() {
                    return Outcome::Broke(Row::Broken { seq_no: sum.seq_no(), changed_at: now });
                }
                *changed_at = now;
                if chunk.closes() { Outcome::Became(completed(sum, now)) } else { Outcome::Extended }
            }
            Row::Broken { .. } => Outcome::Rejected(Reason::Broken),
            Row::Completed { seq_no, .. } if chunk.seq_no <= *seq_no => Outcome::Duplicate,
            Row::Completed { .. } => Outcome::Rejected(Reason::AfterEnd),
        },
        Held::Row(row) if chunk.seq_no > SeqNo::FIRST && !row.is_forgotten(now, rules.expiry) => {
            Outcome::Rejected(Reason::Expired)
        }
        _ if chunk.seq_no > SeqNo::FIRST => Outcome::Rejected(Reason::Unknown),
        _ => {
            let sum = RunningSum::open(chunk);
            let row = if chunk.closes() { completed(&sum, now) } else { Row::Live { sum, changed_at: now } };
            Outcome::Became(row)
        }
    }
}

fn completed(sum: &RunningSum, now: LogTime) -> Row {
    Row::Completed { seq_no: sum.seq_no(), value: sum.value(), changed_at: now }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encode_chunk;
    use crate::row::{Expiry, UnixNanos};
    use bytes::Bytes;

    const HOUR: UnixNanos = 3_600_000_000_000;
    const RULES: Rules =
        Rules { partition: 0, partitions: 1, max_chunk_bytes: 16, expiry: Expiry { idle: HOUR, completed: 2 * HOUR } };

    fn id(n: u8) -> StreamId {
        StreamId::new([n; 16])
    }

    fn encode(chunks: &[(u8, u64, &[u8])]) -> Bytes {
        let mut payload = Vec::new();
        for (n, seq_no, data) in chunks {
            encode_chunk(&mut payload, &Chunk { id: id(*n), seq_no: SeqNo::new(*seq_no).unwrap(), data });
        }
        payload.into()
    }

    struct Log(Fold);

    impl Log {
        fn new() -> Self {
            Self(Fold::new(RULES, Checkpoint::start_of(1)))
        }

        fn at(&mut self, time: UnixNanos, payload: Bytes) -> Folded {
            let batch = Batch { position: self.0.position() + 1, time, payload };
            let staged = self.0.stage(&batch.payload);
            self.0.fold(&batch, staged)
        }

        /// The same, with a store that has `stored`.
        fn over(&mut self, stored: &[(StreamId, Row)], time: UnixNanos, payload: Bytes) -> Folded {
            let batch = Batch { position: self.0.position() + 1, time, payload };
            let staged = self.0.stage(&batch.payload);
            for (id, row) in stored.iter().filter(|(id, _)| staged.missing.contains(id)) {
                self.0.supply(*id, row.clone());
            }
            self.0.fold(&batch, staged)
        }

        fn chunks(&mut self, chunks: &[(u8, u64, &[u8])]) -> Folded {
            self.at(1, encode(chunks))
        }

        fn why(&mut self, chunks: &[(u8, u64, &[u8])]) -> String {
            self.chunks(chunks).rejected.map(|r| r.rejections.describe(4096)).unwrap_or_default()
        }
    }

    #[test]
    fn a_stream_is_opened_extended_and_completed() {
        let mut log = Log::new();
        let folded = log.chunks(&[(1, 1, b"battery"), (2, 1, b""), (1, 2, b" horse"), (1, 3, b"")]);
        let finals: Vec<_> = folded.finals.iter().map(|sum| (sum.id, sum.value.to_string())).collect();
        assert_eq!(
            finals,
            [
                (id(2), "da39a3ee5e6b4b0d3255bfef95601890afd80709".to_owned()),
                (id(1), "4b177dc1bb6960eddba2d012b9e29ef727b1d593".to_owned()),
            ]
        );
        assert_eq!(folded.tally, Tally { chunks: 4, bytes: 13, opened: 2, completed: 2, ..Tally::default() });
        assert_eq!(log.0.seal().unwrap().checkpoint.live_streams, 0);
    }

    #[test]
    fn duplicates_are_dropped_before_and_after_the_end() {
        let mut log = Log::new();
        let folded = log.chunks(&[
            (1, 1, b"a"),
            (1, 1, b"a"),
            (1, 2, b"b"),
            (1, 1, b"a"),
            (1, 3, b""),
            (1, 2, b"b"),
            (1, 3, b""),
        ]);
        assert_eq!(folded.finals.len(), 1);
        assert_eq!(folded.tally.duplicates, 4);
        assert_eq!(folded.rejected, None);
    }

    #[test]
    fn every_reason_is_named() {
        let mut log = Log::new();
        assert_eq!(log.why(&[(1, 2, b"late")]), "0 unknown");
        assert_eq!(log.why(&[(1, 1, b"a"), (1, 3, b"c"), (1, 2, b"b"), (1, 4, b"")]), "1 gap; 2-3 broken");
        assert_eq!(log.why(&[(2, 1, b""), (2, 2, b"more")]), "1 after-end");
        assert_eq!(log.why(&[(3, 1, b"12345678901234567"), (3, 2, b"x")]), "0 oversized; 1 unknown");
        let undecodable = log.at(1, Bytes::from_static(b"\x93")).rejected.unwrap();
        assert_eq!(undecodable.rejections.describe(4096), "0 undecodable");
        let mut elsewhere = Log(Fold::new(Rules { partition: 1, partitions: 8, ..RULES }, Checkpoint::start_of(1)));
        let misrouted: Vec<_> = (0..64).map(|n| (n, 1, b"".as_slice())).collect();
        let folded = elsewhere.chunks(&misrouted);
        assert!(folded.finals.iter().all(|sum| sum.id.partition(8) == 1));
        assert_eq!(folded.rejected.unwrap().rejections.reasons(), "misrouted");
    }

    #[test]
    fn a_batch_that_ends_undecodable_folds_nothing() {
        let mut log = Log::new();
        let mut payload = encode(&[(1, 1, b"a")]).to_vec();
        payload.push(0x93);
        assert_eq!(log.at(1, payload.into()).tally.opened, 0);
        assert_eq!(log.why(&[(1, 2, b"b")]), "0 unknown");
    }

    /// Messages that move the log's clock on by `by` in all, and say nothing of any stream.
    fn pass(log: &mut Log, from: UnixNanos, by: UnixNanos) -> UnixNanos {
        let mut now = from;
        while now < from + by {
            now = (now + HOUR / 8).min(from + by);
            log.at(now, encode(&[(99, 2, b"of nobody")]));
        }
        now
    }

    #[test]
    fn an_expired_row_is_no_row_and_says_for_a_while_that_it_was() {
        let mut log = Log::new();
        log.at(1, encode(&[(1, 1, b"a"), (2, 1, b"")]));
        let now = pass(&mut log, 1, HOUR);
        assert!(log.at(now, encode(&[(1, 1, b"a")])).rejected.is_none(), "not yet: a duplicate");
        let folded = log.at(now + 1, encode(&[(1, 2, b"b"), (2, 1, b"")]));
        assert_eq!(folded.rejected.unwrap().rejections.describe(99), "0 expired");
        assert_eq!(folded.tally.duplicates, 1, "completed rows have their own expiry");
        let now = pass(&mut log, now + 1, HOUR / 4);
        let folded = log.at(now, encode(&[(1, 2, b"b"), (3, 2, b"never opened")]));
        assert_eq!(folded.rejected.unwrap().rejections.describe(99), "0-1 unknown", "forgotten, collected or not");
        let now = pass(&mut log, now, 3 * HOUR / 4);
        let again = log.at(now, encode(&[(1, 1, b"a"), (2, 1, b"")]));
        assert_eq!(again.tally.opened, 2);
        assert_eq!(log.0.seal().unwrap().checkpoint.live_streams, 1);
    }

    #[test]
    fn no_step_of_a_clock_and_no_quiet_night_ends_a_stream() {
        for step in [2 * HOUR, 100 * HOUR, -50 * HOUR] {
            let mut log = Log::new();
            let start = 1000 * HOUR;
            log.at(start, encode(&[(1, 1, b"a"), (2, 1, b"")]));
            log.at(start + step, encode(&[(3, 1, b"c")]));
            let folded = log.at(start + step + 1, encode(&[(1, 2, b""), (2, 1, b""), (3, 2, b"")]));
            assert_eq!((folded.finals.len(), folded.rejected), (2, None), "{step}");
            assert_eq!(folded.tally.duplicates, 1);
        }
    }

    #[test]
    fn a_transaction_holds_what_changed_and_nothing_else() {
        let mut log = Log::new();
        assert_eq!(log.0.seal(), None);
        log.chunks(&[(2, 1, b"a"), (1, 1, b"a"), (2, 2, b"b")]);
        let first = log.0.seal().unwrap();
        assert_eq!(first.rows.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id(2), id(1)]);
        assert_eq!((first.number, first.checkpoint.position, first.checkpoint.live_streams), (1, 1, 2));
        log.chunks(&[(2, 3, b"c"), (1, 1, b"a")]);
        let second = log.0.seal().unwrap();
        assert_eq!(second.rows.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id(2)]);
    }

    #[test]
    fn rows_that_are_not_committed_are_never_let_go() {
        let mut log = Log::new();
        log.chunks(&[(1, 1, b"a"), (2, 1, b"")]);
        log.0.seal();
        log.0.evict(0, 0);
        assert_eq!(log.0.held_bytes(), 2 * HELD_ROW_BYTES);
        assert!(log.0.sealed_bytes() > 2 * 100, "and the copy that is being committed counts as well");
        log.0.committed(1);
        assert_eq!(log.0.sealed_bytes(), 0);
        log.0.evict(0, 1);
        assert_eq!(log.0.held_bytes(), 0);
    }

    #[test]
    fn forgotten_rows_are_collected_unless_they_live_again() {
        let mut log = Log::new();
        log.at(1, encode(&[(1, 1, b"a"), (2, 1, b"b"), (3, 1, b"c"), (4, 1, b"d"), (5, 1, b"")]));
        let stored = log.0.seal().unwrap().rows;
        log.0.evict(0, 1);
        assert_eq!(log.0.at.live_streams, 4);
        let expired = pass(&mut log, 1, HOUR + 1);
        log.0.collect(&stored);
        assert_eq!(log.0.seal().unwrap().collected, [], "they say still that they were");
        log.0.evict(0, 2);
        let forgotten = pass(&mut log, expired, HOUR / 4);
        // Stream 2 is opened again; 4 is asked for, and too late.
        log.over(&stored, forgotten, encode(&[(2, 1, b"again"), (4, 3, b"")]));
        log.0.collect(&stored);
        let transaction = log.0.seal().unwrap();
        assert_eq!(transaction.collected, [id(1), id(3), id(4)]);
        assert_eq!(transaction.rows.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id(2)]);
        assert_eq!(transaction.checkpoint.live_streams, 1);
        // Until that is committed the store still has them, and whoever is opened again is no longer there.
        log.0.evict(0, 2);
        log.over(&stored, forgotten, encode(&[(1, 1, b"again")]));
        assert_eq!(log.0.at.live_streams, 2);
        log.over(&stored, forgotten, encode(&[(1, 2, b"")]));
        assert_eq!(log.0.at.live_streams, 1);
        // What was collected is gone for the fold as well.
        assert_eq!(log.why(&[(3, 2, b"x"), (4, 2, b"x")]), "0-1 unknown");
        log.0.collect(&[(id(4), stored[3].1.clone())]);
        let next = log.0.seal().unwrap();
        assert_eq!((next.collected, next.checkpoint.live_streams), (vec![], 1));
    }
}
