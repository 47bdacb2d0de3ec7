//! A worker's process, step by step as [the partition](crate::partition) goes: it restores, judges the log, folds or follows, and looks
//! again. Everything that decides is the machine's own; what asks is this.

use super::disk::Disk;
use super::session::{Session, Source};
use super::tales::{End, Tales};
use super::turns::{Shared, turn};
use super::world::{Fault, World};
use crate::application::Application;
use crate::checkpoint::{Checkpoint, Mark, Position};
use crate::commit::doubt::{Leaders, Order, Place};
use crate::commit::effect::{Answer, Found, Kind, ReadBack};
use crate::identity::accept::{Accepted, Loss};
use crate::identity::doubt::{Doubt, Ruling};
use crate::identity::{LogReading, LogState, MarkReading, NextMessage, Verdict, is_unproven, judge, judge_mark};
use crate::time::UnixNanos;
use bytes::Bytes;
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
    fn has_a_cause(&self, verdict: &Verdict) {
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

    /// Looks for a snapshot if one is to be restored first. Whether the log may be opened.
    pub async fn search(&mut self) -> Asked<()> {
        if let Some(beyond) = self.doubt.wanted_beyond() {
            self.restore(beyond).await?;
            self.doubt.has_searched();
        }
        Ok(())
    }

    async fn restore(&mut self, beyond: Position) -> Asked<()> {
        let mut trusted = None;
        if let Some(own) = self.begun().await? {
            let reading = self.at.reading(&own, None).await?;
            match judge(&own, &reading) {
                Ok(()) if is_unproven(&own, &reading) => {}
                Ok(()) => trusted = Some(self.at.disk.borrow().accepted.clone()),
                Err(Verdict::LogTruncated { .. }) => {}
                Err(_) => return Ok(()),
            }
        }
        let mut listed = self.at.ask(|world| world.bucket.clone()).await?;
        listed.sort_by_key(|snapshot| std::cmp::Reverse((snapshot.disk.position(), snapshot.put_at)));
        let (mut verdicts, many) = (Vec::new(), listed.len());
        for snapshot in listed {
            let checkpoint = snapshot.disk.checkpoint.expect("what is put away has begun");
            let reading = self.at.reading(&checkpoint, None).await?;
            if let Err(verdict) = judge(&checkpoint, &reading) {
                if !matches!(verdict, Verdict::LogTruncated { .. }) {
                    verdicts.push(verdict);
                }
                continue;
            }
            let is_trusted = trusted.as_ref().is_none_or(|accepted| *accepted == snapshot.disk.accepted);
            if checkpoint.position <= beyond || !is_trusted {
                continue;
            }
            let find =
                |world: &mut World| world.bucket.iter().any(|found| found.name == snapshot.name && !found.is_damaged);
            if self.at.ask(find).await? {
                let disk = &mut *self.at.disk.borrow_mut();
                let mut accepted = std::mem::take(&mut disk.accepted);
                accepted.extend(snapshot.disk.accepted.iter().cloned());
                accepted.sort_by_key(|accepted| accepted.at);
                accepted.dedup();
                *disk = Disk { accepted, ..snapshot.disk };
                self.at.tell(format_args!("restored a snapshot at {}", checkpoint.position));
                self.doubt.restored();
                return Ok(());
            }
        }
        let all_others = !verdicts.is_empty() && verdicts.len() == many;
        self.doubt.none_restored(verdicts.first().copied().filter(|_| all_others));
        Ok(())
    }

    /// Judges the log, and opens it at the checkpoint.
    pub async fn open(&mut self) -> Result<Session, Ended> {
        let again = |Again| Ended::Lost;
        let mut checkpoint = match self.begun().await.map_err(again)? {
            Some(checkpoint) => checkpoint,
            None => {
                let state = self.at.log_state().await.map_err(again)?;
                match self.doubt.others() {
                    None => self.begin(state.created),
                    Some(verdict) => self.found(verdict, Checkpoint::start_of(state.created), &state).await?,
                }
            }
        };
        let expected = self.doubt.expected(checkpoint.position);
        let reading = self.at.reading(&checkpoint, Some(expected)).await.map_err(again)?;
        let judged = judge(&checkpoint, &reading);
        if matches!(judged, Ok(()) | Err(Verdict::LogHole { .. })) && checkpoint.log_created != reading.state.created {
            checkpoint.log_created = reading.state.created;
            self.at.disk.borrow_mut().checkpoint = Some(checkpoint);
        }
        if judged.is_ok() && is_unproven(&checkpoint, &reading) && self.doubt.unproven(checkpoint.position) {
            return Err(Ended::Lost);
        }
        let judged = match judged {
            Err(verdict) if !verdict.is_further_on(checkpoint.position) => Err(verdict),
            judged => self.at.judge_effects(&checkpoint).await.map_err(again)?.and(judged),
        };
        match judged {
            Ok(()) => self.doubt.sound(),
            Err(verdict) => checkpoint = self.found(verdict, checkpoint, &reading.state).await?,
        }
        let source = self.source(checkpoint.position).await.map_err(again)?;
        self.at.refused.set(None);
        self.at.tell(format_args!("opened the log at {}", checkpoint.position));
        let leaders = self.leaders().await;
        Ok(Session::new(&self.application, checkpoint, &self.at, source, leaders))
    }

    pub async fn source(&self, position: Position) -> Asked<Source> {
        let connects = self.at.connects();
        let epoch = self.at.ask(|world| world.log.epoch).await?;
        Ok(Source::new(position, connects, epoch))
    }

    pub async fn leaders(&self) -> Leaders {
        let at = &self.at;
        Leaders {
            outputs: at.ask(|world| world.outputs.leader.clone()).await.ok(),
            rejects: at.ask(|world| world.rejects.leader.clone()).await.ok(),
            log: at.ask(|world| world.known_log().leader.clone()).await.ok(),
        }
    }

    async fn found(&mut self, verdict: Verdict, checkpoint: Checkpoint, state: &LogState) -> Result<Checkpoint, Ended> {
        let is_accepted = verdict.flag().is_some_and(|loss| self.at.accepts.borrow().contains(&loss));
        let ruling = self.doubt.rule(&verdict, checkpoint.position, is_accepted, self.elapsed());
        self.at.tell(format_args!("found {verdict:?}: {ruling:?}"));
        match ruling {
            Ruling::Search | Ruling::LookAgain { .. } => Err(Ended::Lost),
            Ruling::Refuse => Err(Ended::Refused(verdict)),
            Ruling::PublishAgain => self.publish_again(verdict, checkpoint).await,
            Ruling::Forget(_) => {
                if !self.at.world.borrow().happened.contains_key(&Fault::RejectsLose) {
                    self.at.world.borrow_mut().breaks("no verdict without its cause", format!("{verdict:?}"));
                }
                let after = Checkpoint { rejects: None, ..checkpoint };
                self.record(&verdict, &checkpoint, &after);
                self.doubt.mended();
                Ok(after)
            }
            Ruling::FoldBeforeHole => Ok(checkpoint),
            Ruling::Accept => {
                self.has_a_cause(&verdict);
                let after = verdict.accepted(&checkpoint, state);
                self.record(&verdict, &checkpoint, &after);
                self.at.accepts.borrow_mut().retain(|loss| Some(*loss) != verdict.flag());
                Ok(after)
            }
        }
    }

    fn record(&self, verdict: &Verdict, before: &Checkpoint, after: &Checkpoint) {
        self.at.tell(format_args!("recorded {verdict:?}, on from {}", after.position));
        let at = self.at.world.borrow_mut().stamp();
        let (from, to, verdict) = (before.position, after.position, format!("{verdict:?}"));
        self.at.disk.borrow_mut().accept(after, Accepted { at, verdict, from, to });
    }

    async fn publish_again(&mut self, verdict: Verdict, checkpoint: Checkpoint) -> Result<Checkpoint, Ended> {
        let causes = [Fault::OutputsLose, Fault::OutputsAnew];
        if !causes.iter().any(|cause| self.at.world.borrow().happened.contains_key(cause)) {
            self.at.world.borrow_mut().breaks("no verdict without its cause", format!("{verdict:?}"));
        }
        let rows = self.at.disk.borrow().rows.clone();
        let ends = rows.iter().filter_map(|(tale, row)| Some(self.application.was_put_out(tale, row)?.0));
        let (mut order, mut furthest, mut doubtful) = (Order::after(0), None, false);
        for end in ends {
            let (sequence, already_there, unknown) = publish_until_found(&self.at, end).await;
            doubtful |= unknown || !already_there && order.stored(sequence).is_some();
            Place { sequence, key: end }.further(&mut furthest);
        }
        if doubtful {
            return Err(Ended::Lost);
        }
        let mut outputs = None;
        if let Some(Place { sequence, key }) = furthest {
            let subject = key.tale.to_string();
            match self.at.ask(|world| world.look(Kind::Outputs, sequence, &subject)).await {
                Ok(Found::There(mark)) => outputs = Some(mark),
                Ok(Found::Expired) => {}
                Ok(Found::Forgotten) | Err(Again) => return Err(Ended::Lost),
            }
        }
        let after = Checkpoint { outputs, ..checkpoint };
        self.record(&verdict, &checkpoint, &after);
        self.doubt.mended();
        Ok(after)
    }
}

/// Where an output is, whether it was there before, and whether a try ended unknown.
async fn publish_until_found(at: &Post, end: End) -> (u64, bool, bool) {
    let (subject, payload) = (end.tale.to_string(), Bytes::from(end.digest.to_le_bytes().to_vec()));
    let mut unknown = false;
    loop {
        match at.ask(|world| world.publish(Kind::Outputs, &subject, payload.clone())).await {
            Ok(Answer::Stored(sequence)) => return (sequence, false, unknown),
            Ok(Answer::SubjectTaken) => {
                let found = at.ask(|world| world.read_back(Kind::Outputs, &subject, &payload)).await;
                if let Ok(ReadBack::Same(sequence)) = found {
                    return (sequence, true, unknown);
                }
            }
            Ok(Answer::Unknown) | Err(Again) => unknown = true,
        }
    }
}
