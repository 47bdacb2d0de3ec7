//! A session of an owner: pull, fold, publish, commit, in whatever order answers come.

use super::tales::{Asks, End, Expected, Tales};
use super::turns::turn;
use super::worker::{Duty, Ended, Post, Process};
use super::world::{Fault, World};
use crate::application::Application;
use crate::checkpoint::{Checkpoint, Position};
use crate::commit::doubt::{Leaders, Place};
use crate::commit::effect::{Answer, Confirmed, Effect, Kind, Outcome, ReadBack, Subject};
use crate::commit::inspection::{Asked, Inspection, Question, Reply, Step};
use crate::commit::line::{Action, Failed, Line};
use crate::identity::judge;
use crate::refused::RejectedBatch;
use crate::table::{Share, Table};
use crate::transaction::{Batch, Transaction};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

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

/// One try to get an effect out, and how far it is.
struct Try {
    number: u64,
    effect: Effect<End>,
    subject: String,
    payload: Bytes,
    /// Until it is found: a first try is told as it is answered.
    persists: bool,
    unknown: bool,
    stage: Stage,
    /// What was heard of the stream when it was sent.
    heard: (u64, u64),
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    ToPublish,
    Answered(Answer),
    ToReadBack,
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
    /// Through where the fold was compared with the owner's, if it was followed.
    pub proven: Option<Checkpoint>,
    pub goals: crate::commit::goals::Goals,
    /// What the batches of the open transaction have asked for.
    ends: Vec<End>,
    rejects: Vec<String>,
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
            proven: None,
            goals: Default::default(),
            ends: Vec::new(),
            rejects: Vec::new(),
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
        Some(Sealed { transaction, expected: self.expected.clone(), ends, rejects })
    }
}

pub fn reject_subject(at: &Checkpoint, position: Position) -> String {
    format!("{}.{position}", at.log_born)
}

/// A sealed transaction.
pub struct Sealed {
    pub transaction: Transaction<Tales>,
    pub expected: Expected,
    ends: Vec<End>,
    rejects: Vec<String>,
}

impl Sealed {
    /// Commits it, and sees whether the store is what it should be.
    pub fn commit(self, post: &Post, transaction: &Transaction<Tales>) {
        let disk = &mut *post.disk.borrow_mut();
        disk.commit(transaction, self.expected);
        let world = &mut *post.world.borrow_mut();
        world.commits += 1;
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

/// An inspection, what it has asked, and the step at which it began.
type Inspecting = (Box<Inspection<Tales>>, Vec<Asked<End>>, u64);

/// A session at work: the line, and all that is under way for it.
struct Work {
    line: Line<Tales, ()>,
    tries: Vec<Try>,
    inspecting: Option<Inspecting>,
    writing: Option<Box<Transaction<Tales>>>,
    sealed: VecDeque<Sealed>,
    end: Option<Result<(), Failed<End, ()>>>,
    began: u64,
}

impl Process {
    /// From one opening of the log to the next.
    pub async fn session(&mut self) -> Ended {
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
        let mut check_at = if session.proven.is_some() { began } else { began + CHECKED };
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

impl Work {
    fn seal(&mut self, sealed: Sealed, at: &Post) {
        at.tell(format_args!("sealed {} at {}", sealed.transaction.number, sealed.transaction.checkpoint.position));
        self.line.seal(Box::new(sealed.transaction.clone()), at.connects());
        self.sealed.push_back(sealed);
    }

    fn is_idle(&self) -> bool {
        self.tries.is_empty() && self.sealed.is_empty()
    }

    fn elapsed(&self, at: &Post) -> Duration {
        Duration::from_millis(at.now() - self.began)
    }

    /// Does what the line says.
    fn act(&mut self, at: &Post, session: &Session) {
        while let Some(action) = self.line.next_action() {
            match action {
                Action::Send(number, end) => self.publish(at, session, number, Effect::Output(end), false),
                Action::Publish(number, effect) => self.publish(at, session, number, effect, true),
                Action::LetPass(conflict) => {
                    at.world.borrow_mut().breaks("no output contradicts another", conflict.to_string());
                }
                Action::Inspect(inspection) => {
                    let step = at.world.borrow().step;
                    self.inspecting = Some((inspection, Vec::new(), step));
                    self.inspect(at);
                }
                Action::Write(transaction) => {
                    let checkpoint = transaction.checkpoint;
                    at.tell(format_args!("confirmed through {}", checkpoint.position));
                    self.writing = Some(transaction);
                    at.world.borrow_mut().say_confirmed(at.id, checkpoint);
                    if at.duty.get() == Duty::HandOver && checkpoint.position == session.table.position() {
                        at.handed.set(Some(Some(checkpoint.position)));
                    }
                }
                Action::End(result) => self.end = Some(result),
            }
        }
    }

    fn publish(&mut self, at: &Post, session: &Session, number: u64, effect: Effect<End>, persists: bool) {
        let (subject, payload) = match &effect {
            Effect::Output(end) => (end.tale.to_string(), Bytes::from(end.digest.to_le_bytes().to_vec())),
            Effect::Reject(rejected) => (reject_subject(&session.before, rejected.position), rejected.payload.clone()),
        };
        let heard = at.world.borrow().heard(at.id, kind_of(&effect));
        self.tries.push(Try {
            number,
            effect,
            subject,
            payload,
            persists,
            unknown: false,
            stage: Stage::ToPublish,
            heard,
        });
    }

    /// One of the publishes goes on.
    fn go_on_publishing(&mut self, at: &Post) {
        if self.tries.is_empty() {
            return;
        }
        let now = self.elapsed(at);
        let which = at.world.borrow_mut().dice.below(self.tries.len());
        let one = &mut self.tries[which];
        let kind = kind_of(&one.effect);
        let world = &mut *at.world.borrow_mut();
        let heard = world.heard(at.id, kind);
        // What was under way when the connection broke, or its server was silent, ends unknown.
        if std::mem::replace(&mut one.heard, heard) != heard && one.stage != Stage::ToReadBack {
            one.stage = Stage::Answered(Answer::Unknown);
        }
        match one.stage {
            Stage::ToPublish => one.stage = Stage::Answered(world.publish(kind, &one.subject, one.payload.clone())),
            Stage::ToReadBack => match world.read_back(kind, &one.subject, &one.payload) {
                ReadBack::Same(sequence) => self.found(which, sequence, true, now),
                ReadBack::Another if kind == Kind::Rejects => self.found(which, 0, true, now),
                ReadBack::Another => world.breaks("no output contradicts another", format!("tale {}", one.subject)),
                ReadBack::Nothing => one.stage = Stage::ToPublish,
            },
            Stage::Answered(answer) if !one.persists => {
                let Try { number, effect: Effect::Output(end), .. } = self.tries.swap_remove(which) else {
                    unreachable!("only outputs are sent once")
                };
                self.line.acknowledged(number, end, answer, now);
            }
            Stage::Answered(Answer::Stored(sequence)) => self.found(which, sequence, false, now),
            Stage::Answered(Answer::SubjectTaken) => one.stage = Stage::ToReadBack,
            Stage::Answered(Answer::Unknown) => (one.unknown, one.stage) = (true, Stage::ToPublish),
        }
    }

    fn found(&mut self, which: usize, sequence: u64, already_there: bool, now: Duration) {
        let Try { number, effect, subject, unknown, .. } = self.tries.swap_remove(which);
        let outcome = match effect {
            Effect::Output(key) => {
                Outcome::Output(Ok(Confirmed { place: Place { sequence, key }, already_there, differs: false }))
            }
            Effect::Reject(_) => {
                Outcome::Reject(Confirmed { place: Place { sequence, key: subject }, already_there, differs: false })
            }
        };
        self.line.confirmed(number, outcome, unknown, now);
    }

    /// What the inspection asks for by now, or has found.
    fn inspect(&mut self, at: &Post) {
        let Some((inspection, asking, since)) = &mut self.inspecting else { return };
        let since = *since;
        loop {
            if inspection.connected(at.connects()) {
                asking.clear();
            }
            match inspection.next_step() {
                Some(Step::Ask(asked)) => asking.push(asked),
                Some(Step::Doubted(kind, sign)) => at.tell(format_args!("in doubt: {kind:?}, {sign}")),
                Some(Step::End(found)) => {
                    if let (Ok(_), Some(sealed)) = (&found, self.sealed.front()) {
                        at.world.borrow_mut().is_out(since, &sealed.ends, &sealed.rejects);
                    }
                    self.inspecting = None;
                    return self.line.inspected(found);
                }
                None => return,
            }
        }
    }

    fn reply(&mut self, at: &Post) {
        self.inspect(at);
        let Some((inspection, asking, _)) = &mut self.inspecting else { return };
        if asking.is_empty() {
            return at.world.borrow_mut().breaks("an inspection waits for replies alone", String::new());
        }
        let which = at.world.borrow_mut().dice.below(asking.len());
        if !at.world.borrow_mut().is_answered() {
            return;
        }
        let asked = asking.swap_remove(which);
        let reply = at.world.borrow_mut().reply(&asked.question);
        inspection.replied(asked, reply);
        self.inspect(at);
    }

    /// What is on its way to disk arrives there.
    fn write(&mut self, at: &Post) -> Option<u64> {
        let transaction = self.writing.take()?;
        let sealed = self.sealed.pop_front().expect("it was sealed");
        at.tell(format_args!("committed {}", transaction.checkpoint.position));
        sealed.commit(at, &transaction);
        self.line.written(Ok(()));
        Some(transaction.number)
    }
}

fn kind_of(effect: &Effect<End>) -> Kind {
    match effect {
        Effect::Output(_) => Kind::Outputs,
        Effect::Reject(_) => Kind::Rejects,
    }
}

impl World {
    /// What is heard of a stream of effects: a change says that what was under way is lost.
    pub fn heard(&self, id: usize, kind: Kind) -> (u64, u64) {
        (self.links[id].connects, self.silences[kind as usize])
    }

    /// What a leader says.
    fn reply(&mut self, question: &Question<End>) -> Reply {
        match question {
            Question::Look(place) => {
                let (kind, subject) = match &place.key {
                    Subject::Output(end) => (Kind::Outputs, end.tale.to_string()),
                    Subject::Reject(subject) => (Kind::Rejects, subject.clone()),
                };
                let found = self.look(kind, place.sequence, &subject);
                Reply::Look(Some((found, self.kept(kind).leader.clone())))
            }
            Question::Mark(kind, mark) => {
                let stream = self.kept(*kind);
                let (state, at_mark) = (stream.state(), stream.mark(mark.sequence));
                Reply::Mark(Some(crate::identity::MarkReading { state, at_mark }))
            }
            Question::Output(end) => {
                let payload = end.digest.to_le_bytes();
                Reply::ReadBack(self.read_back(Kind::Outputs, &end.tale.to_string(), &payload))
            }
            Question::Reject(subject) => {
                let found = self.rejects.find(subject).map(|(sequence, _)| sequence);
                let is_missed = self.goes_wrong(Fault::Missed, 100);
                Reply::ReadBack(found.filter(|_| !is_missed).map_or(ReadBack::Nothing, ReadBack::Same))
            }
            Question::LogState => {
                let log = self.known_log();
                Reply::LogState(Some((log.state(), log.leader.clone())))
            }
            Question::LogMessage(next) => {
                let log = self.known_log();
                let at_position = log.mark(next.position);
                Reply::LogMessage(Some(crate::identity::LogReading { state: log.state(), at_position, next: None }))
            }
        }
    }

    /// Tells everybody else what an owner has confirmed.
    fn say_confirmed(&mut self, from: usize, checkpoint: Checkpoint) {
        for to in (0..self.links.len()).filter(|to| *to != from) {
            if !self.goes_wrong(Fault::WordsLost, 100) {
                self.links[to].told.push_back(checkpoint);
            }
        }
    }

    pub fn has_lost_log(&self) -> bool {
        let lost = [
            Fault::LogLoses,
            Fault::LogAnew,
            Fault::LogBroughtBack,
            Fault::Hole,
            Fault::DiskForgets,
            Fault::ComesAgain,
        ];
        lost.iter().any(|fault| self.happened.contains_key(fault)) || self.tales.expiry < FOREVER
    }
}

/// No row expires within a schedule.
pub const FOREVER: i64 = i64::MAX / 4;
