//! A worker's process, step by step as [the partition](crate::partition) goes: it restores, judges the log, folds or follows, and looks
//! again. Everything that decides is the machine's own; what asks is this.

use super::disk::Disk;
use super::session::Session;
use super::tales::Tales;
use super::turns::{Shared, turn};
use super::world::{Fault, World};
use crate::checkpoint::{Checkpoint, Mark, Position};
use crate::commit::effect::Kind;
use crate::identity::accept::Loss;
use crate::identity::doubt::Doubt;
use crate::identity::{LogReading, LogState, MarkReading, NextMessage, Verdict, judge_mark};
use crate::time::UnixNanos;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long a refused log is left alone.
const LOOK_AGAIN: u64 = 10_000;

/// What the group says to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    Follow,
    Own { from: Option<Position> },
    HandOver,
}

/// What outlives the process, and what others know of it.
#[derive(Clone)]
pub struct Post {
    pub id: usize,
    pub world: Shared,
    pub disk: Rc<RefCell<Disk>>,
    pub duty: Rc<Cell<Duty>>,
    /// What the operator accepts.
    pub accepts: Rc<RefCell<Vec<Loss>>>,
    pub refused: Rc<Cell<Option<Loss>>>,
    pub asleep_until: Rc<Cell<u64>>,
    /// It has let go: where it has stopped, if that is known.
    pub handed: Rc<Cell<Option<Option<Position>>>>,
    pub is_close: Rc<Cell<bool>>,
}

/// How a session is over.
pub enum Ended {
    Stopped,
    Lost,
    Refused(Verdict),
}

pub struct Process {
    pub at: Post,
    pub application: Arc<Tales>,
    pub doubt: Doubt,
    began: u64,
    pub promoted: Option<Box<Session>>,
}

/// No answer: to be tried again.
pub struct Again;

pub type Asked<T> = Result<T, Again>;

impl Post {
    pub fn now(&self) -> u64 {
        self.world.borrow().now
    }

    pub fn tell(&self, what: std::fmt::Arguments<'_>) {
        let id = self.id;
        self.world.borrow_mut().tell(format_args!("worker {id}: {what}"));
    }

    pub fn connects(&self) -> u64 {
        self.world.borrow().links[self.id].connects
    }

    pub async fn sleep(&self, ms: u64) {
        self.asleep_until.set(self.now() + ms);
        turn().await;
    }

    /// Asks somebody: the question travels, and so does the answer.
    pub async fn ask<T>(&self, read: impl FnOnce(&mut World) -> T) -> Asked<T> {
        let heard = |world: &World| (world.links[self.id].connects, world.silences);
        let before = heard(&self.world.borrow());
        turn().await;
        let answer = {
            let world = &mut *self.world.borrow_mut();
            world.is_answered().then(|| read(world))
        };
        turn().await;
        answer.filter(|_| heard(&self.world.borrow()) == before).ok_or(Again)
    }

    pub async fn log_state(&self) -> Asked<LogState> {
        self.ask(|world| world.known_log().state()).await
    }

    pub async fn reading(&self, checkpoint: &Checkpoint, expected: Option<Position>) -> Asked<LogReading> {
        let (state, position) = (self.log_state().await?, checkpoint.position);
        let at_position = match position > 0 && state.first <= position && position <= state.last {
            true => self.ask(|world| world.known_log().mark(position)).await?,
            false => None,
        };
        let next = match expected {
            Some(expected) => {
                let found = self.ask(|world| world.known_log().next(expected)).await?;
                Some(NextMessage { expected, found })
            }
            None => None,
        };
        Ok(LogReading { state, at_position, next })
    }

    pub async fn mark_reading(&self, kind: Kind, mark: Mark) -> Asked<MarkReading> {
        let state = self.ask(|world| world.kept(kind).state()).await?;
        let at_mark = self.ask(|world| world.kept(kind).mark(mark.sequence)).await?;
        Ok(MarkReading { state, at_mark })
    }

    pub async fn judge_effects(&self, checkpoint: &Checkpoint) -> Asked<Result<(), Verdict>> {
        for (kind, mark) in [(Kind::Outputs, checkpoint.outputs), (Kind::Rejects, checkpoint.rejects)] {
            let Some(mark) = mark else { continue };
            if let Err(forgot) = judge_mark(&mark, &self.mark_reading(kind, mark).await?) {
                return Ok(Err(kind.forgot(forgot)));
            }
        }
        Ok(Ok(()))
    }
}

impl Process {
    pub fn new(at: Post) -> Self {
        let application = Arc::new(at.world.borrow().tales);
        let (doubt, began) = (Doubt::new(at.disk.borrow().position()), at.now());
        Self { at, application, doubt, began, promoted: None }
    }

    /// Until the process dies.
    pub async fn run(mut self) {
        loop {
            let ended = match self.at.duty.get() {
                Duty::HandOver => {
                    self.promoted = None;
                    if self.at.handed.get().is_none() {
                        self.at.handed.set(Some(None));
                    }
                    self.at.sleep(50).await;
                    continue;
                }
                Duty::Follow => self.follow().await,
                Duty::Own { .. } => self.session().await,
            };
            match ended {
                Ended::Stopped => {}
                Ended::Lost => {
                    let pause = 100 + self.at.world.borrow_mut().dice.below(4900) as u64;
                    self.at.sleep(pause).await;
                }
                Ended::Refused(verdict) => {
                    self.at.tell(format_args!("refused: {verdict:?}"));
                    self.has_a_cause(&verdict);
                    self.at.refused.set(verdict.flag());
                    self.at.sleep(LOOK_AGAIN).await;
                }
            }
        }
    }

    /// No verdict is believed that nothing has brought about.
    pub fn has_a_cause(&self, verdict: &Verdict) {
        let world = &mut *self.at.world.borrow_mut();
        world.refused += 1;
        let causes: &[Fault] = match verdict {
            Verdict::LogDiverged { .. } => &[Fault::LogLoses, Fault::LogBroughtBack, Fault::LogAnew],
            Verdict::LogTruncated { .. } => &[
                Fault::DiskLost,
                Fault::DiskForgets,
                Fault::SnapshotLost,
                Fault::SnapshotDamaged,
                Fault::LogBroughtBack,
                Fault::LogLoses,
                Fault::LogAnew,
                // At its very beginning.
                Fault::Hole,
            ],
            Verdict::LogHole { .. } => &[Fault::Hole],
            Verdict::LogReplaced { .. } => &[Fault::LogAnew, Fault::LogBroughtBack],
            Verdict::OutputsForgot(_) | Verdict::RejectsForgot(_) => &[],
        };
        if !causes.iter().any(|cause| world.happened.contains_key(cause)) {
            world.breaks("no verdict without its cause", format!("{verdict:?}"));
        }
    }

    pub fn elapsed(&self) -> Duration {
        Duration::from_millis(self.at.now() - self.began)
    }

    pub fn is_own(&self) -> bool {
        matches!(self.at.duty.get(), Duty::Own { .. })
    }

    /// Where the store stands; `None` if it has not begun, or has folded nothing of a log that was made anew since.
    pub async fn begun(&self) -> Asked<Option<Checkpoint>> {
        let (checkpoint, is_bare) = {
            let disk = self.at.disk.borrow();
            (disk.checkpoint, disk.accepted.is_empty())
        };
        let Some(checkpoint) = checkpoint else { return Ok(None) };
        if checkpoint.position > 0 || !is_bare {
            return Ok(Some(checkpoint));
        }
        let state = self.at.log_state().await?;
        Ok((state.created == checkpoint.log_created).then_some(checkpoint))
    }

    pub fn begin(&self, created: UnixNanos) -> Checkpoint {
        let checkpoint = Checkpoint::start_of(created);
        let disk = &mut *self.at.disk.borrow_mut();
        disk.checkpoint = Some(checkpoint);
        disk.expected.at(&checkpoint);
        checkpoint
    }
}
