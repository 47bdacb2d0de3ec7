//! `Pending`: a transaction whose effects are being confirmed.

use crate::application::Application;
use crate::commit::doubt::{Leaders, Place, Sign, Trail};
use crate::commit::effect::{Kind, Subject};
use crate::commit::inspection::Evidence;
use crate::transaction::Transaction;
use std::time::Duration;

#[derive(Debug)]
pub struct Pending<A: Application> {
    unconfirmed: usize,
    already_there: u64,
    outputs: Trail<A::Output>,
    rejects: Trail<String>,
    /// Everything that was confirmed, as it would have to be read back.
    confirmed_outputs: Vec<A::Output>,
    reject_subjects: Vec<String>,
    /// How often the connection had been made when it was opened.
    connects: u64,
    sealed: Option<Box<Transaction<A>>>,
}

impl<A: Application> Pending<A> {
    /// Nothing of it is published yet.
    pub fn opened(leaders: &Leaders, connects: u64) -> Self {
        Self {
            unconfirmed: 0,
            already_there: 0,
            outputs: Trail::led_by(leaders.outputs.clone()),
            rejects: Trail::led_by(leaders.rejects.clone()),
            confirmed_outputs: Vec::new(),
            reject_subjects: Vec::new(),
            connects,
            sealed: None,
        }
    }

    /// So many effects more are to be published.
    pub fn add(&mut self, effects: usize) {
        self.unconfirmed += effects;
    }

    /// Nothing is added any more.
    pub fn seal(&mut self, transaction: Box<Transaction<A>>) {
        self.sealed = Some(transaction);
    }

    pub fn confirm_output(&mut self, place: Place<A::Output>, already_there: bool, now: Duration) {
        self.confirmed_outputs.push(place.key.clone());
        self.outputs.confirmed(place, now);
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

    /// An output contradicts another, and is let pass.
    pub fn let_pass(&mut self) {
        self.unconfirmed -= 1;
    }

    /// One of the streams may have forgotten what it has confirmed.
    pub fn doubt(&mut self, kind: Kind, sign: Sign) {
        match kind {
            Kind::Outputs => self.outputs.doubt(sign),
            Kind::Rejects => self.rejects.doubt(sign),
        }
    }

    /// How many of its effects were there already.
    pub fn already_there(&self) -> u64 {
        self.already_there
    }

    /// The transaction, once: when it is sealed and every effect of it is confirmed.
    pub fn take_confirmed(&mut self) -> Option<Box<Transaction<A>>> {
        self.sealed.take_if(|_| self.unconfirmed == 0 || crate::planted!("a-commit-does-not-wait-for-effects"))
    }

    /// What is known of its effects.
    pub fn evidence(&mut self) -> Evidence<A::Output> {
        Evidence {
            outputs: self.outputs.clone().map(Subject::Output),
            rejects: self.rejects.clone().map(Subject::Reject),
            confirmed_outputs: std::mem::take(&mut self.confirmed_outputs),
            reject_subjects: std::mem::take(&mut self.reject_subjects),
            connects: self.connects,
        }
    }
}
