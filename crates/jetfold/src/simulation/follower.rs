//! A follower: it folds behind the owner, and publishes nothing.

use super::session::{Pulled, Session};
use super::turns::turn;
use super::worker::{Again, Duty, Ended, Process};
use crate::checkpoint::Checkpoint;
use crate::commit::goals::{Arrival, is_of_one_history};
use crate::identity::{is_unproven, judge};

/// How long whoever takes over waits for the last words, in milliseconds.
const LAST_WORDS: u64 = 5_000;

impl Process {
    /// Follows the owner until told otherwise, or until the log has to be opened again.
    pub async fn follow(&mut self) -> Ended {
        self.at.is_close.set(false);
        if self.search().await.is_err() {
            return Ended::Lost;
        }
        match self.open_to_follow().await {
            Ok(Some(session)) => self.follow_on(session).await,
            Ok(None) | Err(Again) => Ended::Lost,
        }
    }

    async fn open_to_follow(&mut self) -> Result<Option<Session>, Again> {
        let mut checkpoint = match self.begun().await? {
            Some(checkpoint) => checkpoint,
            None => {
                let state = self.at.log_state().await?;
                if self.doubt.others().is_some() {
                    return Ok(None);
                }
                self.begin(state.created)
            }
        };
        let reading = self.at.reading(&checkpoint, None).await?;
        if let Err(verdict) = judge(&checkpoint, &reading) {
            self.doubt.rule(&verdict, checkpoint.position, false, self.elapsed());
            return Ok(None);
        }
        if is_unproven(&checkpoint, &reading) && self.doubt.unproven(checkpoint.position) {
            return Ok(None);
        }
        self.doubt.sound();
        if checkpoint.log_created != reading.state.created {
            checkpoint.log_created = reading.state.created;
            self.at.disk.borrow_mut().checkpoint = Some(checkpoint);
        }
        let source = self.source(checkpoint.position).await?;
        self.at.tell(format_args!("follows from {}", checkpoint.position));
        let leaders = self.leaders().await;
        let mut session = Session::new(&self.application, checkpoint, &self.at, source, leaders);
        session.follows = true;
        Ok(Some(session))
    }

    async fn follow_on(&mut self, mut session: Session) -> Ended {
        let at = self.at.clone();
        let mut last_words = None;
        loop {
            turn().await;
            match at.duty.get() {
                Duty::Follow => {}
                Duty::Own { from } => {
                    let until = *last_words.get_or_insert(at.now() + LAST_WORDS);
                    let is_there = from.is_none_or(|from| session.table.position() >= from);
                    if is_there || at.now() >= until {
                        return self.promote(session);
                    }
                }
                Duty::HandOver => return Ended::Stopped,
            }
            // Full now and then.
            let is_full = at.world.borrow_mut().dice.below(16) == 15;
            if is_full && let Some(goal) = session.goals.furthest() {
                if !is_of_one_history(session.table.checkpoint(), &goal) {
                    return Ended::Lost;
                }
                for place in [goal, *session.table.checkpoint()] {
                    match at.reading(&place, None).await {
                        Ok(reading)
                            if reading.state.created == place.log_created && judge(&place, &reading).is_ok() => {}
                        Ok(_) | Err(Again) => return Ended::Lost,
                    }
                }
                self.commit_behind(&mut session, &goal);
            }
            let told = at.world.borrow_mut().links[at.id].told.pop_front();
            if let Some(goal) = told {
                session.goals.told(goal);
                if !self.arrive(&mut session) {
                    return Ended::Lost;
                }
            }
            if !session.goals.are_beyond(session.table.position()) {
                at.sleep(50).await;
                continue;
            }
            let pulled = session.source.next(&mut at.world.borrow_mut(), at.id);
            match pulled {
                Pulled::Batch(batch) => {
                    session.fold(&at, &batch);
                    last_words = last_words.map(|_| at.now() + LAST_WORDS);
                    if !self.arrive(&mut session) {
                        return Ended::Lost;
                    }
                }
                Pulled::Nothing => at.sleep(50).await,
                Pulled::Skipped(_) | Pulled::Lost => return Ended::Lost,
            }
        }
    }

    /// Whether the fold is the owner's.
    fn arrive(&self, session: &mut Session) -> bool {
        let arrival = session.goals.arrive(session.table.checkpoint());
        match arrival {
            Arrival::OnTheWay | Arrival::Passed => {}
            Arrival::Differs => return false,
            Arrival::There(goal) => {
                session.proven.at(goal);
                let is_time = session.goals.is_empty() || self.at.world.borrow_mut().dice.below(4) == 0;
                if is_time && self.at.duty.get() == Duty::Follow {
                    self.commit_behind(session, &goal);
                }
            }
        }
        if session.table.open_batches() == 0 && session.goals.is_close(&arrival) {
            self.at.is_close.set(true);
        }
        true
    }

    fn commit_behind(&self, session: &mut Session, goal: &Checkpoint) {
        let Some(mut sealed) = session.seal(&self.at, session.committed) else { return };
        let mut transaction = sealed.transaction.clone();
        (transaction.checkpoint.outputs, transaction.checkpoint.rejects) = (goal.outputs, goal.rejects);
        sealed.transaction.checkpoint = transaction.checkpoint;
        self.at.tell(format_args!("committed behind the owner {}", transaction.checkpoint.position));
        sealed.commit(&self.at, &transaction);
        session.committed = transaction.number;
        session.table.committed(transaction.number);
    }

    /// Goes on as the owner, with what it has folded if that is what the owner has confirmed.
    fn promote(&mut self, mut session: Session) -> Ended {
        if session.proven.is_here(session.table.position(), session.table.open_batches()) {
            self.at.tell(format_args!("goes on as the owner at {}", session.table.position()));
            session.before = session.proven.marked(self.at.disk.borrow().checkpoint.expect("it has begun"));
            session.follows = false;
            self.promoted = Some(Box::new(session));
        }
        Ended::Stopped
    }
}
