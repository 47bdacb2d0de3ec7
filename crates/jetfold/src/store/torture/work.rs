//! What is done to a store while its disk is troubled, and what the store must hold after each step.

use crate::application::{Application, Cx, Never, Slot, Undecodable};
use crate::checkpoint::Checkpoint;
use crate::identity::accept::Accepted;
use crate::producer::{ChangedProducer, NamedProducer, Producer};
use crate::sample::Text;
use crate::store::{Store, StoreError};
use crate::transaction::{Tally, Transaction};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Keeps texts, of batches that are stamped. Nothing is folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parcels;

impl Application for Parcels {
    const NAME: &'static str = "parcels";

    type Key = u64;
    type Row = Text;
    type Record<'a> = u64;
    type Output = Never;
    type Reason = Never;
    type Tally = ();

    fn records(&self, _: &[u8]) -> impl Iterator<Item = Result<u64, Undecodable>> {
        std::iter::empty()
    }

    fn key<'r>(&self, record: &'r u64) -> &'r u64 {
        record
    }

    fn fold(&self, _: Slot<'_, Text>, _: &u64, _: &mut Cx<'_, Self>) -> Result<(), Never> {
        Ok(())
    }
}

/// All that a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    pub checkpoint: Option<Checkpoint>,
    pub accepted: Vec<Accepted>,
    pub producers: Vec<NamedProducer>,
    pub rows: BTreeMap<u64, Text>,
}

impl Content {
    /// Reads all of a store.
    pub fn of(store: &Store<Parcels>) -> Result<Self, StoreError> {
        let view = store.view()?;
        let (checkpoint, accepted, producers) = (view.checkpoint()?, view.accepted()?, view.producers()?);
        Ok(Self { checkpoint, accepted, producers, rows: store.rows_after(None, usize::MAX)?.0.into_iter().collect() })
    }

    pub fn position(&self) -> Option<u64> {
        self.checkpoint.map(|checkpoint| checkpoint.position)
    }
}

/// What is done to a store that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Begin,
    /// Up to this position.
    Commit(u64),
    Accept(u64),
    Restore(u64),
}

/// What becomes of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Open,
    Act(Act),
    Close,
    /// Its process ends without closing it.
    Kill,
}

/// A life of a store in which everything happens.
pub const STEPS: [Step; 18] = [
    Step::Open,
    Step::Act(Act::Begin),
    Step::Act(Act::Commit(1)),
    Step::Act(Act::Commit(2)),
    Step::Act(Act::Commit(3)),
    Step::Close,
    Step::Open,
    Step::Act(Act::Commit(4)),
    Step::Act(Act::Accept(7)),
    Step::Act(Act::Restore(20)),
    Step::Act(Act::Commit(21)),
    Step::Kill,
    Step::Open,
    Step::Act(Act::Commit(22)),
    Step::Act(Act::Restore(40)),
    Step::Act(Act::Commit(41)),
    Step::Act(Act::Commit(42)),
    Step::Close,
];

impl Act {
    /// What a store holds that has held `before`.
    pub fn after(self, before: &Content) -> Content {
        let mut after = before.clone();
        match self {
            Self::Begin => after.checkpoint = Some(at(0)),
            Self::Commit(position) => {
                let transaction = transaction(position);
                after.rows.extend(transaction.rows);
                transaction.collected.iter().for_each(|key| _ = after.rows.remove(key));
                let mut producers = BTreeMap::from_iter(after.producers);
                for (name, producer) in transaction.producers {
                    match producer {
                        Some(producer) => _ = producers.insert(name, producer),
                        None => _ = producers.remove(&name),
                    }
                }
                after.producers = producers.into_iter().collect();
                after.checkpoint = Some(transaction.checkpoint);
            }
            Self::Accept(position) => {
                after.checkpoint = Some(at(position));
                after.accepted.push(accepted(position));
            }
            Self::Restore(position) => after = snapshot(position),
        }
        after
    }

    pub fn on(self, store: &Store<Parcels>) -> Result<(), StoreError> {
        match self {
            Self::Begin => store.begin(&at(0)),
            Self::Commit(position) => store.commit(&transaction(position)),
            Self::Accept(position) => store.accept(&at(position), accepted(position)),
            Self::Restore(position) => {
                let Content { checkpoint, accepted, producers, rows } = snapshot(position);
                let rows = rows.into_iter().map(Ok::<_, StoreError>);
                store.restore(&checkpoint.expect("it has begun"), &accepted, &producers, rows, |_| {})
            }
        }
    }
}

fn at(position: u64) -> Checkpoint {
    Checkpoint { position, ..Checkpoint::start_of(11) }
}

fn accepted(position: u64) -> Accepted {
    Accepted { at: 5, verdict: format!("LogTruncated at {position}"), from: position - 1, to: position }
}

/// Far apart, so that new rows come between the others.
fn key(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Most are small, some take most of a page, and a few take several.
fn row(n: u64, position: u64) -> (u64, Text) {
    let len = match n % 20 {
        0 => 9000,
        1..4 => 1800,
        _ => 60 + usize::try_from(n % 7).expect("small"),
    };
    (key(n), Text::of(n << 32 | position, len))
}

fn producer(n: u64, position: u64) -> NamedProducer {
    let name: Arc<str> = format!("producer {n:03}").into();
    (name, Producer { life: n, number: position, offset: 3 * position, contested: n.is_multiple_of(2), changed_at: 7 })
}

/// Opens, changes and collects some rows each, and has some producers come and go.
fn transaction(position: u64) -> Transaction<Parcels> {
    let first = 100 + position * 40;
    let mut producers: Vec<ChangedProducer> = (position..position + 4)
        .map(|n| {
            let (name, row) = producer(n, position);
            (name, Some(row))
        })
        .collect();
    producers.insert(0, (producer(position - 1, position).0, None));
    Transaction {
        number: 1,
        rows: (first - 20..first + 40).map(|n| row(n, position)).collect(),
        collected: (first - 40..first - 20).map(key).collect(),
        producers,
        checkpoint: Checkpoint { live: first, ..at(position) },
        tally: Tally::default(),
    }
}

/// What a snapshot brings: other rows than the log has, and fewer.
fn snapshot(position: u64) -> Content {
    Content {
        checkpoint: Some(Checkpoint { live: 1, ..at(position) }),
        accepted: vec![accepted(position)],
        producers: (position..position + 6).map(|n| producer(n, position)).collect(),
        rows: (position * 1000..position * 1000 + 70).map(|n| row(n, position)).collect(),
    }
}
