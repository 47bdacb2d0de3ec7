//! A session of an owner: pull, fold, publish, commit, in whatever order answers come.

use super::tales::{Asks, End, Expected, Tales};
use super::turns::turn;
use super::work::Work;
use super::worker::{Duty, Ended, Post, Process};
use super::world::World;
use crate::application::Application;
use crate::checkpoint::{Checkpoint, Position};
use crate::commit::doubt::Leaders;
use crate::commit::goals::{Goals, Proven};
use crate::commit::line::{Failed, Line};
use crate::identity::judge;
use crate::refused::RejectedBatch;
use crate::table::{Share, Table};
use crate::transaction::{Batch, Transaction};
use std::collections::VecDeque;
use std::sync::Arc;

/// Messages that are on their way at once.
const PULLED: u64 = 4;

/// How often the log is compared with the store, in milliseconds.
const CHECKED: u64 = 5_000;

/// A log as it is pulled: a few messages are on their way.
#[derive(Clone, Debug)]
pub struct Source {
    position: Position,
    connects: u64,
    epoch: u64,
    arriving: VecDeque<Batch>,
}

/// What comes of a pull.
pub enum Pulled {
    Batch(Batch),
    Nothing,
    /// Another than the next, or nothing although there is more.
    Skipped(Position),
    Lost,
}

impl Source {
    pub fn new(position: Position, connects: u64, epoch: u64) -> Self {
        Self { position, connects, epoch, arriving: VecDeque::new() }
    }

    pub fn next(&mut self, world: &mut World, id: usize) -> Pulled {
        if world.links[id].connects != self.connects {
            return Pulled::Lost;
        }
        if self.arriving.is_empty() {
            if world.log.epoch != self.epoch {
                return Pulled::Lost;
            }
            let messages = world.log.messages.range(self.position + 1..).take(PULLED as usize);
            self.arriving.extend(messages.map(|(position, message)| Batch {
                position: *position,
                time: message.time,
                payload: message.payload.clone(),
                stamp: None,
            }));
        }
        match self.arriving.pop_front() {
            // A log that is ahead while nothing comes.
            None if world.log.last > self.position => Pulled::Skipped(self.position + 1),
            None => Pulled::Nothing,
            Some(batch) if batch.position != self.position + 1 => Pulled::Skipped(self.position + 1),
            Some(batch) => {
                self.position = batch.position;
                Pulled::Batch(batch)
            }
        }
    }
}

/// What a session has folded since it was opened, beside the table.
pub struct Session {
    pub table: Table<Tales>,
    pub source: Source,
    pub expected: Expected,
    pub before: Checkpoint,
    /// The last transaction that the store has.
    pub committed: u64,
    leaders: Leaders,
    pub proven: Proven,
    pub goals: Goals,
    /// What the batches of the open transaction have asked for.
    ends: Vec<End>,
    rejects: Vec<String>,
    /// Subjects of all of that, whoever has had it confirmed.
    all: Vec<String>,
    /// Another has had confirmed what is folded: if that is lost afterwards, its marks tell.
    pub follows: bool,
}

impl Session {
    pub fn new(tales: &Arc<Tales>, at: Checkpoint, post: &Post, source: Source, leaders: Leaders) -> Self {
        let share = Share { partition: 0, partitions: 1 };
        Self {
            table: Table::new(tales.clone(), share, 0, at),
            source,
            expected: post.disk.borrow().expected.clone(),
            before: at,
            committed: 0,
            leaders,
            proven: Proven::default(),
            goals: Default::default(),
            ends: Vec::new(),
            rejects: Vec::new(),
            all: Vec::new(),
            follows: false,
        }
    }

    /// Folds a batch by the table, and by what is expected of it.
    pub fn fold(&mut self, post: &Post, batch: &Batch) -> (Vec<End>, Option<RejectedBatch>) {
        let mut staged = self.table.stage(&batch.payload);
        let disk = post.disk.borrow();
        for tale in std::mem::take(&mut staged.missing) {
            if let Some(row) = disk.rows.get(&tale) {
                self.table.supply(&tale, *row);
            }
        }
        let folded = self.table.fold(batch, staged);
        let asks = self.expected.fold(&post.world.borrow().tales, batch, self.before.refolds_through);
        let found = Asks { ends: folded.outputs.clone(), is_rejected: folded.rejected.is_some() };
        if found != asks {
            let position = batch.position;
            post.world
                .borrow_mut()
                .breaks("a fold asks for what the log says", format!("{position}: {found:?}, not {asks:?}"));
        }
        self.all.extend(folded.outputs.iter().map(|end| end.tale.to_string()));
        self.all.extend(folded.rejected.iter().map(|rejected| format!("reject {}", rejected.position)));
        if !self.follows {
            self.ends.extend(&folded.outputs);
            self.rejects.extend(folded.rejected.iter().map(|rejected| reject_subject(&self.before, rejected.position)));
        }
        (folded.outputs, folded.rejected)
    }

    /// The open transaction, with what it should come to.
    pub fn seal(&mut self, post: &Post, committed: u64) -> Option<Sealed> {
        let expired = {
            let disk = post.disk.borrow();
            let now = disk.checkpoint.map_or(0, |at| at.log_time);
            let expiry = post.world.borrow().tales.expiry;
            let rows = disk.rows.iter().filter(|(_, row)| now - row.at > expiry);
            rows.map(|(tale, row)| (*tale, *row)).collect::<Vec<_>>()
        };
        let transaction = self.table.seal(committed, &expired)?;
        let (ends, rejects) = (std::mem::take(&mut self.ends), std::mem::take(&mut self.rejects));
        let all = std::mem::take(&mut self.all);
        Some(Sealed { transaction, expected: self.expected.clone(), ends, rejects, all })
    }
}

pub fn reject_subject(at: &Checkpoint, position: Position) -> String {
    format!("{}.{position}", at.log_born)
}

/// A sealed transaction.
pub struct Sealed {
    pub transaction: Transaction<Tales>,
    pub expected: Expected,
    pub ends: Vec<End>,
    pub rejects: Vec<String>,
    all: Vec<String>,
}

impl Sealed {
    /// Commits it, and sees whether the store is what it should be.
    pub fn commit(self, post: &Post, transaction: &Transaction<Tales>) {
        let disk = &mut *post.disk.borrow_mut();
        disk.commit(transaction, self.expected.clone());
        let world = &mut *post.world.borrow_mut();
        world.commits += 1;
        world.were_out(&self.all);
        let (tales, position) = (world.tales, transaction.checkpoint.position);
        if let Some(how) = disk.expected.differs(&tales, &disk.rows) {
            world.breaks("a store is the fold of its log", format!("at {position}: {how}"));
        }
        let has_lost = world.has_lost_log();
        let gap = transaction.rows.iter().find(|(_, row)| row.is_broken);
        if let (Some((tale, _)), false) = (gap, has_lost) {
            world.breaks("a gap means loss", format!("tale {tale} at {position}"));
        }
    }
}

impl Process {
    /// From one opening of the log to the next.
    pub async fn session(&mut self) -> Ended {
        let is_promoted = self.promoted.is_some();
        let mut session = match self.promoted.take() {
            Some(followed) => *followed,
            None => {
                if self.search().await.is_err() {
                    return Ended::Lost;
                }
                match self.open().await {
                    Ok(session) => session,
                    Err(ended) => return ended,
                }
            }
        };
        let at = self.at.clone();
        let line = Line::new(session.committed, session.before, session.leaders.clone(), at.connects(), false);
        let (sealed, began) = (VecDeque::new(), at.now());
        let mut work = Work { line, tries: Vec::new(), inspecting: None, writing: None, sealed, end: None, began };
        let (mut committed, mut skipped, mut over, mut is_hung_up) = (session.committed, None, None, false);
        let mut check_at = if is_promoted { began } else { began + CHECKED };
        loop {
            work.act(&at, &session);
            if let Some(end) = work.end.take() {
                self.doubt.ended(skipped);
                let why = match &end {
                    Err(Failed::Unsound(unsound)) => unsound.said(&Tales::WORDS),
                    _ => String::new(),
                };
                at.tell(format_args!("ends: {over:?}, skipped {skipped:?} {why}"));
                if let Err(Failed::Conflict(conflict)) = &end {
                    at.world.borrow_mut().breaks("no output contradicts another", conflict.to_string());
                }
                if at.duty.get() == Duty::HandOver {
                    at.handed.set(Some(Some(at.disk.borrow().position())));
                    return Ended::Stopped;
                }
                return if over == Some(true) && end.is_ok() { Ended::Stopped } else { Ended::Lost };
            }
            turn().await;
            if over.is_none() && !self.is_own() {
                over = Some(true);
            }
            if over.is_some() {
                // A session ends: before an accepted hole, what is folded is committed.
                let drains = over == Some(true) || self.doubt.is_before_hole();
                if !drains {
                    work.line.cancel();
                } else if !is_hung_up {
                    is_hung_up = true;
                    if let Some(sealed) = session.seal(&at, committed) {
                        work.seal(sealed, &at);
                    }
                    work.line.hang_up();
                }
            }
            if over.is_none() && at.now() >= check_at {
                check_at = at.now() + CHECKED;
                if !self.is_still_right().await {
                    over = Some(false);
                    continue;
                }
            }
            let choice = at.world.borrow_mut().dice.below(8);
            match choice {
                0..=2 if over.is_none() && work.line.has_room() && work.tries.len() < 32 => {
                    let pulled = session.source.next(&mut at.world.borrow_mut(), at.id);
                    match pulled {
                        Pulled::Batch(batch) => {
                            let (ends, rejected) = session.fold(&at, &batch);
                            at.tell(format_args!("folded {}: {ends:?}", batch.position));
                            if !ends.is_empty() || rejected.is_some() {
                                work.line.effects(ends, rejected);
                            }
                        }
                        // Nothing is to be done until more comes.
                        Pulled::Nothing if work.is_idle() && session.table.open_batches() == 0 => at.sleep(50).await,
                        Pulled::Nothing => {}
                        Pulled::Skipped(expected) => (skipped, over) = (Some(expected), Some(false)),
                        Pulled::Lost => over = Some(false),
                    }
                }
                3 if over.is_none() && work.sealed.is_empty() => {
                    if let Some(sealed) = session.seal(&at, committed) {
                        work.seal(sealed, &at);
                    }
                }
                4 | 5 => work.go_on_publishing(&at),
                6 => work.reply(&at),
                _ => {
                    if let Some(number) = work.write(&at) {
                        committed = number;
                        session.table.committed(number);
                    }
                }
            }
        }
    }

    /// The look at log and effects beside folding.
    async fn is_still_right(&self) -> bool {
        let Some(checkpoint) = self.at.disk.borrow().checkpoint else { return true };
        let Ok(reading) = self.at.reading(&checkpoint, None).await else { return true };
        if judge(&checkpoint, &reading).is_err() || reading.state.created != checkpoint.log_created {
            return false;
        }
        !matches!(self.at.judge_effects(&checkpoint).await, Ok(Err(_)))
    }
}
