//! One schedule: a broker, a sender, workers that are given duties, crash and start again, and whoever is given the next turn.

use super::archive::{self, MOST_MESSAGES};
use super::dice::Dice;
use super::disk::Disk;
use super::tales::{self, Tales, truth};
use super::turns::{Shared, Task, turn};
use super::worker::{Duty, Post, Process};
use super::world::{Broken, FOREVER, Fault, World};
use crate::application::Application;
use crate::caught::caught;
use crate::identity::accept::Loss;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Steps in which things go wrong.
const TROUBLED: u64 = 400;

/// Steps after that, by the end of which everything must be done.
const CALM: u64 = 60_000;

/// Milliseconds that one step takes at the most.
const STEP: usize = 40;

pub struct Schedule {
    dice: Dice,
    is_told: bool,
}

/// What became of a schedule.
pub struct Outcome {
    pub broken: Option<Broken>,
    pub digest: u64,
    pub list: Vec<u16>,
    pub told: Option<Vec<String>>,
    pub happened: BTreeMap<Fault, u64>,
    pub commits: u64,
    pub finals: u64,
    pub refused: u64,
    pub steps: u64,
}

struct Worker {
    post: Post,
    /// The process, and its archive; none while it is dead.
    tasks: Vec<Task>,
    /// A dead one starts again then, a paused one goes on.
    until: u64,
}

struct Running {
    world: Shared,
    workers: Vec<Worker>,
    sender: Task,
    sent: Rc<Cell<usize>>,
    batches: usize,
    tales: u8,
    /// Whether the operator waits to be asked before anything is accepted as lost.
    is_asked: bool,
}

impl Schedule {
    pub fn drawn(seed: u64) -> Self {
        Self { dice: Dice::drawn(seed), is_told: false }
    }

    pub fn played(list: Vec<u16>) -> Self {
        Self { dice: Dice::played(list), is_told: false }
    }

    /// Every step of it is told in words.
    pub fn told(self) -> Self {
        Self { is_told: true, ..self }
    }

    pub fn run(self) -> Outcome {
        let Self { mut dice, is_told } = self;
        // Some have many kinds of faults, and some a few.
        let many = dice.below(Fault::ALL.len() + 1);
        let enabled: BTreeSet<_> = (0..many).map(|_| Fault::ALL[dice.below(Fault::ALL.len())]).collect();
        let tales = 2 + dice.below(14);
        let (at_once, records) = (1 + dice.below(5), 1 + dice.below(3));
        let expiry = if dice.below(8) == 7 { 5_000_000_000 } else { FOREVER };
        let workers = 1 + dice.below(3);
        let tales = u8::try_from(tales).expect("a few");
        let batches = tales::batches(tales, u8::try_from(at_once).expect("a few"), records);
        let world = World::new(dice, enabled, Tales { expiry }, workers, is_told);
        let world = Rc::new(RefCell::new(world));
        let mut running = Running::new(world.clone(), workers, tales, batches);
        if let Err(panicked) = caught(|| running.run()) {
            world.borrow_mut().breaks("nothing panics", panicked);
        }
        drop(running);
        let world = Rc::into_inner(world).expect("nobody else has it").into_inner();
        let digest = world.digest();
        let World { broken, dice, told, happened, commits, finals, refused, step, .. } = world;
        Outcome { broken, digest, list: dice.into_list(), told, happened, commits, finals, refused, steps: step }
    }
}

impl Running {
    fn new(world: Shared, workers: usize, tales: u8, batches: Vec<Vec<u8>>) -> Self {
        let sent = Rc::new(Cell::new(0));
        let asleep_until = Rc::new(Cell::new(0));
        let many = batches.len();
        let sender = Task::new(send(world.clone(), batches, sent.clone(), asleep_until.clone()), asleep_until);
        let post = |id| Post {
            id,
            world: world.clone(),
            disk: Rc::new(RefCell::new(Disk::default())),
            duty: Rc::new(Cell::new(if id == 0 { Duty::Own { from: None } } else { Duty::Follow })),
            accepts: Rc::default(),
            refused: Rc::new(Cell::new(None)),
            asleep_until: Rc::default(),
            handed: Rc::default(),
            is_close: Rc::default(),
        };
        let worker = |id| Worker { post: post(id), tasks: Vec::new(), until: 0 };
        let mut workers: Vec<_> = (0..workers).map(worker).collect();
        workers.iter_mut().for_each(Worker::start);
        Self { world, workers, sender, sent, batches: many, tales, is_asked: false }
    }

    fn is_broken(&self) -> bool {
        self.world.borrow().broken.is_some()
    }

    fn run(&mut self) {
        while self.world.borrow().step < TROUBLED && !self.is_broken() {
            self.trouble();
            self.step();
        }
        self.calm_down();
        let end = self.world.borrow().step + CALM;
        while self.world.borrow().step < end && !self.is_broken() {
            if self.world.borrow().step.is_multiple_of(64) {
                self.mend();
                if self.is_done() {
                    return self.judge_the_end();
                }
            }
            self.step();
        }
        if !self.is_broken() {
            let world = &mut *self.world.borrow_mut();
            let positions: Vec<_> = self.workers.iter().map(|worker| worker.post.disk.borrow().position()).collect();
            let how = format!(
                "sent {} of {}, the log ends at {}, stores are at {positions:?}",
                self.sent.get(),
                self.batches,
                world.log.last
            );
            world.breaks("once nothing goes wrong any more, everything is folded", how);
        }
    }

    /// Somebody is given the next turn.
    fn step(&mut self) {
        let (mut ready, now) = (Vec::new(), self.world.borrow().now);
        let mut next = u64::MAX;
        for (id, worker) in self.workers.iter_mut().enumerate() {
            if worker.tasks.is_empty() && worker.until <= now {
                worker.start();
            }
            if worker.until > now {
                next = next.min(worker.until);
                continue;
            }
            for (n, task) in worker.tasks.iter().enumerate() {
                match task.asleep_until.get() {
                    until if until <= now => ready.push(Some((id, n))),
                    until => next = next.min(until),
                }
            }
        }
        if self.sent.get() < self.batches {
            match self.sender.asleep_until.get() {
                until if until <= now => ready.push(None),
                until => next = next.min(until),
            }
        }
        let mut world = self.world.borrow_mut();
        world.step += 1;
        if ready.is_empty() {
            world.now = next.min(now + 10_000).max(now + 1);
            return;
        }
        world.now += world.dice.below(STEP) as u64;
        let who = ready[world.dice.below(ready.len())];
        drop(world);
        match who {
            None => drop(self.sender.turn()),
            Some((id, n)) => {
                if self.workers[id].tasks[n].turn() {
                    self.workers[id].tasks.clear();
                }
            }
        }
    }

    /// What may go wrong with processes and disks, and what the group decides.
    fn trouble(&mut self) {
        let mut world = self.world.borrow_mut();
        world.trouble();
        let id = world.dice.below(self.workers.len());
        let worker = &mut self.workers[id];
        if world.goes_wrong(Fault::Disconnect, 10) {
            world.links[id].connects += 1;
        }
        if world.goes_wrong(Fault::Pause, 10) {
            worker.until = world.now + 100 * (1 + world.dice.below(400) as u64);
        }
        let dies = world.goes_wrong(Fault::Crash, 15);
        let loses = world.goes_wrong(Fault::DiskLost, 4);
        let forgets = world.goes_wrong(Fault::DiskForgets, 4);
        if dies || loses || forgets {
            worker.tasks.clear();
            worker.until = world.now + 10 * world.dice.below(500) as u64;
            world.links[id].told.clear();
            world.tell(format_args!("worker {id} dies"));
        }
        if loses {
            *worker.post.disk.borrow_mut() = Disk::default();
        }
        if forgets {
            // The last snapshot of it stands for a store as it was some commits before.
            let before =
                world.bucket.iter().rev().find(|snapshot| !snapshot.is_damaged).map(|found| found.disk.clone());
            *worker.post.disk.borrow_mut() = before.unwrap_or_default();
        }
        let choice = world.dice.below(100);
        let is_shared = world.goes_wrong(Fault::TwoOwners, 20);
        drop(world);
        self.assign(choice, is_shared);
        self.take_what_is_handed();
    }

    /// The group: hands over, takes over from the dead, or believes that somebody is.
    fn assign(&mut self, choice: usize, is_shared: bool) {
        let owner = self.workers.iter().position(|worker| matches!(worker.post.duty.get(), Duty::Own { .. }));
        let other = (0..self.workers.len()).find(|id| Some(*id) != owner);
        let Some(other) = other else { return };
        match (owner, choice) {
            (_, _) if is_shared => self.workers[other].post.duty.set(Duty::Own { from: None }),
            (Some(owner), 97..) if self.workers[other].post.is_close.get() => {
                self.workers[owner].post.handed.set(None);
                self.workers[owner].post.duty.set(Duty::HandOver);
            }
            // A dead one is missed.
            (Some(owner), 94..97) if self.workers[owner].tasks.is_empty() => {
                self.workers[owner].post.duty.set(Duty::Follow);
                self.workers[other].post.duty.set(Duty::Own { from: None });
            }
            _ => {}
        }
    }

    /// What one has handed over, another goes on with.
    fn take_what_is_handed(&mut self) {
        let handing = self.workers.iter().position(|worker| worker.post.duty.get() == Duty::HandOver);
        let Some(handing) = handing else { return };
        let is_dead = self.workers[handing].tasks.is_empty();
        let from = match self.workers[handing].post.handed.take() {
            Some(from) => from,
            None if is_dead => None,
            None => return,
        };
        self.workers[handing].post.duty.set(Duty::Follow);
        let taker = (0..self.workers.len()).rev().find(|id| *id != handing).unwrap_or(handing);
        self.workers[taker].post.duty.set(Duty::Own { from });
    }

    fn calm_down(&mut self) {
        {
            let world = &mut *self.world.borrow_mut();
            world.calm = true;
            world.dice.calm_down();
            world.trouble();
        }
        for worker in &mut self.workers {
            worker.until = worker.until.min(self.world.borrow().now + 1_000);
        }
        self.is_asked = self.sent.get().is_multiple_of(4);
    }

    /// Everything that the operator and the group do once things are calm: one owns, and what was lost is accepted.
    fn mend(&mut self) {
        self.take_what_is_handed();
        let mut owners = self.workers.iter().filter(|worker| matches!(worker.post.duty.get(), Duty::Own { .. }));
        let has_owner = owners.next().is_some();
        owners.for_each(|worker| worker.post.duty.set(Duty::Follow));
        if !has_owner && !self.workers.iter().any(|worker| worker.post.duty.get() == Duty::HandOver) {
            self.workers[0].post.duty.set(Duty::Own { from: None });
        }
        for worker in &mut self.workers {
            if let Some(loss) = worker.post.refused.take() {
                worker.post.accepts.borrow_mut().push(loss);
                worker.tasks.clear();
            }
            if !self.is_asked {
                *worker.post.accepts.borrow_mut() = vec![Loss::Diverged, Loss::Truncated, Loss::Hole, Loss::Replaced];
            }
        }
    }

    /// Whether everything was sent, and the owner has committed all of it.
    fn is_done(&self) -> bool {
        let world = self.world.borrow();
        let is_owner = |worker: &&Worker| matches!(worker.post.duty.get(), Duty::Own { .. });
        let owners: Vec<_> = self.workers.iter().filter(is_owner).collect();
        self.sent.get() == self.batches
            && !owners.is_empty()
            && owners.iter().all(|worker| {
                let disk = worker.post.disk.borrow();
                let is_same = disk
                    .checkpoint
                    .is_some_and(|at| world.log.mark(at.position).is_none_or(|mark| mark.time == at.message_time));
                is_same && disk.position() == world.log.last && self.are_out(&world, &disk)
            })
    }

    /// Whether what a store remembers to have put out is there.
    fn are_out(&self, world: &World, disk: &Disk) -> bool {
        let now = disk.checkpoint.map_or(0, |at| at.log_time);
        let rows = disk.rows.iter().filter(|(_, row)| !world.tales.is_expired(row, now));
        let mut ends = rows.filter_map(|(tale, row)| world.tales.was_put_out(tale, row));
        ends.all(|(end, _)| world.outputs.find(&end.tale.to_string()).is_some())
    }

    fn judge_the_end(&mut self) {
        let world = &mut *self.world.borrow_mut();
        // What an operator has accepted as lost may be what is missing.
        if world.has_lost_log() || world.refused > 0 {
            return;
        }
        let missing = (0..u64::from(self.tales)).find(|tale| world.outputs.find(&tale.to_string()).is_none());
        if let Some(tale) = missing {
            world.breaks(
                "every tale that is told to its end gets its final",
                format!("tale {tale}, of {}", truth(tale)),
            );
        }
    }
}

impl Worker {
    fn start(&mut self) {
        self.post.asleep_until = Rc::default();
        self.post.refused.set(None);
        self.post.is_close.set(false);
        let beside = Post { asleep_until: Rc::default(), ..self.post.clone() };
        let archive_asleep = beside.asleep_until.clone();
        self.tasks = vec![
            Task::new(Process::new(self.post.clone()).run(), self.post.asleep_until.clone()),
            Task::new(archive::keep(beside), archive_asleep),
        ];
    }
}

/// Publishes batches, one at a time: the same again until it is acknowledged.
async fn send(world: Shared, batches: Vec<Vec<u8>>, sent: Rc<Cell<usize>>, asleep_until: Rc<Cell<u64>>) {
    for (n, batch) in batches.iter().enumerate() {
        loop {
            turn().await;
            let world = &mut *world.borrow_mut();
            let is_full = world.log.last + 1 - world.log.first >= MOST_MESSAGES;
            if is_full {
                asleep_until.set(world.now + 200);
                continue;
            }
            if world.goes_wrong(Fault::Junk, 20) {
                // Nothing of what comes with it is folded.
                let (at, junk) = (world.stamp(), [&[9, 0, 9], &batch[..]].concat());
                world.log.store(at, String::new(), junk.into());
            }
            if n > 0 && world.goes_wrong(Fault::ComesAgain, 30) {
                let (at, which) = (world.stamp(), world.dice.below(n));
                world.log.store(at, String::new(), batches[which].clone().into());
            }
            let is_lost = world.goes_wrong(Fault::AckLost, 50);
            if !is_lost || world.dice.below(2) == 1 {
                let at = world.stamp();
                let position = world.log.store(at, String::new(), batch.clone().into());
                world.tell(format_args!("sent {n} as {position}"));
            }
            if !is_lost {
                break;
            }
        }
        sent.set(n + 1);
    }
}
