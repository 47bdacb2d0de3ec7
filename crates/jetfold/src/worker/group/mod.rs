//! A worker in its group: it says what it holds, hears what others do, and does its part of what all of them compute.
//!
//! Everything is decided by a [`Roster`], which is pure. This keeps the partitions that are held, opened and let go of, and tells the
//! roster what becomes of them.

mod presence;

use super::WorkerError;
use super::board::{Taken, millis};
use super::held::{Ended, Held, Holder};
use crate::application::Application;
use crate::group::endings::Endings;
use crate::group::roster::{BEAT, Cause, Deed, Roster};
use crate::joined::joined;
use crate::nats::presence::Presence;
use crate::nats::publish::Refusal;
use crate::partition::{Duty, PartitionError};
use crate::standing::{MoveCause, Phase};
use crate::store::{Store, StoreError};
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

/// How often the worker looks around, if nothing happens.
const LOOK: Duration = Duration::from_millis(250);

/// What a worker says must have been stored within this time, or it does not count as heard.
const HEARD: Duration = Duration::from_secs(2);

/// Of the time that a stop may take, what is left to others for taking over.
const HANDING_OVER: Duration = Duration::from_secs(5);

/// How long a partition that is handed over may go on to commit what it has folded, before it is stopped where it is: its pause is
/// shorter if that is done.
const LETTING_GO: Duration = Duration::from_secs(10);

/// The same, of a worker that is told to stop: its other partitions wait for their turns.
const LETTING_GO_AT_THE_END: Duration = Duration::from_secs(2);

/// A store that was opened for a partition.
type OpenedStore<A> = (u32, Result<Store<A>, StoreError>);

/// How far the worker is with its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    GoesOn,
    /// It is told to stop, and others are to take over until then.
    HandsOver(Instant),
    /// Everything is told to stop.
    Stops,
}

/// A partition that was taken, and is not folded yet.
struct Taking {
    from: String,
    cause: MoveCause,
    /// How long nobody had folded it when it was taken.
    before: Duration,
    at: Instant,
}

pub struct Group<A: Application> {
    holder: Holder<A>,
    presence: Presence,
    roster: Roster,
    pinned: bool,
    standby: u32,
    /// Partitions whose logs have no earlier life of this worker that is higher.
    risen: BTreeSet<u32>,
    held: BTreeMap<u32, Held<A>>,
    running: JoinSet<Ended>,
    opening: JoinSet<OpenedStore<A>>,
    /// What is being opened, and for what.
    wanted: BTreeMap<u32, (Duty, u64)>,
    endings: Endings,
    /// Stores that were open before.
    closed: BTreeMap<u32, Weak<Store<A>>>,
    taking: BTreeMap<u32, Taking>,
    heard_at: Option<Instant>,
    said_at: Instant,
    course: Course,
    failed: Option<PartitionError>,
    broken: Option<WorkerError>,
}

impl<A: Application> Group<A> {
    pub fn new(
        holder: Holder<A>,
        presence: Presence,
        partitions: u32,
        pinned: bool,
        standby: u32,
        patience: Duration,
        risen: Vec<u32>,
    ) -> Self {
        let roster = Roster::new(holder.worker.clone(), partitions, patience);
        Self {
            holder,
            presence,
            roster,
            pinned,
            standby,
            risen: risen.into_iter().collect(),
            held: BTreeMap::new(),
            running: JoinSet::new(),
            opening: JoinSet::new(),
            wanted: BTreeMap::new(),
            endings: Endings::default(),
            closed: BTreeMap::new(),
            taking: BTreeMap::new(),
            heard_at: None,
            said_at: Instant::now(),
            course: Course::GoesOn,
            failed: None,
            broken: None,
        }
    }

    /// Folds until `stop`, or until a partition can't go on: then everything stops, and the reason is returned.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), WorkerError> {
        let mut others = self.listen().await;
        self.meet().await;
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looked_at = Instant::now();
        let mut saying: Option<BoxFuture<'static, Result<(), Refusal>>> = None;
        let mut said = self.member();
        let changed = self.holder.shared.changed.clone();
        loop {
            self.advance().await;
            if self.course == Course::Stops && self.running.is_empty() && self.opening.is_empty() {
                break;
            }
            let member = self.member();
            if saying.is_none() && (member.is_news(&said) || self.said_at.elapsed() >= BEAT) {
                (said, self.said_at) = (member.clone(), Instant::now());
                let presence = self.presence.clone();
                // The next word will do as well, and must not wait for an answer that was lost.
                let saying_it = async move { timeout(BEAT, presence.say(&member)).await };
                let no_answer = |_| Err(Refusal::Unknown("no answer".to_owned()));
                saying = Some(saying_it.map(move |said| said.unwrap_or_else(no_answer)).boxed());
            }
            tokio::select! {
                biased;
                () = stop.cancelled(), if self.course == Course::GoesOn => self.begin_to_stop(),
                Some(ended) = self.running.join_next() => self.ended(joined(ended)).await,
                Some(opened) = self.opening.join_next() => {
                    let (partition, store) = joined(opened);
                    if let Err(error) = store.and_then(|store| self.opened(partition, store)) {
                        self.broken.get_or_insert(error.into());
                        self.stop_all();
                    }
                }
                said = async { saying.as_mut().expect("guarded").await }, if saying.is_some() => {
                    saying = None;
                    self.was_heard(said);
                }
                heard = others.next() => match heard {
                    Some(heard) => self.hear(heard),
                    // Never while the connection lasts.
                    None => others = stream::pending().boxed(),
                },
                () = changed.notified() => {}
                _ = looks.tick() => {
                    let elapsed = looked_at.elapsed();
                    looked_at = Instant::now();
                    let is_heard = self.is_heard();
                    for name in self.roster.attend(elapsed, is_heard) {
                        tracing::warn!(worker = name, "another {} has not been heard of: its partitions are taken over", A::WORDS.worker);
                    }
                }
            }
        }
        // Where it has stopped is known before it is gone. Whoever is not told waits a little longer.
        let (presence, last) = (self.presence.clone(), self.member());
        timeout(HEARD, async { (presence.say(&last).await.ok(), presence.leave().await.ok()) }).await.ok();
        match (self.broken, self.failed) {
            (Some(error), _) => Err(error),
            (None, Some(error)) => Err(error.into()),
            (None, None) => Ok(()),
        }
    }

    /// Folds every partition that it may.
    fn hold_all(&mut self) {
        for partition in self.holder.slots.clone() {
            if !self.held.contains_key(&partition) && !self.wanted.contains_key(&partition) {
                let term = self.roster.next_term(partition);
                self.open(partition, Duty::Own { from: None }, term);
            }
        }
    }

    /// Does what there is to do now.
    async fn advance(&mut self) {
        self.endings.forget(Instant::now());
        self.release().await;
        self.finish_moves();
        let followed = self.roster.followed();
        for (partition, held) in &self.held {
            held.followed(followed.contains(partition));
        }
        let patience = if self.course == Course::GoesOn { LETTING_GO } else { LETTING_GO_AT_THE_END };
        for held in self.endings.beyond(patience, Instant::now()).filter_map(|partition| self.held.get(&partition)) {
            held.stop();
        }
        self.holder.shared.stores.share_among(self.held.len() + self.wanted.len());
        if self.are_all_refused() {
            self.stop_all();
        }
        if let Course::HandsOver(until) = self.course {
            let owns = self.held.values().any(Held::owns) || !self.endings.is_empty();
            // Whoever is not heard is not followed any more either.
            let can_hand_over = !self.pinned && self.is_heard() && self.roster.has_takers();
            if !owns || !can_hand_over || Instant::now() >= until {
                self.stop_all();
            }
        }
        if self.course != Course::Stops && self.is_heard() {
            let busy: BTreeSet<u32> = self.wanted.keys().copied().chain(self.endings.all()).collect();
            for deed in self.roster.decide(&self.member(), &busy) {
                self.carry_out(deed);
            }
        }
        // Whether by what the group decides or, where it is not heard, by itself.
        if self.wanted.is_empty() {
            self.holder.board.begun();
        }
    }

    fn carry_out(&mut self, deed: Deed) {
        match deed {
            Deed::Follow(partition) => self.open(partition, Duty::Follow, 0),
            Deed::LetGo(partition) => {
                if let Some(held) = self.held.get(&partition) {
                    tracing::info!(partition, "letting go of a partition");
                    match held.owns() {
                        true => held.hand_over(),
                        false => held.stop(),
                    }
                    self.endings.begin(partition, false, Instant::now());
                }
            }
            Deed::HandOver { partition, to } => {
                if let Some(held) = self.held.get(&partition) {
                    tracing::info!(partition, to, "handing a partition over");
                    held.hand_over();
                    self.endings.begin(partition, true, Instant::now());
                }
            }
            Deed::Own { partition, term, since } => self.take(partition, term, since),
        }
    }

    fn take(&mut self, partition: u32, term: u64, since: Cause) {
        let (from, cause, before) = match since {
            Cause::Free => (None, None, 0),
            Cause::HandedOver { from, handed } => {
                (Some(from), Some(MoveCause::HandedOver), handed.map_or(0, |handed| handed.stopped_ms_ago))
            }
            Cause::Left { from } => (Some(from), Some(MoveCause::Left), 0),
            Cause::Silent { from, for_ms } => (Some(from), Some(MoveCause::Silent), for_ms),
        };
        if let Some(from) = &from {
            self.holder.oust(partition, from);
        }
        if let (Some(from), Some(cause)) = (from, cause) {
            let before = Duration::from_millis(before);
            self.taking.insert(partition, Taking { from, cause, before, at: Instant::now() });
        }
        self.endings.taken(partition);
        match self.held.get_mut(&partition) {
            Some(held) => {
                held.take(term, self.roster.handed(partition));
                self.holder.own(partition, held);
            }
            None => self.open(partition, Duty::Own { from: None }, term),
        }
    }

    fn open(&mut self, partition: u32, duty: Duty, term: u64) {
        let opening = self.holder.opening(partition, self.closed.remove(&partition));
        self.wanted.insert(partition, (duty, term));
        self.opening.spawn(async move { (partition, opening.await) });
    }

    /// The store of a partition is open.
    fn opened(&mut self, partition: u32, store: Store<A>) -> Result<(), StoreError> {
        let Some((duty, term)) = self.wanted.remove(&partition) else { return Ok(()) };
        if self.course == Course::Stops {
            return Ok(());
        }
        // The first look at a log rises above whoever was there, if it was not seen before.
        let has_risen = !self.risen.insert(partition);
        let mut held = self.holder.hold(partition, store, duty, has_risen, &mut self.running)?;
        held.term = term;
        if held.owns() {
            self.holder.own(partition, &mut held);
        }
        self.held.insert(partition, held);
        Ok(())
    }

    /// Moves end when the log is open.
    fn finish_moves(&mut self) {
        for (partition, held) in &mut self.held {
            if held.phase() != Phase::Owns {
                continue;
            }
            held.listens_no_more();
            let Some(Taking { from, cause, before, at }) = self.taking.remove(partition) else { continue };
            let (partition, pause) = (*partition, before + at.elapsed());
            tracing::info!(partition, from, ?cause, pause_ms = millis(pause), "took a partition over");
            self.holder.board.taken(Taken { partition, from, cause, pause });
        }
    }

    /// Tells where partitions have stopped that are handed over.
    async fn release(&mut self) {
        for (partition, since) in self.endings.claims().collect::<Vec<_>>() {
            let Some(held) = self.held.get(&partition).filter(|held| held.phase() == Phase::HandedOver) else {
                continue;
            };
            let (checkpoint, stopped_at) = {
                let standing = held.standing.borrow();
                (standing.checkpoint, standing.stopped_at.map_or(since, Instant::from_std))
            };
            if let Some(checkpoint) = checkpoint {
                self.holder.last_words(partition, &checkpoint).await;
                self.endings.handed_over(partition, checkpoint.position, stopped_at);
            }
        }
    }

    /// The task of a partition is over.
    async fn ended(&mut self, (partition, result): Ended) {
        self.release().await;
        let was_told_to = self.endings.over(partition);
        self.taking.remove(&partition);
        if let Some(held) = self.held.remove(&partition) {
            self.holder.board.hide(partition);
            self.closed.insert(partition, held.store.clone());
        }
        match result {
            // It was said when it came, and stops nobody else.
            Err(error) if error.is_refusal() => self.note(error, was_told_to),
            Err(error) => self.fail(error),
            Ok(()) => {}
        }
    }

    fn fail(&mut self, error: PartitionError) {
        tracing::error!("{error}");
        self.note(error, false);
        self.stop_all();
    }

    /// The first error is returned, unless a later one is a broken guarantee. One that others go on with is none of this worker's.
    fn note(&mut self, error: PartitionError, is_of_others: bool) {
        let is_graver = |before: &PartitionError| error.is_violation() && !before.is_violation();
        if !is_of_others && self.failed.as_ref().is_none_or(is_graver) {
            self.failed = Some(error);
        }
    }

    /// There is nothing left to do where every log is refused: whoever started this process is told so by its end.
    fn are_all_refused(&self) -> bool {
        !self.held.is_empty() && self.wanted.is_empty() && self.held.values().all(|held| *held.is_refused.borrow())
    }

    fn begin_to_stop(&mut self) {
        let at = *self.holder.shared.stopped_at.get_or_init(Instant::now);
        self.course = Course::HandsOver(at + HANDING_OVER);
    }

    fn stop_all(&mut self) {
        self.holder.shared.stopped_at.get_or_init(Instant::now);
        self.course = Course::Stops;
        self.held.values().for_each(Held::stop);
    }
}
