//! The broker: a partition log, the streams of outputs and rejects, and the bucket of snapshots, with all that JetStream does to them.
//!
//! What is stored is known to everybody at once; what is told of it is another matter, and decided by the [world](super::world).

use super::disk::Disk;
use crate::commit::doubt::Leader;
use crate::identity::{LogState, MessageMark};
use crate::time::UnixNanos;
use bytes::Bytes;
use std::collections::BTreeMap;

/// A message of any stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub time: UnixNanos,
    pub subject: String,
    pub payload: Bytes,
}

/// A stream, as its leader holds it.
#[derive(Clone, Debug)]
pub struct Stream {
    pub created: UnixNanos,
    pub first: u64,
    pub last: u64,
    pub last_time: UnixNanos,
    pub messages: BTreeMap<u64, Message>,
    subjects: BTreeMap<String, u64>,
    pub leader: Leader,
    /// How often it has lost its end, or was made anew: what pulls from it ends then.
    pub epoch: u64,
}

impl Stream {
    pub fn new(created: UnixNanos) -> Self {
        Self {
            created,
            first: 1,
            last: 0,
            last_time: 0,
            messages: BTreeMap::new(),
            subjects: BTreeMap::new(),
            leader: Leader { name: Some("a".to_owned()), since: Some(0), created },
            epoch: 0,
        }
    }

    pub fn store(&mut self, time: UnixNanos, subject: String, payload: Bytes) -> u64 {
        self.last += 1;
        self.last_time = time;
        self.subjects.insert(subject.clone(), self.last);
        self.messages.insert(self.last, Message { time, subject, payload });
        self.last
    }

    pub fn find(&self, subject: &str) -> Option<(u64, &Message)> {
        let sequence = *self.subjects.get(subject)?;
        Some((sequence, self.messages.get(&sequence)?))
    }

    pub fn state(&self) -> LogState {
        let first_time = self.messages.get(&self.first).map_or(0, |message| message.time);
        let Self { created, first, last, last_time, .. } = *self;
        LogState { created, first, first_time, last, last_time }
    }

    pub fn mark(&self, position: u64) -> Option<MessageMark> {
        self.messages.get(&position).map(|message| MessageMark { position, time: message.time })
    }

    /// The first message at or after a position.
    pub fn next(&self, from: u64) -> Option<MessageMark> {
        self.messages
            .range(from..)
            .next()
            .map(|(position, message)| MessageMark { position: *position, time: message.time })
    }

    /// Everything behind `last` is forgotten, and its sequences are given again. What was lost.
    pub fn lose_behind(&mut self, last: u64) -> Vec<Message> {
        let lost: Vec<_> = self.messages.split_off(&(last + 1)).into_values().collect();
        for message in &lost {
            self.subjects.remove(&message.subject);
        }
        self.last = last;
        self.last_time = self.messages.get(&last).map_or(0, |message| message.time);
        self.first = self.first.min(last + 1);
        self.epoch += 1;
        lost
    }

    /// Drops what lies before a sequence.
    pub fn purge_before(&mut self, first: u64) {
        if first > self.first {
            let kept = self.messages.split_off(&first);
            for message in std::mem::replace(&mut self.messages, kept).into_values() {
                if self.subjects.get(&message.subject).is_some_and(|sequence| *sequence < first) {
                    self.subjects.remove(&message.subject);
                }
            }
            self.first = self.messages.keys().next().copied().unwrap_or(self.last + 1).max(first.min(self.last + 1));
        }
    }

    pub fn delete(&mut self, sequence: u64) {
        if let Some(message) = self.messages.remove(&sequence) {
            self.subjects.remove(&message.subject);
            if sequence == self.first {
                self.first = self.messages.keys().next().copied().unwrap_or(self.last + 1);
            }
        }
    }

    pub fn elect(&mut self, at: UnixNanos) {
        let name = if self.leader.name.as_deref() == Some("a") { "b" } else { "a" };
        self.leader = Leader { name: Some(name.to_owned()), since: Some(at), created: self.created };
    }

    /// Deleted, and made anew.
    pub fn make_anew(&mut self, created: UnixNanos) {
        let epoch = self.epoch + 1;
        *self = Self { epoch, ..Self::new(created) };
    }

    /// In the place of this one, as an earlier one was, under another time of creation.
    pub fn bring_back(&mut self, backup: &Self, created: UnixNanos) {
        let epoch = self.epoch + 1;
        let leader = Leader { created, ..backup.leader.clone() };
        *self = Self { created, leader, epoch, ..backup.clone() };
    }
}

/// A snapshot that the bucket holds.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub name: u64,
    pub disk: Disk,
    pub put_at: UnixNanos,
    pub is_damaged: bool,
}
