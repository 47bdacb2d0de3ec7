//! Following: a partition that another worker owns is folded behind it, into a store of one's own.
//!
//! | a follower | so that |
//! | --- | --- |
//! | publishes nothing | the owner's effects are the only ones |
//! | folds up to where the owner has told that all is confirmed, and no further | everything that it commits is confirmed |
//! | commits where its own fold is what the owner has told, place and timestamp of the message included | a log that has lost its end, and grown again, is seen |
//! | takes the owner's marks with it | outputs that are lost afterwards are missed, whoever owns the partition then |
//!
//! So its store is a copy of one that the owner has committed, or was about to, and when the owner is gone it goes on from there
//! as any restarted worker does. If the owner is a zombie, what it tells is true all the same: it was confirmed.

use super::{Partition, PartitionError};
use crate::application::Application;
use crate::checkpoint::Checkpoint;
use crate::commit::goals::{Arrival, Goals, Proven, is_of_one_history};
use crate::identity::doubt::Ruling;
use crate::identity::{is_unproven, judge};
use crate::joined::joined;
use crate::log::source::{Lost, OpenError, Opened, Source};
use crate::partition::Duty;
use crate::partition::committed::{Committed, written};
use crate::partition::opening::UNPROVEN;
use crate::partition::session::Ended;
use crate::standing::Phase;
use crate::table::Table;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long whoever takes over waits for what the owner has told last, and for the log to bring it that far, while neither comes.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A follower at work.
pub(super) struct Following<A: Application> {
    pub table: Table<A>,
    pub source: Source,
    pub committed: Committed<A>,
    /// The key up to which expired rows were looked for.
    looked_at: Option<A::Key>,
    /// What the owner has told, beyond the table.
    goals: Goals,
    proven: Proven,
    pub open_bytes: usize,
    pub opened_at: Instant,
}

impl<A: Application> Following<A> {
    /// Whether everything that is folded is what an owner has committed, place by place.
    fn is_where_the_owner_was(&self) -> bool {
        self.proven.is_here(self.table.position(), self.table.open_batches())
    }

    /// What the store has, with the owner's marks.
    pub fn committed(&self) -> Committed<A> {
        Committed { checkpoint: self.proven.marked(self.committed.checkpoint), ..self.committed.clone() }
    }
}

impl<A: Application> Partition<A> {
    /// Follows the owner until told to stop or to own the partition, or until the log has to be opened again.
    pub(super) async fn follow(&mut self, stop: &CancellationToken) -> Result<Ended, PartitionError> {
        let mut connects = self.log.connects();
        connects.mark_unchanged();
        if let Some(ended) = self.search(stop).await? {
            return Ok(ended);
        }
        let opening = tokio::select! {
            () = stop.cancelled() => return Ok(Ended::Stopped),
            _ = connects.changed() => return Ok(lost(Lost::Reconnected.to_string())),
            opening = self.open_to_follow() => opening?,
        };
        let mut following = match opening {
            Ok(following) => following,
            Err(why) => return Ok(lost(why)),
        };
        let began = following.committed.checkpoint.position;
        let ended = self.follow_on(&mut following, stop).await?;
        let progressed = following.committed.checkpoint.position > began;
        let is_to_own = matches!(self.duty(), Duty::Own { .. });
        if matches!(ended, Ended::Stopped) && is_to_own && following.is_where_the_owner_was() {
            *self.promoted() = Some(Box::new(following));
        }
        Ok(match ended {
            Ended::Lost { why, .. } => Ended::Lost { why, progressed },
            Ended::Stopped => Ended::Stopped,
        })
    }

    /// Until it is told to own the partition.
    pub(super) async fn is_to_own(&self) {
        // The worker that says so outlives its partitions.
        self.orders.duty.clone().wait_for(|duty| matches!(duty, Duty::Own { .. })).await.ok();
    }

    /// Opens the log behind the store, if the log is what it was. What else there may be to do about it is the owner's business. The
    /// inner error is a reason to try again.
    async fn open_to_follow(&mut self) -> Result<Result<Following<A>, String>, PartitionError> {
        let mut checkpoint = match self.begun().await? {
            Ok(Some(checkpoint)) => checkpoint,
            Ok(None) => match self.log.reader().state().await {
                Ok(Some(_)) if self.doubt.others().is_some() => {
                    return Ok(Err("all snapshots are of another log".to_owned()));
                }
                Ok(Some(state)) => {
                    let checkpoint = Checkpoint::start_of(state.created);
                    self.store.begin(&checkpoint)?;
                    checkpoint
                }
                Ok(None) => return Ok(Err("there is no such stream".to_owned())),
                Err(cause) => return Ok(Err(cause.to_string())),
            },
            Err(why) => return Ok(Err(why)),
        };
        let reading = match self.log.reader().reading(&checkpoint, None).await {
            Ok(Some(reading)) => reading,
            Ok(None) => return Ok(Err("there is no such stream".to_owned())),
            Err(cause) => return Ok(Err(cause.to_string())),
        };
        if let Err(verdict) = judge(&checkpoint, &reading) {
            let said = match self.doubt.rule(&verdict, checkpoint.position, false, self.began.elapsed()) {
                Ruling::Search => "the log begins further on: looking for a snapshot that reaches there".to_owned(),
                _ => format!("it can't be followed: {}", verdict.said(&A::WORDS)),
            };
            return Ok(Err(said));
        }
        if is_unproven(&checkpoint, &reading) && self.doubt.unproven(checkpoint.position) {
            return Ok(Err(UNPROVEN.to_owned()));
        }
        self.doubt.sound();
        if checkpoint.log_created != reading.state.created {
            checkpoint = self.brought_back(&checkpoint, &reading.state)?;
        }
        let Opened { source, .. } = match self.log.open(checkpoint.position).await {
            Ok(opened) => opened,
            Err(OpenError::Superseded) => {
                return Err(PartitionError::Superseded { partition: self.partition, words: &A::WORDS });
            }
            Err(error) => return Ok(Err(error.to_string())),
        };
        tracing::info!(log = self.log.name(), position = checkpoint.position, "following the log behind its owner");
        let size = self.store.size()?;
        self.show(Phase::Follows { close: false }, &checkpoint, size);
        let row_bytes = self.stores.row_bytes();
        Ok(Ok(Following {
            table: Table::over(self.application.clone(), self.share(), row_bytes, checkpoint, &self.store)?,
            source,
            committed: Committed { transaction: 0, checkpoint, size, expired: [].into() },
            looked_at: None,
            goals: Goals::default(),
            proven: Proven::default(),
            open_bytes: 0,
            opened_at: Instant::now(),
        }))
    }

    async fn follow_on(&self, following: &mut Following<A>, stop: &CancellationToken) -> Result<Ended, PartitionError> {
        let (mut duty, mut told) = (self.orders.duty.clone(), self.orders.told.clone());
        told.mark_changed();
        let mut last_words: Option<Instant> = None;
        loop {
            if let Duty::Own { from } = *duty.borrow_and_update() {
                let until = *last_words.get_or_insert_with(|| Instant::now() + LAST_WORDS);
                let is_there = from.is_none_or(|from| following.table.position() >= from);
                if is_there || Instant::now() >= until {
                    return Ok(Ended::Stopped);
                }
            }
            let is_full = following.open_bytes >= self.config.checkpoint_bytes || following.table.is_crowded();
            if is_full && let Some(goal) = following.goals.furthest() {
                if !is_of_one_history(following.table.checkpoint(), &goal) {
                    return Ok(lost("the owner's store has another history".to_owned()));
                }
                // The owner is far ahead: what lies before its commit is safe, if the log still has what it has committed, and
                // before that what is folded here. In this order: what the log has of the fold by then, it had all along.
                for at in [goal, *following.table.checkpoint()] {
                    match self.log.reader().reading(&at, None).await {
                        // By the name that both know it by: one that was made anew meanwhile may be what is followed.
                        Ok(Some(reading))
                            if reading.state.created == at.log_created && judge(&at, &reading).is_ok() => {}
                        Ok(_) => return Ok(lost("the log is not what was folded of it".to_owned())),
                        Err(cause) => return Ok(lost(cause.to_string())),
                    }
                }
                self.commit_behind(following, &goal).await?;
            }
            let may_fold = following.goals.are_beyond(following.table.position());
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Ended::Stopped),
                _ = duty.changed() => {}
                () = async { tokio::time::sleep_until(last_words.expect("guarded")).await }, if last_words.is_some() => {}
                changed = told.changed() => {
                    if changed.is_err() {
                        return Ok(Ended::Stopped);
                    }
                    let goal = *told.borrow_and_update();
                    if let Some(goal) = goal {
                        following.goals.told(goal);
                        if let Err(why) = self.arrive(following).await? {
                            return Ok(lost(why));
                        }
                    }
                }
                batch = following.source.next(), if may_fold => {
                    let batch = match batch {
                        Ok(batch) => batch,
                        Err(why) => return Ok(lost(why.to_string())),
                    };
                    if following.table.open_batches() == 0 {
                        following.opened_at = Instant::now();
                    }
                    following.open_bytes += batch.payload.len();
                    // The owner has published what this asks for.
                    following.table.consume(&self.store, &batch).await?;
                    // It is on its way: to go on from further back would be to say again what the owner has said.
                    last_words = last_words.map(|_| Instant::now() + LAST_WORDS);
                    if let Err(why) = self.arrive(following).await? {
                        return Ok(lost(why));
                    }
                }
            }
        }
    }

    /// Compares the fold with what the owner has told of this place, and commits if it is time. The inner error is a reason to
    /// begin again.
    async fn arrive(&self, following: &mut Following<A>) -> Result<Result<(), String>, PartitionError> {
        let arrival = following.goals.arrive(following.table.checkpoint());
        match arrival {
            Arrival::OnTheWay | Arrival::Passed => {}
            Arrival::Differs => {
                let (log, position) = (self.log.name(), following.table.position());
                tracing::warn!(log, position, "the owner has folded something else up to here: following it again");
                return Ok(Err("the owner has folded something else".to_owned()));
            }
            Arrival::There(goal) => {
                following.proven.at(goal);
                let longest = self.config.longest(following.open_bytes, true);
                let is_time = following.goals.is_empty() || following.opened_at.elapsed() >= longest;
                // Whoever takes over commits this with what it folds next.
                if is_time && self.follows() {
                    self.commit_behind(following, &goal).await?;
                }
            }
        }
        if following.table.open_batches() == 0 && following.goals.is_close(&arrival) {
            self.has_come_close();
        }
        Ok(Ok(()))
    }

    fn has_come_close(&self) {
        let close = Phase::Follows { close: true };
        let is_new = self.standing.send_if_modified(|standing| std::mem::replace(&mut standing.phase, close) != close);
        if is_new {
            self.changed.notify_one();
        }
    }

    /// Commits what is folded, with the marks of the owner: it has confirmed every effect up to `goal`, which is no less far.
    async fn commit_behind(&self, following: &mut Following<A>, goal: &Checkpoint) -> Result<(), PartitionError> {
        let (last, expired) = (following.committed.transaction, following.committed.expired.clone());
        let Some(mut transaction) = following.table.seal(last, &expired) else { return Ok(()) };
        (transaction.checkpoint.outputs, transaction.checkpoint.rejects) = (goal.outputs, goal.rejects);
        let (store, application, after) = (self.store.clone(), self.application.clone(), following.looked_at.take());
        let writing = tokio::task::spawn_blocking(move || {
            store.commit(&transaction)?;
            written(&store, &*application, &transaction, after)
        });
        let (committed, looked_at) = joined(writing.await)?;
        following.table.committed(committed.transaction);
        following.table.give(self.stores.row_bytes());
        following.open_bytes = 0;
        self.has_committed();
        let phase = self.standing.borrow().phase;
        self.show(phase, &committed.checkpoint, committed.size);
        (following.committed, following.looked_at) = (committed, looked_at);
        Ok(())
    }
}

fn lost(why: String) -> Ended {
    Ended::Lost { why, progressed: false }
}
