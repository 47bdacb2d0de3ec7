//! Leaders for tests: two streams of effects and a log, held in memory, which answer what an inspection asks.

use crate::checkpoint::{Checkpoint, Mark};
use crate::commit::doubt::{Leader, Leaders, Place};
use crate::commit::effect::{Found, Kind, ReadBack, Subject};
use crate::commit::inspection::{Question, Reply};
use crate::identity::{LogReading, LogState, MarkReading, MessageMark};
use crate::sample::{Letters, Said};
use crate::time::UnixNanos;
use crate::transaction::Transaction;
use std::collections::BTreeMap;

/// The log's message at a position, and a stream's at a sequence, is stamped ten times that.
fn time_of(sequence: u64) -> UnixNanos {
    UnixNanos::try_from(sequence * 10).unwrap()
}

pub fn place(sequence: u64, n: u64) -> Place<Subject<Said>> {
    Place { sequence, key: Subject::Output(Said(n)) }
}

pub fn mark(sequence: u64) -> Mark {
    Mark { created: 1, sequence, time: time_of(sequence) }
}

pub fn leader(name: &str) -> Leader {
    Leader { name: Some(name.to_owned()), since: None, created: 1 }
}

pub fn leaders(name: &str) -> Leaders {
    let leader = Some(leader(name));
    Leaders { outputs: leader.clone(), rejects: leader.clone(), log: leader }
}

pub fn checkpoint(position: u64) -> Checkpoint {
    Checkpoint { position, message_time: time_of(position), ..Checkpoint::start_of(1) }
}

/// A transaction through a position.
pub fn transaction(number: u64, position: u64) -> Box<Transaction<Letters>> {
    let (rows, collected, producers) = (Vec::new(), Vec::new(), Vec::new());
    let tally = Default::default();
    Box::new(Transaction { number, rows, collected, producers, checkpoint: checkpoint(position), tally })
}

/// A stream of effects, as its leader knows it.
#[derive(Clone, Debug)]
pub struct Kept {
    pub exists: bool,
    pub leader: Leader,
    /// Another leader is elected after each of so many looks.
    pub elections: usize,
    pub first: u64,
    pub last: u64,
    pub messages: BTreeMap<u64, Subject<Said>>,
    /// When what replaced a message was stored, if not when that was.
    replaced: BTreeMap<u64, UnixNanos>,
}

impl Kept {
    fn new() -> Self {
        let (messages, replaced) = (BTreeMap::new(), BTreeMap::new());
        Self { exists: true, leader: leader("a"), elections: 0, first: 1, last: 0, messages, replaced }
    }

    /// Stores one more message: its sequence.
    pub fn store(&mut self, subject: Subject<Said>) -> u64 {
        self.last += 1;
        self.messages.insert(self.last, subject);
        self.last
    }

    pub fn find(&self, subject: &Subject<Said>) -> Option<u64> {
        self.messages.iter().find(|(_, found)| *found == subject).map(|(sequence, _)| *sequence)
    }

    /// Everything behind a sequence is lost, and its sequences are given again.
    pub fn lose_behind(&mut self, last: u64) {
        self.last = last;
        for sequence in self.messages.split_off(&(last + 1)).into_keys() {
            *self.replaced.entry(sequence).or_insert(time_of(sequence)) += 1;
        }
    }

    fn time(&self, sequence: u64) -> UnixNanos {
        self.replaced.get(&sequence).copied().unwrap_or(time_of(sequence))
    }

    pub fn elect(&mut self) {
        self.leader.since = Some(self.leader.since.unwrap_or(0) + 1);
    }

    fn look(&mut self, place: &Place<Subject<Said>>) -> Option<(Found, Leader)> {
        let found = match self.messages.get(&place.sequence) {
            Some(subject) if *subject == place.key => {
                Found::There(Mark { time: self.time(place.sequence), ..mark(place.sequence) })
            }
            None if self.first > place.sequence => Found::Expired,
            _ => Found::Forgotten,
        };
        let leader = self.leader.clone();
        if let Some(left) = self.elections.checked_sub(1) {
            self.elections = left;
            self.elect();
        }
        self.exists.then_some((found, leader))
    }

    fn mark(&self, mark: &Mark) -> Option<MarkReading> {
        let at_mark = self.messages.get(&mark.sequence);
        let at_mark = at_mark.map(|_| MessageMark { position: mark.sequence, time: self.time(mark.sequence) });
        self.exists.then_some(MarkReading { state: log_state(self.first, self.last), at_mark })
    }
}

pub fn log_state(first: u64, last: u64) -> LogState {
    LogState { created: 1, first, first_time: time_of(first), last, last_time: time_of(last) }
}

#[derive(Clone, Debug)]
pub struct World {
    pub outputs: Kept,
    pub rejects: Kept,
    /// The log, unless it is gone.
    pub log: Option<(LogState, Leader)>,
    /// What it has at the position that is asked for.
    pub at_position: Option<MessageMark>,
    /// Outputs in whose place there is another.
    pub others: Vec<Said>,
    /// Questions whose message is missed once, though it is there.
    pub missed: Vec<Question<Said>>,
}

impl World {
    /// With a log that ends at a position.
    pub fn new(last: u64) -> Self {
        Self {
            outputs: Kept::new(),
            rejects: Kept::new(),
            log: Some((log_state(1, last), leader("a"))),
            at_position: Some(MessageMark { position: last, time: time_of(last) }),
            others: Vec::new(),
            missed: Vec::new(),
        }
    }

    pub fn kept(&mut self, kind: Kind) -> &mut Kept {
        match kind {
            Kind::Outputs => &mut self.outputs,
            Kind::Rejects => &mut self.rejects,
        }
    }

    pub fn reply(&mut self, question: &Question<Said>) -> Reply {
        let missed = self.missed.iter().position(|missed| missed == question);
        let is_missed = missed.map(|n| self.missed.remove(n)).is_some();
        let read_back = |kept: &Kept, subject: &Subject<Said>| match kept.find(subject) {
            Some(sequence) if !is_missed => ReadBack::Same(sequence),
            _ => ReadBack::Nothing,
        };
        match question {
            Question::Look(place) => {
                let looked = self.kept(place.key.kind()).look(place);
                Reply::Look(looked.map(|(found, leader)| (if is_missed { Found::Forgotten } else { found }, leader)))
            }
            Question::Mark(kind, mark) => Reply::Mark(self.kept(*kind).mark(mark)),
            Question::Output(said) if self.others.contains(said) => Reply::ReadBack(ReadBack::Another),
            Question::Output(said) => Reply::ReadBack(read_back(&self.outputs, &Subject::Output(*said))),
            Question::Reject(subject) => Reply::ReadBack(read_back(&self.rejects, &Subject::Reject(subject.clone()))),
            Question::LogState => Reply::LogState(self.log.clone()),
            Question::LogMessage(_) => {
                let log = self.log.as_ref();
                let reading =
                    log.map(|(state, _)| LogReading { state: *state, at_position: self.at_position, next: None });
                Reply::LogMessage(reading)
            }
        }
    }
}
