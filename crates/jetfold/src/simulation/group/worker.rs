//! A worker of the group: the roster and the endings that ship, and tasks that take their time, as `worker::group` has them.

use super::super::dice::Dice;
use crate::group::endings::Endings;
use crate::group::member::{Followed, Handed, Member, Owned};
use crate::group::roster::{self, BEAT, Cause, Roster};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

const LOOK: Duration = Duration::from_millis(250);
const HEARD: Duration = Duration::from_secs(2);
const DEAD_AFTER: Duration = Duration::from_millis(2_500);
const HANDING_OVER: Duration = Duration::from_secs(5);
const LETTING_GO: Duration = Duration::from_secs(10);
const LETTING_GO_AT_THE_END: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(20);

/// What a worker has done.
pub enum Deed {
    /// It folds a partition no more, and has committed so far.
    Stopped {
        partition: u32,
        position: u64,
    },
    /// It has taken a partition that was handed over, and goes on from there.
    Took {
        partition: u32,
        from: Option<u64>,
    },
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Duty {
    Own,
    Follow,
    /// Owned, and to be handed over or let go of.
    HandOver,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Follows { close: bool },
    Owns,
    HandedOver,
}

struct Held {
    duty: Duty,
    phase: Phase,
    term: u64,
    since: Duration,
    /// When its task is as far as it is to come next.
    next: Duration,
    is_stopped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    GoesOn,
    HandsOver(Duration),
    Stops,
}

pub struct Worker {
    lives: (u64, String),
    pinned: BTreeSet<u32>,
    standby: u32,
    /// What real time began at: what takes time by the process's clock gets it from there.
    began: Instant,
    roster: Roster,
    endings: Endings,
    held: BTreeMap<u32, Held>,
    /// What is opened: whether to own it, its term, and when it is open.
    wanted: BTreeMap<u32, (bool, u64, Duration)>,
    course: Course,
    heard_at: Option<Duration>,
    looked_at: Duration,
    said: Member,
    said_at: Duration,
}

impl Worker {
    pub fn start(
        name: &str,
        lives: u64,
        partitions: u32,
        pinned: &BTreeSet<u32>,
        standby: u32,
        read: Option<BTreeMap<String, Member>>,
        now: Duration,
    ) -> Self {
        let mut worker = Self {
            lives: (lives, name.to_owned()),
            pinned: pinned.clone(),
            standby,
            began: Instant::now(),
            roster: Roster::new(name.to_owned(), partitions, DEAD_AFTER),
            endings: Endings::default(),
            held: BTreeMap::new(),
            wanted: BTreeMap::new(),
            course: Course::GoesOn,
            heard_at: None,
            looked_at: now,
            said: Member::default(),
            said_at: now,
        };
        // Without an answer it folds all that it may, as one does that is pinned.
        let all = if pinned.is_empty() { (0..partitions).collect() } else { pinned.clone() };
        let is_answered = read.is_some();
        for (other, member) in read.into_iter().flatten().filter(|(other, _)| other != name) {
            worker.hear(&other, member);
        }
        if is_answered {
            worker.heard_at = Some(now);
        }
        if !is_answered || !pinned.is_empty() {
            for partition in all {
                let term = worker.roster.next_term(partition);
                worker.wanted.insert(partition, (true, term, now));
            }
        }
        worker
    }

    pub fn stop(&mut self, now: Duration) {
        if self.course == Course::GoesOn {
            self.course = Course::HandsOver(now + HANDING_OVER);
        }
    }

    pub fn hear(&mut self, name: &str, member: Member) {
        self.roster.heard(name, member);
    }

    pub fn hear_left(&mut self, name: &str) {
        self.roster.left(name);
    }

    /// The partitions that it folds.
    pub fn folds(&self) -> impl Iterator<Item = u32> {
        let folds = |held: &Held| held.phase == Phase::Owns && held.duty != Duty::Follow;
        self.held.iter().filter(move |(_, held)| folds(held)).map(|(partition, _)| *partition)
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.course == Course::Stops && self.held.is_empty()
    }

    /// What it says of itself now, if it is time to.
    pub fn says(&mut self, now: Duration, is_heard: bool) -> Option<Member> {
        let member = self.member(now);
        if !member.is_news(&self.said) && now < self.said_at + BEAT {
            return None;
        }
        self.said_at = now;
        if is_heard {
            self.heard_at = Some(now);
        }
        self.said.clone_from(&member);
        Some(member)
    }

    /// Its tasks go on, and it does what there is to do.
    pub fn turn(&mut self, now: Duration, is_heard: bool, dice: &mut Dice) -> Vec<Deed> {
        let mut deeds = Vec::new();
        self.tasks(now, dice, &mut deeds);
        if now >= self.looked_at + LOOK {
            self.roster.attend(now - self.looked_at, is_heard && self.is_heard(now));
            self.looked_at = now;
        }
        self.endings.forget(self.at(now));
        self.release(now, &mut deeds);
        let patience = if self.course == Course::GoesOn { LETTING_GO } else { LETTING_GO_AT_THE_END };
        for partition in self.endings.beyond(patience, self.at(now)).collect::<Vec<_>>() {
            if let Some(held) = self.held.get_mut(&partition) {
                (held.is_stopped, held.next) = (true, now);
            }
        }
        // Meanwhile tasks go on: what is said below is of one look at them.
        self.tasks(now, dice, &mut deeds);
        if let Course::HandsOver(until) = self.course {
            let owns = self.held.values().any(|held| held.duty == Duty::Own) || !self.endings.is_empty();
            let can_hand_over = self.pinned.is_empty() && self.is_heard(now) && self.roster.has_takers();
            if !owns || !can_hand_over || now >= until {
                self.course = Course::Stops;
                self.wanted.clear();
                self.held.values_mut().for_each(|held| (held.is_stopped, held.next) = (true, now));
            }
        }
        if self.course != Course::Stops && self.is_heard(now) {
            let busy: BTreeSet<u32> = self.wanted.keys().copied().chain(self.endings.all()).collect();
            for deed in self.roster.decide(&self.member(now), &busy) {
                let takes = Duration::from_millis(10 * dice.below(50) as u64);
                self.carry_out(deed, now, now + takes, &mut deeds);
            }
        }
        deeds
    }

    fn at(&self, now: Duration) -> Instant {
        self.began + now
    }

    fn is_heard(&self, now: Duration) -> bool {
        self.heard_at.is_some_and(|at| now < at + HEARD)
    }

    /// What it leads to is there at `then`.
    fn carry_out(&mut self, deed: roster::Deed, now: Duration, then: Duration, deeds: &mut Vec<Deed>) {
        match deed {
            roster::Deed::Follow(partition) => _ = self.wanted.insert(partition, (false, 0, then)),
            roster::Deed::LetGo(partition) => self.end(partition, false, now, then),
            roster::Deed::HandOver { partition, .. } => self.end(partition, true, now, then),
            roster::Deed::Own { partition, term, since } => {
                self.endings.taken(partition);
                let from = self.roster.handed(partition);
                if matches!(since, Cause::HandedOver { .. }) {
                    deeds.push(Deed::Took { partition, from });
                }
                match self.held.get_mut(&partition) {
                    Some(held) => (held.duty, held.term, held.next) = (Duty::Own, term, then),
                    None => _ = self.wanted.insert(partition, (true, term, then)),
                }
            }
        }
        deeds.push(Deed::Other);
    }

    fn end(&mut self, partition: u32, hands_over: bool, now: Duration, then: Duration) {
        if let Some(held) = self.held.get_mut(&partition) {
            match held.duty {
                Duty::Own => held.duty = Duty::HandOver,
                Duty::Follow | Duty::HandOver => held.is_stopped = true,
            }
            held.next = then;
            self.endings.begin(partition, hands_over, self.began + now);
        }
    }

    /// Tells where partitions have stopped that are handed over.
    fn release(&mut self, now: Duration, deeds: &mut Vec<Deed>) {
        for (partition, _) in self.endings.claims().collect::<Vec<_>>() {
            if self.held.get(&partition).is_some_and(|held| held.phase == Phase::HandedOver) {
                let position = position_at(now);
                self.endings.handed_over(partition, position, self.began + now);
                deeds.push(Deed::Stopped { partition, position });
            }
        }
    }

    /// Each task is one step further when it is time, and the next takes its time.
    fn tasks(&mut self, now: Duration, dice: &mut Dice, deeds: &mut Vec<Deed>) {
        let mut within = |most_ms: usize| Duration::from_millis(10 * dice.below(most_ms / 10) as u64);
        let open: Vec<u32> =
            self.wanted.iter().filter(|(_, (_, _, at))| *at <= now).map(|(partition, _)| *partition).collect();
        for partition in open {
            let (owns, term, _) = self.wanted.remove(&partition).expect("it was just found");
            let duty = if owns { Duty::Own } else { Duty::Follow };
            let held =
                Held { duty, phase: Phase::Closed, term, since: now, next: now + within(500), is_stopped: false };
            self.held.insert(partition, held);
        }
        let mut over = Vec::new();
        for (partition, held) in self.held.iter_mut().filter(|(_, held)| held.next <= now) {
            held.next = now + within(600);
            match (held.duty, held.phase) {
                (Duty::HandOver, Phase::Closed | Phase::Owns | Phase::Follows { .. }) => held.phase = Phase::HandedOver,
                (Duty::HandOver, Phase::HandedOver) => over.push(*partition),
                _ if held.is_stopped => over.push(*partition),
                (Duty::Own, _) => held.phase = Phase::Owns,
                (Duty::Follow, Phase::Closed) => {
                    (held.phase, held.next) = (Phase::Follows { close: false }, now + within(3_000));
                }
                // Now and then the owner gets away.
                (Duty::Follow, _) => held.phase = Phase::Follows { close: within(100) != Duration::ZERO },
            }
        }
        for partition in over {
            self.release(now, deeds);
            self.held.remove(&partition);
            self.endings.over(partition);
            deeds.push(Deed::Other);
        }
    }

    fn member(&self, now: Duration) -> Member {
        let owned = |(partition, held): (&u32, &Held)| Owned { partition: *partition, term: held.term, position: 0 };
        let owns = self.held.iter().filter(|(_, held)| held.duty == Duty::Own).map(owned);
        let ending = self.endings.claims().filter_map(|(partition, _)| {
            let held = self.held.get(&partition)?;
            Some(Owned { partition, term: held.term, position: 0 })
        });
        let opening = self.wanted.iter().filter(|(_, (owns, _, _))| *owns);
        let opening =
            opening.map(|(partition, (_, term, _))| Owned { partition: *partition, term: *term, position: 0 });
        let follows = self.held.iter().filter_map(|(partition, held)| {
            if held.duty != Duty::Follow || self.endings.contains(*partition) {
                return None;
            }
            let close = held.phase == Phase::Follows { close: true } || now >= held.since + PATIENCE;
            Some(Followed { partition: *partition, position: 0, close })
        });
        let handed = self.endings.handed(self.at(now)).map(|(partition, position, stopped)| Handed {
            partition,
            position,
            stopped_ms_ago: u64::try_from(stopped.as_millis()).expect("a while"),
        });
        Member {
            incarnation: self.lives.clone(),
            pinned: !self.pinned.is_empty(),
            leaving: self.course != Course::GoesOn,
            standby: self.standby,
            owns: owns.chain(ending).chain(opening).collect(),
            follows: follows.collect(),
            handed: handed.collect(),
        }
    }
}

/// How far any partition is: it is folded all the time.
fn position_at(now: Duration) -> u64 {
    u64::try_from(now.as_millis()).expect("a few minutes")
}
