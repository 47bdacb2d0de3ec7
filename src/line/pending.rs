//! `Pending`: a transaction whose effects are being confirmed.

use crate::doubt::{Leaders, Place, Sign, Trail};
use crate::effect::{Kind, Subject};
use crate::inspection::Evidence;
use crate::stream_id::StreamId;
use crate::summer::Summer;
use crate::transaction::Transaction;
use std::time::Duration;

#[derive(Debug)]
pub struct Pending {
    unconfirmed: usize,
    already_there: u64,
    finals: Trail<StreamId>,
    rejects: Trail<String>,
    reject_subjects: Vec<String>,
    /// Finals of it that contradict others, and were let pass.
    conflicting: u64,
    /// How often the connection had been made when it was opened.
    connects: u64,
    sealed: Option<Box<Transaction<Summer>>>,
}

impl Pending {
    /// Nothing of it is published yet.
    pub fn opened(leaders: &Leaders, connects: u64) -> Self {
        Self {
            unconfirmed: 0,
            already_there: 0,
            finals: Trail::led_by(leaders.sums.clone()),
            rejects: Trail::led_by(leaders.rejects.clone()),
            reject_subjects: Vec::new(),
            conflicting: 0,
            connects,
            sealed: None,
        }
    }

    /// So many effects more are to be published.
    pub fn add(&mut self, effects: usize) {
        self.unconfirmed += effects;
    }

    /// Nothing is added any more.
    pub fn seal(&mut self, transaction: Box<Transaction<Summer>>) {
        self.sealed = Some(transaction);
    }

    pub fn confirm_final(&mut self, place: Place<StreamId>, already_there: bool, now: Duration) {
        self.finals.confirmed(place, now);
        self.confirmed(already_there);
    }

    pub fn confirm_reject(&mut self, place: Place<String>, already_there: bool, now: Duration) {
        self.reject_subjects.push(place.key.clone());
        self.rejects.confirmed(place, now);
        self.confirmed(already_there);
    }

    fn confirmed(&mut self, already_there: bool) {
        self.already_there += u64::from(already_there);
        self.unconfirmed -= 1;
    }

    /// A final contradicts another, and is let pass.
    pub fn let_pass(&mut self) {
        self.conflicting += 1;
        self.unconfirmed -= 1;
    }

    /// One of the streams may have forgotten what it has confirmed.
    pub fn doubt(&mut self, kind: Kind, sign: Sign) {
        match kind {
            Kind::Sums => self.finals.doubt(sign),
            Kind::Rejects => self.rejects.doubt(sign),
        }
    }

    /// How many of its effects were there already.
    pub fn already_there(&self) -> u64 {
        self.already_there
    }

    /// The transaction, once: when it is sealed and every effect of it is confirmed.
    pub fn take_confirmed(&mut self) -> Option<Box<Transaction<Summer>>> {
        self.sealed.take_if(|_| self.unconfirmed == 0)
    }

    /// What is known of its effects.
    pub fn evidence(&mut self) -> Evidence {
        Evidence {
            finals: self.finals.clone().map(Subject::Final),
            rejects: self.rejects.clone().map(Subject::Reject),
            reject_subjects: std::mem::take(&mut self.reject_subjects),
            conflicting: self.conflicting,
            connects: self.connects,
        }
    }
}
