//! `Inspection`: the last look at a transaction before it is committed. The effects that were confirmed must still be there,
//! and the log must still reach the position.
//!
//! | asked | if |
//! | --- | --- |
//! | the furthest effect in each stream | anything was confirmed there |
//! | the furthest before each silence | no [sign](Sign) says that the stream may have forgotten |
//! | every effect, then the furthest again, until the leader stays the same | a sign does |
//! | the furthest effect of the transactions before | it is about to be replaced by a further one |
//! | the log's state | always |
//! | the log's message at the position | the state leaves it open, or the log has another leader than before |
//!
//! What is missed is asked for once more, and only what is missed twice is gone. A connection that was made anew is a sign as
//! well: the look begins anew.
//!
//! All of it is pure. Whoever [drives](crate::partition::check) it asks the leaders what [`Inspection::next_step`] hands
//! out, each question until it is answered, and tells it the replies in whatever order they come.

mod question;
mod reading_back;
mod unsound;

pub use question::{Asked, Question, Reply};
pub use unsound::Unsound;

use crate::application::Application;
use crate::checkpoint::{Checkpoint, Mark, Position};
use crate::commit::doubt::{Leader, Leaders, Place, Sign, Trail};
use crate::commit::effect::{Found, Kind, Looked, Subject};
use crate::identity::{LogReading, LogState, MarkReading, judge, judge_before_commit, judge_mark};
use crate::transaction::Transaction;
use reading_back::ReadingBack;
use std::collections::VecDeque;

/// How often all effects are read back because the leader changed meanwhile, before they are folded again.
const MOST_ROUNDS: usize = 3;

/// What is known of the effects of a transaction.
#[derive(Clone, Debug)]
pub struct Evidence<O> {
    pub outputs: Trail<Subject<O>>,
    pub rejects: Trail<Subject<O>>,
    /// Everything that it has put out, without what contradicts others and was let pass.
    pub confirmed_outputs: Vec<O>,
    /// Where each of its rejects is.
    pub reject_subjects: Vec<String>,
    /// How often the connection had been made when the transaction was opened.
    pub connects: u64,
}

/// A transaction that may be committed: its checkpoint has the marks of what was found.
#[derive(Debug)]
pub struct Sound<A: Application> {
    pub transaction: Box<Transaction<A>>,
    pub leaders: Leaders,
}

/// What is to be done next.
#[derive(Debug)]
pub enum Step<A: Application> {
    Ask(Asked<A::Output>),
    /// To be said: all effects in one stream are read back, because of this.
    Doubted(Kind, Sign),
    /// Nothing comes after it.
    End(Result<Sound<A>, Unsound<A::Output>>),
}

#[derive(Debug)]
pub struct Inspection<A: Application> {
    /// `None` once it is handed over.
    transaction: Option<Box<Transaction<A>>>,
    evidence: Evidence<A::Output>,
    /// The checkpoint that is committed already.
    before: Checkpoint,
    /// Who led the streams before.
    known: Leaders,
    /// Looks that have begun.
    look: u64,
    stage: Stage<A::Output>,
    steps: VecDeque<Step<A>>,
    /// The stream of effects that is looked at.
    stream: Stream<A::Output>,
    /// The marks and leaders that this look has found.
    outputs: Option<Mark>,
    rejects: Option<Mark>,
    leaders: Leaders,
}

/// What is found of one stream of effects.
#[derive(Debug)]
struct Stream<O> {
    kind: Kind,
    /// The effect that is furthest on in it, and its mark, unless it has aged out.
    furthest: Option<Place<Subject<O>>>,
    mark: Option<Mark>,
    leader: Option<Leader>,
    /// How often all effects in it were read back.
    rounds: usize,
}

impl<O> Stream<O> {
    fn new(kind: Kind, furthest: Option<Place<Subject<O>>>) -> Self {
        Self { kind, furthest, mark: None, leader: None, rounds: 0 }
    }
}

/// What is waited for.
#[derive(Debug)]
enum Stage<O> {
    Furthest,
    /// This many witnesses were there.
    Witness(usize),
    ReadingBack(ReadingBack<O>),
    /// Everything was read back: the furthest once more.
    SameLeader(Sign),
    Recorded,
    LogState,
    LogMessage,
    Sound,
    Unsound(Unsound<O>),
    Over,
}

/// The stage that follows, or `None` to stay.
type Next<O> = Result<Option<Stage<O>>, Unsound<O>>;

impl<A: Application> Inspection<A> {
    pub fn new(
        transaction: Box<Transaction<A>>,
        evidence: Evidence<A::Output>,
        before: Checkpoint,
        known: Leaders,
    ) -> Self {
        let mut inspection = Self {
            transaction: Some(transaction),
            evidence,
            before,
            known,
            look: 0,
            stage: Stage::Over,
            steps: VecDeque::new(),
            stream: Stream::new(Kind::Outputs, None),
            outputs: None,
            rejects: None,
            leaders: Leaders::default(),
        };
        inspection.begin();
        inspection
    }

    /// The position that is to be committed.
    pub fn position(&self) -> Position {
        self.transaction().checkpoint.position
    }

    /// What it has put out.
    #[cfg(test)]
    pub fn outputs(&self) -> &[A::Output] {
        &self.evidence.confirmed_outputs
    }

    /// How often the connection has been made by now: to be told before each step is taken. Says whether the look has begun
    /// anew: then what was asked before need not be answered.
    pub fn connected(&mut self, connects: u64) -> bool {
        if connects == self.evidence.connects || self.has_ended() || crate::planted!("a-new-connection-is-no-sign") {
            return false;
        }
        self.evidence.connects = connects;
        self.evidence.outputs.doubt(Sign::Reconnected);
        self.evidence.rejects.doubt(Sign::Reconnected);
        self.begin();
        true
    }

    /// What is to be done next; `None`: to wait for replies.
    pub fn next_step(&mut self) -> Option<Step<A>> {
        if let (true, Stage::ReadingBack(_)) = (self.steps.is_empty(), &self.stage) {
            self.read_on();
        }
        if let Some(step) = self.steps.pop_front() {
            return Some(step);
        }
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Sound => Some(Step::End(Ok(self.sound()))),
            Stage::Unsound(unsound) => Some(Step::End(Err(unsound))),
            waiting => {
                self.stage = waiting;
                None
            }
        }
    }

    /// Takes the reply to a question. What an earlier look has asked says nothing any more.
    pub fn replied(&mut self, asked: Asked<A::Output>, reply: Reply) {
        let Asked { question, again, look } = asked;
        if look != self.look || self.has_ended() {
            return;
        }
        let next = match (question, reply) {
            (Question::Look(place), Reply::Look(looked)) => self.looked(place, again, looked),
            (question @ (Question::Output(_) | Question::Reject(_)), Reply::ReadBack(read_back)) => {
                let Stage::ReadingBack(reading) = &mut self.stage else { unreachable!("each is answered once") };
                let missed = reading.replied(question, again, read_back);
                missed.map(|missed| {
                    if let Some(question) = missed {
                        self.ask(question, true);
                    }
                    None
                })
            }
            (Question::Mark(kind, before), Reply::Mark(reading)) => self.recorded(kind, &before, reading),
            (Question::LogState, Reply::LogState(state)) => self.log_state(state),
            (Question::LogMessage(next), Reply::LogMessage(reading)) => log_message(&next, reading),
            (question, reply) => unreachable!("{reply:?} is no reply to {question:?}"),
        };
        self.follow(next);
    }

    fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Unsound(_) | Stage::Over)
    }

    fn follow(&mut self, next: Next<A::Output>) {
        match next {
            Ok(Some(stage)) => self.stage = stage,
            Ok(None) => {}
            Err(unsound) => {
                // Nothing is asked any more.
                self.steps.retain(|step| !matches!(step, Step::Ask(_)));
                self.stage = Stage::Unsound(unsound);
            }
        }
    }

    fn transaction(&self) -> &Transaction<A> {
        self.transaction.as_ref().expect("it is not handed over before the end")
    }

    fn ask(&mut self, question: Question<A::Output>, again: bool) {
        self.steps.push_back(Step::Ask(Asked { question, again, look: self.look }));
    }

    fn begin(&mut self) {
        self.look += 1;
        self.steps.clear();
        self.leaders = Leaders::default();
        self.stage = self.see(Kind::Outputs);
    }

    /// Begins with one stream of effects.
    fn see(&mut self, kind: Kind) -> Stage<A::Output> {
        let (trail, known) = match kind {
            Kind::Outputs => (&self.evidence.outputs, &self.known.outputs),
            Kind::Rejects => (&self.evidence.rejects, &self.known.rejects),
        };
        self.stream = Stream::new(kind, trail.furthest().cloned());
        match self.stream.furthest.clone() {
            Some(furthest) => {
                self.ask(Question::Look(furthest), false);
                Stage::Furthest
            }
            None => {
                self.stream.leader = known.clone();
                self.leave(self.before())
            }
        }
    }

    fn trail(&self) -> &Trail<Subject<A::Output>> {
        match self.stream.kind {
            Kind::Outputs => &self.evidence.outputs,
            Kind::Rejects => &self.evidence.rejects,
        }
    }

    /// The mark of the furthest effect of the transactions before.
    fn before(&self) -> Option<Mark> {
        match self.stream.kind {
            Kind::Outputs => self.before.outputs,
            Kind::Rejects => self.before.rejects,
        }
    }

    /// The stream is seen to, and this is its mark from now on.
    fn leave(&mut self, mark: Option<Mark>) -> Stage<A::Output> {
        let leader = self.stream.leader.take();
        match self.stream.kind {
            Kind::Outputs => {
                (self.outputs, self.leaders.outputs) = (mark, leader);
                self.see(Kind::Rejects)
            }
            Kind::Rejects => {
                (self.rejects, self.leaders.rejects) = (mark, leader);
                self.ask(Question::LogState, false);
                Stage::LogState
            }
        }
    }

    /// Whether a message is where it was confirmed.
    fn looked(&mut self, place: Place<Subject<A::Output>>, again: bool, looked: Looked) -> Next<A::Output> {
        let (found, leader) = looked.ok_or(Unsound::NoStream(self.stream.kind))?;
        let mark = match found {
            Found::There(mark) => Some(mark),
            Found::Expired => None,
            Found::Forgotten if again => {
                return Err(Unsound::Forgotten { sequence: Some(place.sequence), subject: place.key });
            }
            Found::Forgotten => {
                self.ask(Question::Look(place), true);
                return Ok(None);
            }
        };
        match self.stage {
            Stage::Furthest => {
                let sign = self.trail().sign(&leader);
                (self.stream.mark, self.stream.leader) = (mark, Some(leader));
                match sign.filter(|_| !crate::planted!("only-the-furthest-is-read-back")) {
                    None => Ok(Some(self.witness(0))),
                    Some(sign) => self.read_all(sign),
                }
            }
            Stage::Witness(seen) => Ok(Some(self.witness(seen + 1))),
            Stage::SameLeader(sign) => {
                let before = self.stream.leader.replace(leader);
                self.stream.mark = mark;
                match self.stream.leader == before || crate::planted!("who-leads-is-not-asked-again") {
                    true => Ok(Some(self.see_recorded())),
                    false => self.read_all(sign),
                }
            }
            ref stage => unreachable!("nothing is looked at in {stage:?}"),
        }
    }

    /// Looks at the next of the messages that were the furthest before a silence.
    fn witness(&mut self, seen: usize) -> Stage<A::Output> {
        match self.trail().witnesses().get(seen).cloned().filter(|_| !crate::planted!("witnesses-are-not-heard")) {
            Some(witness) => {
                self.ask(Question::Look(witness), false);
                Stage::Witness(seen)
            }
            None => self.see_recorded(),
        }
    }

    /// Begins to read back every effect in the stream.
    fn read_all(&mut self, sign: Sign) -> Next<A::Output> {
        if self.stream.rounds == MOST_ROUNDS {
            return Err(Unsound::Elections);
        }
        self.stream.rounds += 1;
        self.steps.push_back(Step::Doubted(self.stream.kind, sign));
        Ok(Some(Stage::ReadingBack(ReadingBack::new(self.stream.kind, sign))))
    }

    /// Reads back the next effect. When there is none left: looks at the furthest once more.
    fn read_on(&mut self) {
        let Stage::ReadingBack(reading) = &mut self.stage else { unreachable!("it is asked first") };
        if let Some(question) = reading.next(&self.evidence) {
            return self.ask(question, false);
        }
        if !reading.is_answered() {
            return;
        }
        let (sign, furthest) = (reading.sign, reading.read());
        self.stream.furthest = furthest.or_else(|| self.stream.furthest.take());
        let furthest = self.stream.furthest.clone().expect("something was confirmed");
        self.ask(Question::Look(furthest), false);
        self.stage = Stage::SameLeader(sign);
    }

    /// Looks at the furthest effect of the transactions before, if it is to be replaced by a further one.
    fn see_recorded(&mut self) -> Stage<A::Output> {
        match (self.before(), self.stream.mark) {
            (Some(before), Some(_)) if !crate::planted!("the-mark-before-is-not-looked-at") => {
                self.ask(Question::Mark(self.stream.kind, before), false);
                Stage::Recorded
            }
            (before, mark) => self.leave(Mark::further(before, mark)),
        }
    }

    fn recorded(&mut self, kind: Kind, before: &Mark, reading: Option<MarkReading>) -> Next<A::Output> {
        let reading = reading.ok_or(Unsound::NoStream(kind))?;
        judge_mark(before, &reading).map_err(|forgot| Unsound::Judged(kind.forgot(forgot)))?;
        Ok(Some(self.leave(Mark::further(Some(*before), self.stream.mark))))
    }

    /// Whether the log still reaches the position, and who leads it.
    fn log_state(&mut self, state: Option<(LogState, Leader)>) -> Next<A::Output> {
        let (state, leader) = state.ok_or(Unsound::NoLog)?;
        let next = self.transaction().checkpoint;
        let is_told = match crate::planted!("the-log-is-not-looked-at-before-a-commit") {
            true => true,
            false => judge_before_commit(&next, &state).map_err(Unsound::Judged)?,
        };
        let is_led_as_before = self.known.log.as_ref() == Some(&leader);
        self.leaders.log = Some(leader);
        if is_told && is_led_as_before || crate::planted!("the-log-s-last-message-is-not-looked-at") {
            return Ok(Some(Stage::Sound));
        }
        self.ask(Question::LogMessage(next), false);
        Ok(Some(Stage::LogMessage))
    }

    fn sound(&mut self) -> Sound<A> {
        let mut transaction = self.transaction.take().expect("it is handed over once");
        if !crate::planted!("marks-are-not-kept") {
            (transaction.checkpoint.outputs, transaction.checkpoint.rejects) = (self.outputs, self.rejects);
        }
        Sound { transaction, leaders: std::mem::take(&mut self.leaders) }
    }
}

fn log_message<O>(next: &Checkpoint, reading: Option<LogReading>) -> Next<O> {
    judge(next, &reading.ok_or(Unsound::NoLog)?).map_err(Unsound::Judged)?;
    Ok(Some(Stage::Sound))
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub mod world;
