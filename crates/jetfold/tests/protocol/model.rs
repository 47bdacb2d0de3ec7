//! The rules: what may happen in a state, and what becomes of it.
//!
//! | rule | in the sources |
//! | --- | --- |
//! | a log is opened only if it is what the store has folded | `identity` |
//! | every effect is there before its position is committed, or is reported | `commit/inspection` |
//! | what a store's mark misses is published again before anything else | `partition/republish` |
//! | a follower commits where its fold is what the owner has told, with the owner's mark | `partition/follow` |
//! | a log is purged up to a settled snapshot of it, and a store restored that is behind | `archive` |
//!
//! Where the message at a store's position is purged, nothing tells whether the store is of this log: it is restored from the
//! snapshot that the purge has left. No pull outlives a loss of its log.
//!
//! An inspection reads back each effect. The real one reads fewer as long as no sign speaks against them: whether the signs
//! suffice is what the schedules of `commit/line` ask.

use crate::protocol::history::{Key, Output, Position, Record};
use crate::protocol::properties;
use crate::protocol::state::{Snapshot, State};
use crate::protocol::streams::{Found, Judgement, Mark};
use crate::protocol::worker::{Duty, Origin, Session, Store, Told, Worker};
use stateright::{Model, Property};

/// A rule that is broken, so that the checker has something to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// An owner commits what nobody has confirmed.
    CommitsUnconfirmed,
    /// A follower folds, and commits, beyond what its owner has committed.
    RunsAhead,
    /// A follower commits at the position that it was told, whatever message stands there.
    ComparesNothing,
    /// A follower keeps its own mark.
    KeepsItsMark,
    /// A follower whose memory is full looks whether the log has what its owner has committed, and not at its own fold.
    TrustsTheGoal,
    /// A store goes on although its last message is purged, if the one behind that is there.
    TrustsThePurged,
    /// A pull goes on where it was after the log has lost its end.
    PullsOn,
}

/// What is explored: the bounds, and the bug if there is one.
#[derive(Clone, Debug, Default)]
pub struct Protocol {
    pub workers: usize,
    pub records: usize,
    pub keys: Key,
    /// How often the log may lose its end.
    pub log_losses: u8,
    /// How often the stream of outputs may.
    pub output_losses: u8,
    /// How many disks may be lost.
    pub disk_losses: u8,
    pub followers: bool,
    /// How many snapshots the bucket may hold.
    pub snapshots: usize,
    /// How many publishes may be under way.
    pub sent: usize,
    pub bug: Option<Bug>,
}

/// A step. Numbers are those of workers; whoever takes none is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A publisher stores a record.
    Append(Key),
    /// The log forgets what lies behind a position.
    LogLoses(Position),
    /// The stream of outputs forgets all but its first messages.
    OutputsLose(usize),
    /// A publish arrives that was sent at any time before.
    Arrive(Output),
    /// A worker believes that the partition is its own.
    Own(usize),
    Follow(usize),
    /// A crash, a stop, another duty: the session is gone.
    Stop(usize),
    LoseDisk(usize),
    Fold(usize),
    Send(usize, Output),
    Inspect(usize),
    Commit(usize),
    CommitBehind(usize, Told),
    /// The same without having come to where the owner has committed, because memory is full.
    CommitFull(usize, Told),
    /// A commit by nothing but a [bug](Bug::RunsAhead).
    CommitAhead(usize),
    PublishAgain(usize, Output),
    /// All is there again that the store's mark has missed.
    Mend(usize),
    PutSnapshot(usize),
    Settle(Snapshot),
    LoseSnapshot(Snapshot),
    Purge(usize, Snapshot),
    Restore(usize, Snapshot),
}

impl Protocol {
    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn of_the_world(&self, state: &State, actions: &mut Vec<Action>) {
        let State { log, outputs, .. } = state;
        if log.records.len() < self.records {
            // Names of keys mean nothing: one that was never there is as good as any other.
            let used = log.pasts.iter().chain([&log.records]).flat_map(|records| records.iter());
            let fresh = used.map(|record| record.key + 1).max().unwrap_or(0);
            actions.extend((0..=fresh.min(self.keys - 1)).map(Action::Append));
        }
        if log.era < self.log_losses {
            let durable = state.furthest_settled().map_or(0, |snapshot| snapshot.store.position());
            actions.extend((durable..log.records.len()).map(Action::LogLoses));
        }
        if outputs.era < self.output_losses {
            actions.extend((0..outputs.messages.len()).map(Action::OutputsLose));
        }
        actions.extend(state.sent.iter().copied().map(Action::Arrive));
        let furthest = state.furthest_settled().map_or(0, |snapshot| snapshot.store.position());
        for snapshot in &state.snapshots {
            let superseded = snapshot.store.position() < furthest;
            let of_another = furthest > 0 && state.judge(&snapshot.store) == Judgement::Diverged;
            match snapshot.settled {
                false => actions.extend([Action::Settle(*snapshot), Action::LoseSnapshot(*snapshot)]),
                true if superseded || of_another => actions.push(Action::LoseSnapshot(*snapshot)),
                true => {}
            }
        }
    }

    fn of_idle(&self, state: &State, at: usize, worker: &Worker, actions: &mut Vec<Action>) {
        if worker.store.position() > 0 && state.disks_lost < self.disk_losses {
            actions.push(Action::LoseDisk(at));
        }
        if state.judge(&worker.store) != Judgement::Diverged {
            let is_further = |snapshot: &&Snapshot| snapshot.store.position() > worker.store.position();
            let usable = state.snapshots.iter().filter(is_further).filter(|snapshot| state.is_sound(&snapshot.store));
            actions.extend(usable.map(|snapshot| Action::Restore(at, *snapshot)));
        }
        let goes_on = match state.judge(&worker.store) {
            Judgement::Sound => !state.would_hide(&worker.store),
            Judgement::Unproven => self.has(Bug::TrustsThePurged),
            Judgement::Truncated | Judgement::Diverged => false,
        };
        if !goes_on {
            return;
        }
        if self.followers {
            actions.push(Action::Follow(at));
        }
        if state.outputs.holds(worker.store.mark) {
            return actions.push(Action::Own(at));
        }
        let before = actions.len();
        actions.extend(state.missing(&worker.store).map(|output| Action::PublishAgain(at, output)));
        if actions.len() == before {
            actions.push(Action::Mend(at));
        }
    }

    fn of_owner(&self, state: &State, at: usize, worker: &Worker, actions: &mut Vec<Action>) {
        let Worker { store, session } = worker;
        if self.next_record(state, session).is_some() {
            actions.push(Action::Fold(at));
        }
        if state.sent.len() < self.sent {
            let to_send = session.folded.outputs_after(store.position());
            let to_send = to_send.filter(|output| state.outputs.find(output) == Found::Nothing);
            actions
                .extend(to_send.filter(|output| !state.sent.contains(output)).map(|output| Action::Send(at, output)));
        }
        match session.inspected {
            Some(_) => actions.push(Action::Commit(at)),
            None if session.folded.len() > store.position() && self.inspect(state, worker).is_some() => {
                actions.push(Action::Inspect(at));
            }
            None => {}
        }
        let is_put = |snapshot: &Snapshot| snapshot.store.folded == store.folded && snapshot.store.mark == store.mark;
        let is_new = !state.snapshots.iter().any(is_put);
        if store.position() > 0 && is_new && state.snapshots.len() < self.snapshots && state.is_sound(store) {
            actions.push(Action::PutSnapshot(at));
        }
        let may_purge = |snapshot: &&Snapshot| {
            let position = snapshot.store.position();
            let frees = position > state.log.purged + 1;
            snapshot.settled && frees && position <= store.position() && state.is_sound(&snapshot.store)
        };
        actions.extend(state.snapshots.iter().filter(may_purge).map(|snapshot| Action::Purge(at, *snapshot)));
    }

    fn of_follower(&self, state: &State, at: usize, worker: &Worker, actions: &mut Vec<Action>) {
        let Worker { store, session } = worker;
        let position = session.folded.len();
        let is_told_beyond = state.told.iter().any(|told| told.position > position);
        if self.next_record(state, session).is_some() && (is_told_beyond || self.has(Bug::RunsAhead)) {
            actions.push(Action::Fold(at));
        }
        if position == store.position() {
            return;
        }
        for told in &state.told {
            let is_same = told.era == session.era() || self.has(Bug::ComparesNothing);
            if told.position == position && is_same {
                actions.push(Action::CommitBehind(at, *told));
            }
            // What the owner has committed is still in the log, and so is what was folded up to here.
            let has_goal = state.log.judge(told.position, told.era) == Judgement::Sound;
            let has_fold = state.log.judge(position, session.era()) == Judgement::Sound;
            if told.position > position && has_goal && (has_fold || self.has(Bug::TrustsTheGoal)) {
                actions.push(Action::CommitFull(at, *told));
            }
        }
        if self.has(Bug::RunsAhead) && !is_told_beyond {
            actions.push(Action::CommitAhead(at));
        }
    }

    /// What the pull of a session brings next.
    fn next_record(&self, state: &State, session: &Session) -> Option<Record> {
        state.log.record(session.folded.len() + 1).filter(|_| !session.cut)
    }

    /// The last look at a transaction: the mark to commit, and the subjects under which something else stands. `None` if it may
    /// not be committed as things are.
    fn inspect(&self, state: &State, worker: &Worker) -> Option<(Option<Mark>, Vec<Key>)> {
        let Worker { store, session } = worker;
        let (mut mark, mut reported) = (None, Vec::new());
        for output in session.folded.outputs_after(store.position()) {
            match state.outputs.find(&output) {
                Found::Equal(found) => mark = mark.max(Some(found)),
                Found::Another => reported.push(output.subject()),
                Found::Nothing if self.has(Bug::CommitsUnconfirmed) => {}
                Found::Nothing => return None,
            }
        }
        // A mark is looked for once more before a further one takes its place.
        if mark.is_some() && !state.outputs.holds(store.mark) {
            return None;
        }
        let is_there = state.log.reaches(session.folded.len(), session.era());
        is_there.then_some((mark.max(store.mark), reported))
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::begin(self.workers)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.of_the_world(state, actions);
        for (at, worker) in state.workers.iter().enumerate() {
            match worker.session.duty {
                Duty::Idle => self.of_idle(state, at, worker, actions),
                Duty::Owns => self.of_owner(state, at, worker, actions),
                Duty::Follows => self.of_follower(state, at, worker, actions),
            }
            if !worker.does(Duty::Idle) {
                actions.push(Action::Stop(at));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = last.clone();
        match action {
            Action::Append(key) => next.log.append(key),
            Action::LogLoses(after) => {
                next.log.lose(after);
                if !self.has(Bug::PullsOn) {
                    next.workers.iter_mut().for_each(|worker| worker.session.cut = !worker.does(Duty::Idle));
                }
            }
            Action::OutputsLose(left) => next.outputs.lose(left),
            Action::Arrive(output) => {
                next.sent.remove(&output);
                next.outputs.publish(output);
            }
            Action::Own(at) => {
                let Worker { store, session } = &mut next.workers[at];
                *session = Session::over(store, Duty::Owns);
                next.told.extend((store.position() > 0).then(|| store.told()));
            }
            Action::Follow(at) => {
                let Worker { store, session } = &mut next.workers[at];
                *session = Session::over(store, Duty::Follows);
            }
            Action::Stop(at) => next.workers[at].session = Session::default(),
            Action::LoseDisk(at) => {
                next.workers[at] = Worker::default();
                next.disks_lost += 1;
            }
            Action::Fold(at) => {
                let session = &mut next.workers[at].session;
                let record = self.next_record(last, session)?;
                session.folded.push(record);
            }
            Action::Send(_, output) => {
                next.sent.insert(output);
            }
            Action::Inspect(at) => {
                let (mark, reported) = self.inspect(last, &last.workers[at])?;
                let session = &mut next.workers[at].session;
                session.inspected = Some((session.folded.len(), mark));
                next.reported.extend(reported);
            }
            Action::Commit(at) => {
                let Worker { store, session } = &mut next.workers[at];
                let (position, mark) = session.inspected.take()?;
                *store = Store { folded: session.folded.through(position), mark, origin: Origin::Owned };
                next.told.insert(store.told());
            }
            Action::CommitBehind(at, told) | Action::CommitFull(at, told) => {
                let Worker { store, session } = &mut next.workers[at];
                let mark = if self.has(Bug::KeepsItsMark) { store.mark } else { told.mark };
                *store = Store { folded: session.folded, mark, origin: Origin::Followed };
            }
            Action::CommitAhead(at) => {
                let Worker { store, session } = &mut next.workers[at];
                *store = Store { folded: session.folded, mark: store.mark, origin: Origin::Followed };
            }
            Action::PublishAgain(_, output) => next.outputs.publish(output),
            Action::Mend(at) => {
                let store = &mut next.workers[at].store;
                (store.mark, store.origin) = (None, Origin::Mended);
                for output in store.folded.outputs_after(0) {
                    match last.outputs.find(&output) {
                        Found::Equal(found) => store.mark = store.mark.max(Some(found)),
                        Found::Another => drop(next.reported.insert(output.subject())),
                        Found::Nothing => return None,
                    }
                }
            }
            Action::PutSnapshot(at) => {
                let store = Store { origin: Origin::Restored, ..last.workers[at].store };
                next.snapshots.insert(Snapshot { store, settled: false });
            }
            Action::Settle(snapshot) => {
                next.snapshots.remove(&snapshot);
                next.snapshots.insert(Snapshot { settled: true, ..snapshot });
            }
            Action::LoseSnapshot(snapshot) => drop(next.snapshots.remove(&snapshot)),
            // The message at its position stays: what comes after it is told by that.
            Action::Purge(_, snapshot) => next.log.purged = snapshot.store.position() - 1,
            Action::Restore(at, snapshot) => next.workers[at].store = snapshot.store,
        }
        // They are all alike: which of them has which number makes no state another.
        next.workers.sort_unstable();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::of(self)
    }
}
