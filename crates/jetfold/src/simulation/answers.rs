//! What the broker does about a publish, and answers about what it has: late, once more, or not as it is.

use super::broker::Stream;
use super::tales::{End, truth};
use super::world::{Fault, World};
use crate::checkpoint::{Checkpoint, Mark};
use crate::commit::effect::{Answer, Found, Kind, ReadBack, Subject};
use crate::commit::inspection::{Question, Reply};
use crate::identity::{LogReading, MarkReading};
use bytes::Bytes;
use std::collections::BTreeMap;

impl World {
    /// One message a subject: stores it, or not, and says what is answered.
    pub fn publish(&mut self, kind: Kind, subject: &str, payload: Bytes) -> Answer {
        if self.goes_wrong(Fault::NeverCommits, 30) {
            return Answer::SubjectTaken;
        }
        let (is_lost, is_stored) = (self.goes_wrong(Fault::AckLost, 60), !self.calm && self.dice.below(2) == 0);
        if is_lost && !is_stored {
            return Answer::Unknown;
        }
        let answer = match self.kept(kind).find(subject) {
            Some(_) => Answer::SubjectTaken,
            None => {
                let at = self.stamp();
                // A reject's subject begins with the name that whoever published it has for the log.
                let known = subject.rsplit_once('.').map(|(_, position)| format!("reject {position}"));
                self.ever_out.insert(known.unwrap_or_else(|| subject.to_owned()));
                Answer::Stored(self.kept(kind).store(at, subject.to_owned(), payload.clone()))
            }
        };
        if let (Kind::Outputs, Answer::Stored(sequence)) = (kind, answer) {
            self.finals += 1;
            let tale: u64 = subject.parse().expect("a tale");
            if payload != truth(tale).to_le_bytes().as_slice() {
                self.breaks("one final a tale, and the right one", format!("{sequence}: tale {tale}"));
            }
        }
        if is_lost { Answer::Unknown } else { answer }
    }

    pub fn read_back(&mut self, kind: Kind, subject: &str, payload: &[u8]) -> ReadBack {
        if self.goes_wrong(Fault::Missed, 100) {
            return ReadBack::Nothing;
        }
        match self.kept(kind).find(subject) {
            Some((sequence, message)) if message.payload == payload => ReadBack::Same(sequence),
            Some(_) => ReadBack::Another,
            None => ReadBack::Nothing,
        }
    }

    /// Whether the leader has a message where it was confirmed.
    pub fn look(&mut self, kind: Kind, sequence: u64, subject: &str) -> Found {
        let is_missed = self.goes_wrong(Fault::Missed, 50);
        let stream = self.kept(kind);
        match stream.messages.get(&sequence) {
            Some(message) if message.subject == subject && !is_missed => {
                Found::There(Mark { created: stream.created, sequence, time: message.time })
            }
            None if stream.first > sequence => Found::Expired,
            _ => Found::Forgotten,
        }
    }

    /// Whoever commits: all that was put out has been out, whatever has become of it since.
    pub fn were_out(&mut self, subjects: &[String]) {
        if let Some(subject) = subjects.iter().find(|subject| !self.ever_out.contains(*subject)) {
            let subject = subject.clone();
            self.breaks("a commit is never ahead of its effects", format!("{subject} was never out"));
        }
    }

    /// Everything a transaction has put out must be there, but for what was lost since `since`.
    pub fn is_out(&mut self, since: u64, ends: &[End], rejects: &[String]) {
        let is_gone = |stream: &Stream, lost_at: &BTreeMap<String, u64>, subject: &str| {
            stream.find(subject).is_none() && lost_at.get(subject).is_none_or(|at| *at < since)
        };
        let end = ends.iter().map(|end| end.tale.to_string()).find(|end| is_gone(&self.outputs, &self.lost_at, end));
        let reject = rejects.iter().find(|subject| is_gone(&self.rejects, &self.lost_at, subject)).cloned();
        if let Some(subject) = end.or(reject) {
            self.breaks("a commit is never ahead of its effects", format!("{subject} is not out"));
        }
    }

    /// What is heard of a stream of effects: a change says that what was under way is lost.
    pub fn heard(&self, id: usize, kind: Kind) -> (u64, u64) {
        (self.links[id].connects, self.silences[kind as usize])
    }

    /// What a leader says.
    pub fn reply(&mut self, question: &Question<End>) -> Reply {
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
                Reply::Mark(Some(MarkReading { state, at_mark }))
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
                Reply::LogMessage(Some(LogReading { state: log.state(), at_position, next: None }))
            }
        }
    }

    /// Tells everybody else what an owner has confirmed.
    pub fn say_confirmed(&mut self, from: usize, checkpoint: Checkpoint) {
        for to in (0..self.links.len()).filter(|to| *to != from) {
            if !self.goes_wrong(Fault::WordsLost, 100) {
                self.links[to].told.push_back(checkpoint);
            }
        }
    }
}
