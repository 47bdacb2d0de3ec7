//! `Claimed`: a run with a name, as the life that has claimed it sees it.

use crate::run::RunError;
use crate::run::may_send::{Look, MaySend, lasts};
use crate::run::presence::Moment;
use crate::run::question::Question;
use crate::run::record::{Claim, RecordError, Records};
use jetfold::MessageMark;
use jetfold::nats::connect::Connection;
use jetfold::nats::read::NoAnswer;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often it is asked whether another life has gone on. Until it is known, two lives waste work, and break nothing.
const LOOKS: Duration = Duration::from_secs(1);

/// Looks while one counts, at the least.
const WHILE_ONE_COUNTS: u32 = 4;

#[derive(Clone)]
pub(super) struct Claimed {
    connection: Connection,
    records: Records,
    claim: Claim,
    looked: Arc<watch::Sender<Look>>,
    /// For how long a look counts.
    lasts: Duration,
    /// When to ask next; `None` while it is asked.
    next: Option<Moment>,
}

impl Claimed {
    /// `look`: before it was claimed. `idle_expiry`: how long a stream is remembered without a new chunk.
    pub fn new(connection: Connection, records: Records, claim: Claim, look: Look, idle_expiry: Duration) -> Self {
        let (looked, lasts) = (Arc::new(watch::Sender::new(look)), lasts(idle_expiry));
        Self { connection, records, claim, looked, lasts, next: Some(Moment::ZERO) }
    }

    pub fn may_send(&self) -> MaySend {
        MaySend::new(&self.connection, self.looked.subscribe(), self.lasts)
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

    pub fn told(&mut self, is_superseded: bool, look: Look, now: Moment) -> Result<(), RunError> {
        if is_superseded {
            return Err(RunError::Superseded(self.claim.name.clone()));
        }
        self.looked.send_replace(look);
        self.next = Some(now + LOOKS.min(self.lasts / WHILE_ONE_COUNTS));
        Ok(())
    }

    /// Asks whether another life has claimed the run.
    pub async fn look(&self) -> Result<(bool, Look), NoAnswer> {
        let look = look(&self.connection);
        let mut connects = self.connection.connects();
        connects.mark_unchanged();
        tokio::select! {
            is_superseded = self.records.is_superseded(&self.claim) => Ok((is_superseded?, look)),
            // Nothing that was asked on the connection before is answered.
            _ = connects.changed() => Err(NoAnswer::new("the connection was made anew".to_owned())),
        }
    }

    pub async fn still_accounts(&self) -> Result<(), RecordError> {
        self.records.still_accounts(&self.claim).await
    }
}

/// A look that begins.
pub(super) fn look(connection: &Connection) -> Look {
    Look { connects: *connection.connects().borrow(), at: Instant::now() }
}
