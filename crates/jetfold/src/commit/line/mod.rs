//! `Line`: the transactions of one session that are on their way to the store, one behind the other.
//!
//! | a transaction is | until |
//! | --- | --- |
//! | open | it is sealed. The last of the line always is |
//! | being confirmed | each of its effects was acknowledged, or found by its subject |
//! | being inspected | its [inspection](crate::commit::inspection) has found it sound, or the session ends in doubt |
//! | being written | the store has it |
//!
//! Only the first of the line is inspected and written. Meanwhile the effects of the next are published already, never more than
//! a window of them at once.
//!
//! All of it is pure: time is handed in. Whoever [drives](crate::partition::committer) it does what [`Line::next_action`] hands
//! out, until there is nothing, and then tells it what has happened.

mod pending;

use crate::application::Application;
use crate::checkpoint::{Checkpoint, Mark};
use crate::commit::doubt::{Leaders, Order, Place, Sign};
use crate::commit::effect::{Answer, Conflict, Effect, Kind, Outcome};
use crate::commit::inspection::{Inspection, Sound, Unsound};
use crate::refused::RejectedBatch;
use crate::transaction::Transaction;
use pending::Pending;
use std::collections::VecDeque;
use std::time::Duration;

/// Publishes of one partition that wait for their confirmation at once. More would only queue in the socket, and a
/// server refuses them beyond ten thousand of one stream.
pub const WINDOW: usize = 512;

/// What is to be done next. Numbers are those of transactions, to be handed back with what has become of an effect.
#[derive(Debug)]
pub enum Action<A: Application, E> {
    /// To publish an output and have its acknowledgement gathered: [`Line::acknowledged`].
    Send(u64, A::Output),
    /// To publish an effect until it is confirmed: [`Line::confirmed`].
    Publish(u64, Effect<A::Output>),
    /// To count and tell an output that contradicts another, and was let pass.
    LetPass(Box<Conflict>),
    /// To look at a transaction whose effects are confirmed: [`Line::inspected`].
    Inspect(Box<Inspection<A>>),
    /// To commit a transaction: [`Line::written`].
    Write(Box<Transaction<A>>),
    /// The session is over, and nothing comes after this.
    End(Result<(), Failed<A::Output, E>>),
}

/// Why committing ended before its time. `E` is how a write fails.
#[derive(Debug, PartialEq)]
pub enum Failed<O, E> {
    Conflict(Box<Conflict>),
    Unsound(Unsound<O>),
    Unwritten(E),
}

/// What becomes of the first transaction of the line.
#[derive(Debug)]
enum Stage<A: Application> {
    Confirming,
    Inspecting,
    Sound(Box<Transaction<A>>),
    /// What the store knows once it is written.
    Writing(Checkpoint),
}

/// Whether the session goes on.
#[derive(Debug)]
enum Course<O, E> {
    GoesOn,
    /// No more effects come.
    HungUp,
    /// As soon as nothing is being written.
    Ends(Result<(), Failed<O, E>>),
    Ended,
}

#[derive(Debug)]
pub struct Line<A: Application, E> {
    /// The sealed ones, and the open one last.
    pending: VecDeque<Pending<A>>,
    /// The number of the first of them.
    first: u64,
    stage: Stage<A>,
    /// What the store knows.
    committed: Checkpoint,
    /// Effects that wait for a place in the window, each with the number of its transaction.
    queue: VecDeque<(u64, Effect<A::Output>)>,
    /// How many are in the window: published, and not confirmed.
    in_flight: usize,
    /// To be handed out before anything else.
    actions: VecDeque<Action<A, E>>,
    /// What the two streams have acknowledged.
    outputs: Order,
    rejects: Order,
    /// Who led the streams when they were asked last.
    leaders: Leaders,
    /// Whether a conflicting output ends the session.
    halt: bool,
    course: Course<A::Output, E>,
}

impl<A: Application, E> Line<A, E> {
    /// Behind transaction `last`, which the store has, with its checkpoint. The leaders are those of now; `connects` is how
    /// often the connection has been made.
    pub fn new(last: u64, committed: Checkpoint, leaders: Leaders, connects: u64, halt: bool) -> Self {
        let order = |mark: Option<Mark>| Order::after(mark.map_or(0, |mark| mark.sequence));
        Self {
            pending: VecDeque::from([Pending::opened(&leaders, connects)]),
            first: last + 1,
            stage: Stage::Confirming,
            committed,
            queue: VecDeque::new(),
            in_flight: 0,
            actions: VecDeque::new(),
            outputs: order(committed.outputs),
            rejects: order(committed.rejects),
            leaders,
            halt,
            course: Course::GoesOn,
        }
    }

    /// What is to be done next; `None`: to wait until something happens.
    pub fn next_action(&mut self) -> Option<Action<A, E>> {
        if self.is_ending() {
            return self.end();
        }
        if let Some(action) = self.actions.pop_front().or_else(|| self.advance()) {
            return Some(action);
        }
        if (self.in_flight < WINDOW || crate::planted!("the-window-has-no-end"))
            && let Some((number, effect)) = self.queue.pop_front()
        {
            self.in_flight += 1;
            return Some(match effect {
                Effect::Output(output) => Action::Send(number, output),
                reject @ Effect::Reject(_) => Action::Publish(number, reject),
            });
        }
        let is_published = self.in_flight == 0 && self.queue.is_empty();
        if let (Course::HungUp, Stage::Confirming, true) = (&self.course, &self.stage, is_published) {
            self.course = Course::Ends(Ok(()));
            return self.end();
        }
        None
    }

    /// Moves the first transaction on, if it is time.
    fn advance(&mut self) -> Option<Action<A, E>> {
        match &self.stage {
            Stage::Confirming => {
                let front = self.pending.front_mut().expect("an open transaction");
                let transaction = front.take_confirmed()?;
                self.stage = Stage::Inspecting;
                let (evidence, known) = (front.evidence(), self.leaders.clone());
                Some(Action::Inspect(Box::new(Inspection::new(transaction, evidence, self.committed, known))))
            }
            Stage::Sound(transaction) => {
                let writing = Stage::Writing(transaction.checkpoint);
                let Stage::Sound(transaction) = std::mem::replace(&mut self.stage, writing) else {
                    unreachable!("it was just seen")
                };
                Some(Action::Write(transaction))
            }
            Stage::Inspecting | Stage::Writing(_) => None,
        }
    }

    /// Whether more effects may be handed over: those that were are published, or in the window.
    pub fn has_room(&self) -> bool {
        self.queue.is_empty() && matches!(self.course, Course::GoesOn)
    }

    /// Whether the end is decided. It comes when nothing is being written.
    pub fn is_ending(&self) -> bool {
        matches!(self.course, Course::Ends(_) | Course::Ended)
    }

    /// One batch of the open transaction has these effects.
    pub fn effects(&mut self, outputs: Vec<A::Output>, rejected: Option<RejectedBatch>) {
        let number = self.first + self.pending.len() as u64 - 1;
        self.open().add(outputs.len() + usize::from(rejected.is_some()));
        self.queue.extend(outputs.into_iter().map(|output| (number, Effect::Output(output))));
        self.queue.extend(rejected.map(|batch| (number, Effect::Reject(batch))));
    }

    /// The open transaction ends here, and the next is opened.
    pub fn seal(&mut self, transaction: Box<Transaction<A>>, connects: u64) {
        self.open().seal(transaction);
        self.pending.push_back(Pending::opened(&self.leaders, connects));
    }

    /// An output that was sent is answered, or will not be.
    pub fn acknowledged(&mut self, number: u64, output: A::Output, answer: Answer, now: Duration) {
        match answer {
            Answer::Stored(sequence) => {
                self.stored(Kind::Outputs, sequence);
                self.of(number).confirm_output(Place { sequence, key: output }, false, now);
                self.in_flight -= 1;
            }
            // What is there is read back.
            Answer::SubjectTaken if crate::planted!("a-taken-subject-is-believed") => {
                self.of(number).confirm_output(Place { sequence: 0, key: output }, true, now);
                self.in_flight -= 1;
            }
            Answer::SubjectTaken => self.actions.push_back(Action::Publish(number, Effect::Output(output))),
            Answer::Unknown => {
                if !crate::planted!("an-unknown-answer-is-no-sign") {
                    self.doubt(Kind::Outputs, Sign::Unknown);
                }
                self.actions.push_back(Action::Publish(number, Effect::Output(output)));
            }
        }
    }

    /// An effect was published until the leader showed a message at its subject. `unknown`: a try of it ended unknown.
    pub fn confirmed(&mut self, number: u64, outcome: Outcome<A::Output>, unknown: bool, now: Duration) {
        let kind = outcome.kind();
        if unknown && !crate::planted!("an-unknown-try-is-no-sign") {
            self.doubt(kind, Sign::Unknown);
        }
        self.in_flight -= 1;
        match outcome {
            Outcome::Output(Ok(confirmed)) => {
                if !confirmed.already_there {
                    self.stored(kind, confirmed.place.sequence);
                }
                self.of(number).confirm_output(confirmed.place, confirmed.already_there, now);
            }
            Outcome::Reject(confirmed) => {
                if !confirmed.already_there {
                    self.stored(kind, confirmed.place.sequence);
                }
                self.of(number).confirm_reject(confirmed.place, confirmed.already_there, now);
            }
            Outcome::Output(Err(conflict)) if self.halt && !crate::planted!("a-conflict-never-halts") => {
                self.end_with(Err(Failed::Conflict(conflict)))
            }
            Outcome::Output(Err(conflict)) => {
                self.of(number).let_pass();
                self.actions.push_back(Action::LetPass(conflict));
            }
        }
    }

    /// The inspection of the first transaction has ended.
    pub fn inspected(&mut self, found: Result<Sound<A>, Unsound<A::Output>>) {
        assert!(matches!(self.stage, Stage::Inspecting), "an inspection ends once");
        match found {
            Ok(Sound { transaction, leaders }) => {
                self.leaders = leaders;
                self.stage = Stage::Sound(transaction);
            }
            Err(unsound) => self.end_with(Err(Failed::Unsound(unsound))),
        }
    }

    /// The first transaction is in the store, or could not be written. Says how many of its effects were there already.
    pub fn written(&mut self, result: Result<(), E>) -> u64 {
        let Stage::Writing(checkpoint) = self.stage else { panic!("nothing is written without being asked for") };
        self.stage = Stage::Confirming;
        match result {
            Ok(()) => {
                self.committed = checkpoint;
                self.first += 1;
                self.pending.pop_front().expect("the transaction that was written").already_there()
            }
            Err(_) if crate::planted!("a-write-that-failed-is-a-commit") => {
                self.committed = checkpoint;
                self.first += 1;
                self.pending.pop_front().expect("the transaction that was written").already_there()
            }
            Err(error) => {
                // A conflict is the graver news, whatever the disk says.
                if !matches!(self.course, Course::Ends(Err(_))) {
                    self.course = Course::Ends(Err(Failed::Unwritten(error)));
                }
                0
            }
        }
    }

    /// No more effects come: the session ends when everything that is sealed is in the store.
    pub fn hang_up(&mut self) {
        if let Course::GoesOn = self.course {
            self.course = Course::HungUp;
        }
    }

    /// The session ends now: what is not being written is dropped.
    pub fn cancel(&mut self) {
        self.end_with(Ok(()));
    }

    /// The first reason counts.
    fn end_with(&mut self, result: Result<(), Failed<A::Output, E>>) {
        if !self.is_ending() {
            self.course = Course::Ends(result);
        }
    }

    /// A write that is on its way to disk is waited for.
    fn end(&mut self) -> Option<Action<A, E>> {
        if let Stage::Writing(_) = self.stage {
            return None;
        }
        match std::mem::replace(&mut self.course, Course::Ended) {
            Course::Ends(result) => Some(Action::End(result)),
            _ => None,
        }
    }

    fn of(&mut self, number: u64) -> &mut Pending<A> {
        let place = usize::try_from(number - self.first).expect("it is not written before its effects are confirmed");
        &mut self.pending[place]
    }

    fn open(&mut self) -> &mut Pending<A> {
        self.pending.back_mut().expect("an open transaction")
    }

    /// A stream may have forgotten what it has confirmed. A transaction that is being inspected has handed over what was
    /// known of it: what was lost before, its inspection finds by its own questions.
    fn doubt(&mut self, kind: Kind, sign: Sign) {
        self.pending.iter_mut().for_each(|pending| pending.doubt(kind, sign));
    }

    /// A message was stored: what that says of all that was stored before.
    fn stored(&mut self, kind: Kind, sequence: u64) {
        let order = match kind {
            Kind::Outputs => &mut self.outputs,
            Kind::Rejects => &mut self.rejects,
        };
        if let Some(sign) = order.stored(sequence) {
            self.doubt(kind, sign);
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod schedules;
