//! The world: time, the broker and what is told of it, whatever goes wrong, and what must hold at any step.

use super::broker::{Snapshot, Stream};
use super::dice::Dice;
use super::tales::Tales;
use crate::checkpoint::Checkpoint;
use crate::commit::effect::Kind;
use crate::time::UnixNanos;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

pub const MS: i64 = 1_000_000;

/// No server that has lost its memory answers again within so many milliseconds.
const RESTART: u64 = 150;

/// How long a leader without its peers goes on answering, in milliseconds.
pub const STALE_FOR: u64 = 20_000;

/// A kind of fault. Each schedule has some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    Crash,
    Pause,
    Disconnect,
    NoAnswer,
    /// A publish is answered by nobody, and may be stored.
    AckLost,
    /// The leader counts a proposal that never commits.
    NeverCommits,
    /// A read right after a write does not see it.
    Missed,
    Election,
    /// A leader that has lost its peers answers with what it knew.
    StaleLeader,
    LogLoses,
    OutputsLose,
    RejectsLose,
    LogAnew,
    OutputsAnew,
    LogBroughtBack,
    Hole,
    DiskLost,
    /// What was not synced is lost with the power: the store is as it was some commits before.
    DiskForgets,
    SnapshotLost,
    SnapshotDamaged,
    /// Two processes believe to own the partition.
    TwoOwners,
    WordsLost,
    ClockSteps,
    ComesAgain,
    Junk,
}

impl Fault {
    pub const ALL: [Self; 25] = [
        Self::Crash,
        Self::Pause,
        Self::Disconnect,
        Self::NoAnswer,
        Self::AckLost,
        Self::NeverCommits,
        Self::Missed,
        Self::Election,
        Self::StaleLeader,
        Self::LogLoses,
        Self::OutputsLose,
        Self::RejectsLose,
        Self::LogAnew,
        Self::OutputsAnew,
        Self::LogBroughtBack,
        Self::Hole,
        Self::DiskLost,
        Self::DiskForgets,
        Self::SnapshotLost,
        Self::SnapshotDamaged,
        Self::TwoOwners,
        Self::WordsLost,
        Self::ClockSteps,
        Self::ComesAgain,
        Self::Junk,
    ];
}

/// What must not be, and is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The name of what should hold.
    pub what: &'static str,
    pub how: String,
}

/// What is told to one worker, and how it is connected.
#[derive(Debug, Default)]
pub struct Link {
    pub connects: u64,
    /// What the owner has told, on its way.
    pub told: VecDeque<Checkpoint>,
}

pub struct World {
    pub dice: Dice,
    pub tales: Tales,
    /// Milliseconds.
    pub now: u64,
    pub step: u64,
    stamps: i64,
    clock_off: i64,
    pub log: Stream,
    pub outputs: Stream,
    pub rejects: Stream,
    backups: Vec<Stream>,
    pub bucket: Vec<Snapshot>,
    named: u64,
    pub links: Vec<Link>,
    pub enabled: BTreeSet<Fault>,
    /// Faults that have happened.
    pub happened: BTreeMap<Fault, u64>,
    pub calm: bool,
    /// How often each stream of effects was silent: what was published to it then ends unknown.
    pub silences: [u64; 2],
    /// The subjects of everything that was ever stored.
    pub ever_out: BTreeSet<String>,
    /// When each output or reject was lost, by subject: the step.
    pub lost_at: BTreeMap<String, u64>,
    stale: Option<(Stream, u64)>,
    pub broken: Option<Broken>,
    digest: DefaultHasher,
    /// Every step in words, if somebody wants to read them.
    pub told: Option<Vec<String>>,
    pub refused: u64,
    pub commits: u64,
    pub finals: u64,
}

impl World {
    pub fn new(dice: Dice, enabled: BTreeSet<Fault>, tales: Tales, workers: usize, is_told: bool) -> Self {
        let links = (0..workers).map(|_| Link::default()).collect();
        Self {
            dice,
            tales,
            now: 0,
            step: 0,
            stamps: 0,
            clock_off: 0,
            log: Stream::new(1),
            outputs: Stream::new(1),
            rejects: Stream::new(1),
            backups: Vec::new(),
            bucket: Vec::new(),
            named: 0,
            links,
            enabled,
            happened: BTreeMap::new(),
            calm: false,
            silences: [0; 2],
            ever_out: BTreeSet::new(),
            lost_at: BTreeMap::new(),
            stale: None,
            broken: None,
            digest: DefaultHasher::new(),
            told: is_told.then(Vec::new),
            refused: 0,
            commits: 0,
            finals: 0,
        }
    }

    /// One step, in words: what tells two runs of one schedule apart.
    pub fn tell(&mut self, what: fmt::Arguments<'_>) {
        (self.step, self.now).hash(&mut self.digest);
        if let Some(told) = &mut self.told {
            told.push(format!("{:>5} {:>7} ms  {what}", self.step, self.now));
        }
    }

    pub fn digest(&self) -> u64 {
        self.digest.finish()
    }

    pub fn breaks(&mut self, what: &'static str, how: String) {
        self.tell(format_args!("BROKEN: {what}: {how}"));
        self.broken.get_or_insert(Broken { what, how });
    }

    /// Whether a fault happens that does so many times in a thousand.
    pub fn goes_wrong(&mut self, fault: Fault, per_mille: usize) -> bool {
        let may = !self.calm && self.enabled.contains(&fault) && !self.is_enough(fault);
        let happens = may && self.dice.is_bad(per_mille);
        if happens {
            self.has_happened(fault);
        }
        happens
    }

    /// What each take half a minute to be believed come a few times, or nothing else would happen.
    fn is_enough(&self, fault: Fault) -> bool {
        let most = match fault {
            Fault::LogLoses | Fault::LogAnew | Fault::OutputsAnew | Fault::LogBroughtBack | Fault::Hole => 2,
            _ => return false,
        };
        self.happened.get(&fault).is_some_and(|times| *times >= most)
    }

    pub fn has_happened(&mut self, fault: Fault) {
        *self.happened.entry(fault).or_default() += 1;
        fault.hash(&mut self.digest);
        self.tell(format_args!("fault: {fault:?}"));
    }

    /// A stamp by the broker's clock. No two are the same.
    pub fn stamp(&mut self) -> UnixNanos {
        self.stamps += 1;
        1_000_000_000_000 + i64::try_from(self.now).expect("not so long") * MS + self.clock_off + self.stamps
    }

    pub fn kept(&mut self, kind: Kind) -> &mut Stream {
        match kind {
            Kind::Outputs => &mut self.outputs,
            Kind::Rejects => &mut self.rejects,
        }
    }

    /// The log as whoever answers knows it.
    pub fn known_log(&self) -> &Stream {
        self.stale.as_ref().map_or(&self.log, |(stale, _)| stale)
    }

    pub fn is_answered(&mut self) -> bool {
        !self.goes_wrong(Fault::NoAnswer, 60)
    }

    fn lose(&mut self, kind: Kind) {
        let stream = self.kept(kind);
        let (first, last) = (stream.first, stream.last);
        if last < first {
            return;
        }
        let many = 1 + self.dice.below(usize::try_from(last - first + 1).unwrap_or(1).min(6)) as u64;
        let lost = self.kept(kind).lose_behind(last - many);
        let step = self.step;
        self.lost_at.extend(lost.into_iter().map(|message| (message.subject, step)));
        self.gives_a_sign(kind);
    }

    /// A server that loses its memory is seen to: by an election, by a connection that breaks, or by being silent for a while.
    fn gives_a_sign(&mut self, kind: Kind) {
        match self.dice.below(3) {
            0 => {
                let at = self.stamp();
                self.kept(kind).elect(at);
            }
            1 => self.disconnect_all(),
            // Nobody is answered meanwhile: what was under way ends unknown.
            _ => {
                self.now += RESTART;
                self.silences[kind as usize] += 1;
            }
        }
    }

    pub fn disconnect_all(&mut self) {
        self.links.iter_mut().for_each(|link| link.connects += 1);
    }

    /// What may go wrong with the broker between any two steps.
    pub fn trouble(&mut self) {
        if let Some((_, until)) = self.stale
            && (self.now >= until || self.calm)
        {
            self.stale = None;
            let at = self.stamp();
            self.log.elect(at);
        }
        if self.calm {
            return;
        }
        if self.goes_wrong(Fault::Election, 8) {
            let at = self.stamp();
            match self.dice.below(3) {
                0 => self.log.elect(at),
                1 => self.outputs.elect(at),
                _ => self.rejects.elect(at),
            }
        }
        if self.stale.is_none() && self.goes_wrong(Fault::StaleLeader, 3) {
            let mut stale = self.log.clone();
            let known = stale.last.saturating_sub(1 + self.dice.below(4) as u64);
            stale.lose_behind(known.max(stale.first.saturating_sub(1)));
            stale.epoch = self.log.epoch;
            self.stale = Some((stale, self.now + STALE_FOR));
        }
        if self.goes_wrong(Fault::OutputsLose, 6) {
            self.lose(Kind::Outputs);
        }
        if self.goes_wrong(Fault::RejectsLose, 6) {
            self.lose(Kind::Rejects);
        }
        if self.log.last >= self.log.first && self.goes_wrong(Fault::LogLoses, 4) {
            let many = 1 + self.dice.below(5) as u64;
            let last = self.log.last.saturating_sub(many).max(self.log.first.saturating_sub(1));
            self.log.lose_behind(last);
            let at = self.stamp();
            self.log.elect(at);
            self.stale = None;
        }
        if self.goes_wrong(Fault::LogAnew, 2) {
            let at = self.stamp();
            self.log.make_anew(at);
            self.stale = None;
        }
        if self.goes_wrong(Fault::OutputsAnew, 2) {
            let step = self.step;
            let subjects: Vec<_> = self.outputs.messages.values().map(|message| message.subject.clone()).collect();
            self.lost_at.extend(subjects.into_iter().map(|subject| (subject, step)));
            let at = self.stamp();
            self.outputs.make_anew(at);
            self.disconnect_all();
        }
        if self.enabled.contains(&Fault::LogBroughtBack) && self.backups.len() < 4 && self.dice.is_bad(20) {
            self.backups.push(self.log.clone());
        }
        if !self.backups.is_empty() && self.goes_wrong(Fault::LogBroughtBack, 4) {
            let which = self.dice.below(self.backups.len());
            let backup = self.backups.swap_remove(which);
            let at = self.stamp();
            self.log.bring_back(&backup, at);
            self.stale = None;
        }
        if self.log.last > self.log.first + 1 && self.goes_wrong(Fault::Hole, 3) {
            let between = usize::try_from(self.log.last - self.log.first - 1).unwrap_or(1);
            let sequence = self.log.first + 1 + self.dice.below(between) as u64;
            self.log.delete(sequence);
        }
        if !self.bucket.is_empty() && self.goes_wrong(Fault::SnapshotLost, 4) {
            let which = self.dice.below(self.bucket.len());
            self.bucket.remove(which);
        }
        if !self.bucket.is_empty() && self.goes_wrong(Fault::SnapshotDamaged, 4) {
            let which = self.dice.below(self.bucket.len());
            self.bucket[which].is_damaged = true;
        }
        if self.goes_wrong(Fault::ClockSteps, 5) {
            self.clock_off += (self.dice.below(7) as i64 - 3) * 3_600_000 * MS;
        }
    }

    pub fn name_snapshot(&mut self) -> u64 {
        self.named += 1;
        self.named
    }

    pub fn has_lost_log(&self) -> bool {
        let lost = [
            Fault::LogLoses,
            Fault::LogAnew,
            Fault::LogBroughtBack,
            Fault::Hole,
            Fault::DiskForgets,
            Fault::ComesAgain,
        ];
        lost.iter().any(|fault| self.happened.contains_key(fault)) || self.tales.expiry < FOREVER
    }
}

/// No row expires within a schedule.
pub const FOREVER: i64 = i64::MAX / 4;
