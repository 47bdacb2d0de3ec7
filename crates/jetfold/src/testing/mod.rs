//! For whoever writes an application: whether it is a fold.
//!
//! A worker may die at any time. The next one opens the store as it was committed last, folds what follows once more, and must
//! arrive at the same place. It does for any application whose calls depend on their arguments alone.

use crate::application::{Application, Output};
use crate::checkpoint::{Checkpoint, Position};
use crate::producer::NamedProducer;
use crate::stamp::Stamp;
use crate::store::{Owner, Rows, Store, StoreError};
use crate::table::{Share, Table};
use crate::time::{LogTime, UnixNanos};
use crate::transaction::{Batch, Folded, Tally};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Batches from one commit to the next. `None`: nothing is committed before the end, and each replay begins at the first batch.
const INTERVALS: [Option<u64>; 4] = [Some(1), Some(2), Some(5), None];

/// Bytes of redb's cache.
const CACHE: usize = 1 << 20;

/// Folds a log into a store in a temporary folder, from its beginning to its end, and then again and again, with commits at several
/// intervals, and a restart after each batch: what is not committed is dropped, and the store is opened again.
///
/// Whenever a batch is folded, it must ask for the same outputs and rejects. In the end rows, producers, checkpoint and tallies must
/// be the same, and with forgotten rows collected all but what is forgotten.
///
/// `batches` are a whole log, with positions from 1, of a system with one partition: see [`log`].
///
/// # Errors
/// The first difference, in words. Or why there is none to tell: `batches` are no log, or a store has failed.
pub fn restart_points<A: Application>(application: A, batches: &[Batch]) -> Result<(), String> {
    if let Some((batch, position)) = batches.iter().zip(1..).find(|(batch, position)| batch.position != *position) {
        return Err(format!("position {} stands where {position} belongs: the batches are no log", batch.position));
    }
    let application = Arc::new(application);
    let expected = fold_all(&application, batches, Way { restarts: false, interval: None, collects: false }, &[])?;
    for interval in INTERVALS {
        for collects in [false, true] {
            let way = Way { restarts: true, interval, collects };
            let found = fold_all(&application, batches, way, &expected.asked)?;
            expected.compare(&found, &application, collects).map_err(|what| format!("{way}: {what}"))?;
        }
    }
    Ok(())
}

/// A log of batches with these payloads, a millisecond apart, as one producer sends them.
pub fn log<P: Into<Bytes>>(payloads: impl IntoIterator<Item = P>) -> Vec<Batch> {
    const MILLISECOND: UnixNanos = 1_000_000;
    let batch = |(payload, position): (P, Position)| {
        let stamp = Stamp { producer: "producer".to_owned(), life: 1, number: position, offset: position };
        Batch { position, time: position.cast_signed() * MILLISECOND, payload: payload.into(), stamp: Some(stamp) }
    };
    payloads.into_iter().zip(1..).map(batch).collect()
}

/// How a log is folded.
#[derive(Clone, Copy)]
struct Way {
    /// Whether there is a restart after each batch.
    restarts: bool,
    interval: Option<u64>,
    /// Whether forgotten rows are collected, and all others let go of as soon as they are committed.
    collects: bool,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.restarts { "restarted after each batch, " } else { "" })?;
        match self.interval {
            None => f.write_str("with one commit at the end")?,
            Some(1) => f.write_str("with a commit after each batch")?,
            Some(batches) => write!(f, "with a commit every {batches} batches")?,
        }
        f.write_str(if self.collects { ", forgotten rows collected" } else { "" })
    }
}

/// What a batch asks for.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    /// By subject.
    outputs: Vec<(String, Vec<u8>)>,
    rejects: Option<String>,
    loss: Option<String>,
}

impl<A: Application> From<Folded<A>> for Asked {
    fn from(folded: Folded<A>) -> Self {
        let output = |output: A::Output| {
            let (mut subject, mut payload) = (String::new(), Vec::new());
            output.subject(&mut subject);
            output.encode(&mut payload);
            (subject, payload)
        };
        let outputs = folded.outputs.into_iter().map(output).collect();
        let rejects = folded.rejected.map(|rejected| rejected.rejections.describe(usize::MAX));
        Self { outputs, rejects, loss: folded.loss }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outputs: Vec<_> =
            self.outputs.iter().map(|(subject, payload)| format!("{subject}: {}", payload.escape_ascii())).collect();
        write!(f, "outputs [{}], rejects [{}]", outputs.join(", "), self.rejects.as_deref().unwrap_or_default())?;
        match &self.loss {
            Some(loss) => write!(f, ", loss [{loss}]"),
            None => Ok(()),
        }
    }
}

/// What has come of a log.
struct Outcome<A: Application> {
    /// What each batch asked for when it was folded first.
    asked: Vec<Asked>,
    rows: Rows<A>,
    producers: Vec<NamedProducer>,
    checkpoint: Checkpoint,
    tally: Tally<A::Tally>,
}

/// Folds a log. What a batch asks for must be what is expected, or what it has asked for before.
fn fold_all<A: Application>(
    application: &Arc<A>,
    batches: &[Batch],
    way: Way,
    expected: &[Asked],
) -> Result<Outcome<A>, String> {
    let folder = tempfile::tempdir().map_err(|error| format!("there is no temporary folder: {error}"))?;
    let failed = |error: StoreError| error.to_string();
    let mut opened = Opened::begin(application, folder.path(), way).map_err(failed)?;
    let (mut asked, mut tally) = (Vec::<Asked>::new(), Tally::default());
    for last in 1..=batches.len() {
        while opened.position() < last {
            let index = opened.position();
            let found: Asked = opened.fold(&batches[index], &mut tally).map_err(failed)?.into();
            if let Some(expected) = expected.get(index).or(asked.get(index))
                && *expected != found
            {
                return Err(format!("{way}: batch {} asks for {found} instead of {expected}", index + 1));
            }
            if index == asked.len() {
                asked.push(found);
            }
        }
        if way.restarts && last < batches.len() {
            drop(opened);
            opened = Opened::begin(application, folder.path(), way).map_err(failed)?;
        }
    }
    opened.commit(&mut tally).map_err(failed)?;
    let (view, checkpoint) = (opened.store.view(), opened.store.checkpoint().map_err(failed)?);
    let producers = view.and_then(|view| view.producers()).map_err(failed)?;
    let (rows, _) = opened.store.rows_after(None, usize::MAX).map_err(failed)?;
    Ok(Outcome { asked, rows, producers, checkpoint: checkpoint.expect("the store has begun"), tally })
}

/// From one opening of the store to the next.
struct Opened<A: Application> {
    application: Arc<A>,
    way: Way,
    store: Store<A>,
    table: Table<A>,
    /// The last transaction committed.
    committed: u64,
    /// Rows of the store that were forgotten then.
    forgotten: Rows<A>,
}

impl<A: Application> Opened<A> {
    fn begin(application: &Arc<A>, folder: &Path, way: Way) -> Result<Self, StoreError> {
        let store = Store::open(folder, &Owner { log: "log-0".to_owned(), partition: 0, partitions: 1 }, CACHE)?;
        let checkpoint = match store.checkpoint()? {
            Some(checkpoint) => checkpoint,
            None => {
                let checkpoint = Checkpoint::start_of(1);
                store.begin(&checkpoint)?;
                checkpoint
            }
        };
        let (share, row_bytes) = (Share { partition: 0, partitions: 1 }, if way.collects { 0 } else { u64::MAX });
        let table = Table::over(application.clone(), share, row_bytes, checkpoint, &store)?;
        let mut opened =
            Self { application: application.clone(), way, store, table, committed: 0, forgotten: Vec::new() };
        opened.look_for_forgotten(checkpoint.log_time)?;
        Ok(opened)
    }

    /// How many batches are folded.
    fn position(&self) -> usize {
        usize::try_from(self.table.position()).expect("the log is in memory")
    }

    fn fold(&mut self, batch: &Batch, tally: &mut Tally<A::Tally>) -> Result<Folded<A>, StoreError> {
        let mut staged = self.table.stage(&batch.payload);
        for (key, row) in self.store.rows(&mut std::mem::take(&mut staged.missing))? {
            self.table.supply(&key, row);
        }
        let folded = self.table.fold(batch, staged);
        if self.way.interval.is_some_and(|interval| batch.position.is_multiple_of(interval)) {
            self.commit(tally)?;
        }
        Ok(folded)
    }

    fn commit(&mut self, tally: &mut Tally<A::Tally>) -> Result<(), StoreError> {
        let Some(transaction) = self.table.seal(self.committed, &self.forgotten) else { return Ok(()) };
        self.store.commit(&transaction)?;
        self.table.committed(transaction.number);
        self.committed = transaction.number;
        tally.add(&transaction.tally);
        self.look_for_forgotten(transaction.checkpoint.log_time)
    }

    fn look_for_forgotten(&mut self, now: LogTime) -> Result<(), StoreError> {
        if self.way.collects {
            let (mut rows, _) = self.store.rows_after(None, usize::MAX)?;
            rows.retain(|(_, row)| self.application.is_forgotten(row, now));
            self.forgotten = rows;
        }
        Ok(())
    }
}

impl<A: Application> Outcome<A> {
    /// Says where another outcome of the same log differs.
    fn compare(&self, found: &Self, application: &A, collected: bool) -> Result<(), String> {
        let now = self.checkpoint.log_time;
        let counts = |(_, row): &&(A::Key, A::Row)| !collected || !application.is_forgotten(row, now);
        let rows = |of: &Self| of.rows.iter().filter(counts).cloned().collect();
        differ("the row of", &rows(self), &rows(found))?;
        let producers = |of: &Self| of.producers.iter().cloned().collect();
        differ("the producer", &producers(self), &producers(found))?;
        let mut checkpoint = found.checkpoint;
        if collected {
            // It counts rows that are forgotten, until they are collected.
            checkpoint.live = self.checkpoint.live;
        }
        if checkpoint != self.checkpoint {
            return Err(format!("the checkpoint is {checkpoint:?} instead of {:?}", self.checkpoint));
        }
        if found.tally != self.tally {
            return Err(format!("the tally is {:?} instead of {:?}", found.tally, self.tally));
        }
        Ok(())
    }
}

/// Says where two maps differ first.
fn differ<K: Ord + fmt::Debug, V: PartialEq + fmt::Debug>(
    what: &str,
    expected: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
) -> Result<(), String> {
    let keys: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    let value = |of: &BTreeMap<K, V>, key| of.get(key).map_or("missing".to_owned(), |value| format!("{value:?}"));
    match keys.into_iter().find(|key| expected.get(key) != found.get(key)) {
        Some(key) => Err(format!("{what} {key:?} is {} instead of {}", value(found, key), value(expected, key))),
        None => Ok(()),
    }
}

pub mod outside;
#[cfg(test)]
mod stamped;
#[cfg(test)]
mod tests;
