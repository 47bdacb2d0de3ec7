//! The protocol under schedules at random: everything that decides, driven step by step against a broker, disks and processes that
//! misbehave as the real ones do.
//!
//! | | |
//! | --- | --- |
//! | [`schedule`] | one schedule, from a seed or from a list of choices: who goes on next, and what goes wrong |
//! | [`world`], [`answers`] | time, what goes wrong with the broker, what it answers, and what must hold |
//! | [`broker`], [`disk`] | what is stored, and where |
//! | [`worker`], [`opening`], [`session`], [`work`], [`follower`], [`archive`] | the steps of a process around the machine's own [`Table`](crate::table::Table), [`Line`](crate::commit::line::Line), [`Inspection`](crate::commit::inspection::Inspection), [`Doubt`](crate::identity::doubt::Doubt), [`Goals`](crate::commit::goals::Goals) and [`Shelf`](crate::archive::retention::Shelf) |
//! | [`tales`] | what is folded, and what must come of it |
//! | [`dice`], [`shrink`] | choices, and fewer of them |
//!
//! `just simulate` runs a million schedules. One that fails is told with its seed, and made as short as it gets: with
//! `SIMULATE_SEED=<seed> just simulate` it is played again, step by step.

mod answers;
mod archive;
mod broker;
mod dice;
mod disk;
mod follower;
mod group;
mod opening;
mod schedule;
mod session;
mod shrink;
mod tales;
mod turns;
mod work;
mod worker;
mod world;

use schedule::{Outcome, Schedule};
use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;
use world::Fault;

/// What some schedules came to.
#[derive(Default)]
struct Sums {
    commits: u64,
    finals: u64,
    refused: u64,
    steps: u64,
    /// How many schedules had each fault.
    had: BTreeMap<Fault, u64>,
}

/// Runs schedules on all processors, until one fails: its seed, and what broke.
fn run(seeds: std::ops::Range<u64>) -> (Sums, Option<(u64, Outcome)>) {
    let (next, is_over) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let (sums, failed) = (Mutex::new(Sums::default()), Mutex::new(None::<(u64, Outcome)>));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, NonZero::get) {
            scope.spawn(|| {
                let mut own = Sums::default();
                while !is_over.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let outcome = Schedule::drawn(seed).run();
                    own.commits += outcome.commits;
                    own.finals += outcome.finals;
                    own.refused += outcome.refused;
                    own.steps += outcome.steps;
                    for fault in outcome.happened.keys() {
                        *own.had.entry(*fault).or_default() += 1;
                    }
                    if outcome.broken.is_some() {
                        is_over.store(true, Ordering::Relaxed);
                        let failed = &mut *failed.lock().unwrap();
                        if failed.as_ref().is_none_or(|(before, _)| seed < *before) {
                            *failed = Some((seed, outcome));
                        }
                    }
                }
                let sums = &mut *sums.lock().unwrap();
                sums.commits += own.commits;
                sums.finals += own.finals;
                sums.refused += own.refused;
                sums.steps += own.steps;
                for (fault, had) in own.had {
                    *sums.had.entry(fault).or_default() += had;
                }
            });
        }
    });
    (sums.into_inner().unwrap(), failed.into_inner().unwrap())
}

/// Runs so many schedules, and tells what they had; the first that fails is made short, and told step by step.
fn simulate(first: u64, many: u64) {
    let began = Instant::now();
    let (sums, failed) = run(first..first + many);
    if let Some((seed, outcome)) = failed {
        let broken = outcome.broken.clone().expect("it has failed");
        let short = shrink::shorter(seed, outcome);
        let told = short.told.unwrap_or_default().join("\n");
        panic!("SIMULATE_SEED={seed}: {}: {}\n{told}", broken.what, broken.how);
    }
    let took = began.elapsed();
    let Sums { commits, finals, refused, steps, had } = sums;
    println!(
        "{many} schedules from seed {first} in {took:.1?}: {steps} steps, {commits} commits, {finals} finals, {refused} refusals"
    );
    for (fault, had) in &had {
        println!("{:>8} had {fault:?}", had);
    }
    let missed: Vec<_> = Fault::ALL.iter().filter(|fault| !had.contains_key(fault)).collect();
    assert!(missed.is_empty(), "nothing was seen of {missed:?}");
    assert!(commits > many && finals > many, "something was done");
}

/// As many as there is time for in all tests.
#[test]
fn whatever_goes_wrong_in_whatever_order_every_promise_holds() {
    let many = std::env::var("SIMULATE").ok().map_or(100_000, |many| many.parse().expect("a number of schedules"));
    simulate(0, many);
}

#[test]
#[ignore = "a million schedules take minutes"]
fn a_million_schedules() {
    match std::env::var("SIMULATE_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().expect("SIMULATE_SEED is a number");
            let outcome = Schedule::drawn(seed).told().run();
            println!("{}", outcome.told.unwrap_or_default().join("\n"));
            assert_eq!(outcome.broken, None);
        }
        Err(_) => simulate(1_000_000, 1_000_000),
    }
}

#[test]
fn a_seed_is_the_same_schedule_each_time_and_so_is_its_list_of_choices() {
    for seed in 0..300 {
        let (one, two) = (Schedule::drawn(seed).run(), Schedule::drawn(seed).run());
        assert_eq!((one.digest, &one.broken), (two.digest, &two.broken), "{seed}");
        let played = Schedule::played(one.list).run();
        assert_eq!((played.digest, played.broken), (one.digest, one.broken), "{seed}");
    }
}
