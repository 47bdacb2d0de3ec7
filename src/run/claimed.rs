//! `Claimed`: a run with a name, as the life that has claimed it sees it.

use crate::run::RunError;
use crate::run::presence::Moment;
use crate::run::question::Question;
use crate::run::record::{Claim, RecordError, Records};
use jetfold::MessageMark;
use jetfold::nats::read::NoAnswer;
use std::time::Duration;

/// How often it is asked whether another life has gone on. Nothing depends on it: two lives waste work, and break nothing.
const LOOKS: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct Claimed {
    records: Records,
    claim: Claim,
    /// When to ask next; `None` while it is asked.
    next: Option<Moment>,
}

impl Claimed {
    pub fn new(records: Records, claim: Claim) -> Self {
        Self { records, claim, next: Some(Moment::ZERO) }
    }

    /// The last message of `sums` before the first that may be a final of the run.
    pub fn before(&self) -> MessageMark {
        self.claim.record.before()
    }

    /// The question whether another life has gone on, where it is time for it.
    pub fn due(&mut self, now: Moment) -> Option<Question> {
        self.next.take_if(|next| *next <= now)?;
        Some(Question::Superseded(Box::new(self.clone())))
    }

    pub fn told(&mut self, is_superseded: bool, now: Moment) -> Result<(), RunError> {
        self.next = Some(now + LOOKS);
        if is_superseded { Err(RunError::Superseded(self.claim.name.clone())) } else { Ok(()) }
    }

    pub async fn is_superseded(&self) -> Result<bool, NoAnswer> {
        self.records.is_superseded(&self.claim).await
    }

    pub async fn still_accounts(&self) -> Result<(), RecordError> {
        self.records.still_accounts(&self.claim).await
    }
}
