//! What is under way for a session: effects that are published, an inspection that asks, a transaction on its way to disk.

use super::session::{Sealed, Session, reject_subject};
use super::tales::{End, Tales};
use super::worker::{Duty, Post};
use crate::commit::doubt::Place;
use crate::commit::effect::{Answer, Confirmed, Effect, Kind, Outcome, ReadBack};
use crate::commit::inspection::{Asked, Inspection, Step};
use crate::commit::line::{Action, Failed, Line};
use crate::transaction::Transaction;
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::Duration;

/// One try to get an effect out, and how far it is.
pub struct Try {
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

/// An inspection, what it has asked, and the step at which it began.
pub type Inspecting = (Box<Inspection<Tales>>, Vec<Asked<End>>, u64);

/// A session at work: the line, and all that is under way for it.
pub struct Work {
    pub line: Line<Tales, ()>,
    pub tries: Vec<Try>,
    pub inspecting: Option<Inspecting>,
    pub writing: Option<Box<Transaction<Tales>>>,
    pub sealed: VecDeque<Sealed>,
    pub end: Option<Result<(), Failed<End, ()>>>,
    pub began: u64,
}

impl Work {
    pub fn seal(&mut self, sealed: Sealed, at: &Post) {
        at.tell(format_args!("sealed {} at {}", sealed.transaction.number, sealed.transaction.checkpoint.position));
        self.line.seal(Box::new(sealed.transaction.clone()), at.connects());
        self.sealed.push_back(sealed);
    }

    pub fn is_idle(&self) -> bool {
        self.tries.is_empty() && self.sealed.is_empty()
    }

    fn elapsed(&self, at: &Post) -> Duration {
        Duration::from_millis(at.now() - self.began)
    }

    /// Does what the line says.
    pub fn act(&mut self, at: &Post, session: &Session) {
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
    pub fn go_on_publishing(&mut self, at: &Post) {
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

    pub fn reply(&mut self, at: &Post) {
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
    pub fn write(&mut self, at: &Post) -> Option<u64> {
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
