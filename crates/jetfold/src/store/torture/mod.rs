//! A store over a disk that fails, loses power, forgets or is full, with every call that the store makes of it.
//!
//! Whatever happens, the store that is opened afterwards holds what one of the steps has left, whole: the last that was
//! acknowledged, or the one that was under way. Otherwise it is damaged and says so.

mod disk;
mod left;
mod ordeal;
mod table;
mod work;

use disk::{Call, Trouble, seeds};
use left::Left;
use ordeal::{End, Ordeal, Promise};
use std::collections::BTreeSet;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;
use table::Table;

/// What may go wrong, and what a store is worth afterwards.
const TROUBLES: [(&str, Trouble, &[Left], Promise); 12] = [
    ("a read fails", Trouble::Refuses(Call::Read, libc::EIO), &Left::EACH, Promise::Whole),
    ("a write fails", Trouble::Refuses(Call::Write, libc::EIO), &Left::EACH, Promise::Whole),
    ("a write finds no room", Trouble::Refuses(Call::Write, libc::ENOSPC), &Left::EACH, Promise::Whole),
    ("the file can't grow", Trouble::Refuses(Call::SetLen, libc::ENOSPC), &Left::EACH, Promise::Whole),
    ("a sync fails", Trouble::Refuses(Call::Sync, libc::EIO), &Left::EACH, Promise::Whole),
    ("the disk is full", Trouble::IsFull, &Left::EACH, Promise::Whole),
    ("power fails, nothing unsynced lands", Trouble::LosesPower, &[Left::Nothing], Promise::Whole),
    ("power fails, its beginning lands", Trouble::LosesPower, &[Left::Beginning], Promise::Whole),
    ("power fails, any sectors land", Trouble::LosesPower, &[Left::AnySectors], Promise::Whole),
    ("a sync is forgotten", Trouble::Forgets(1), &[Left::Nothing, Left::Beginning], Promise::Earlier),
    ("syncs are forgotten", Trouble::Forgets(20), &[Left::Nothing, Left::Beginning], Promise::Earlier),
    ("syncs are forgotten, any sectors land", Trouble::Forgets(20), &[Left::AnySectors], Promise::Nothing),
];

/// Bytes of redb's cache: next to none, so that pages are written while a transaction is under way; some; enough for all.
const CACHES: [usize; 3] = [0, 128 << 10, 4 << 20];

/// Far longer than any takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// Puts a store through the n-th of each trouble for each n that `chosen` picks of how many there are.
fn torture(seed: u64, chosen: impl Fn(u64) -> Vec<u64>) {
    let mut ordeals = Vec::new();
    let mut seeds = seeds(seed);
    for (name, trouble, lefts, promise) in TROUBLES {
        for cache in CACHES {
            for n in chosen(Ordeal::most(trouble, cache)) {
                let seed = seeds.next().expect("endless");
                let left = lefts[(seed % lefts.len() as u64) as usize];
                ordeals.push((name, Ordeal { trouble, n, left, seed, cache, promise }));
            }
        }
    }
    let (mut table, mut wrong) = (Table::new(TROUBLES.map(|(name, ..)| name)), Vec::new());
    undergo(&ordeals, |(name, ordeal), result| match result {
        Ok(end) => table.count(name, end),
        Err(what) => wrong.push(format!("{name}: {what}: {ordeal:?}")),
    });
    println!("seed {seed}\n{table}");
    assert!(wrong.is_empty(), "{} went wrong, of which some are\n{}", wrong.len(), some_of(&wrong));
}

/// Undergoes all of them, on as many threads as there are processors, and tells how each has ended.
fn undergo(ordeals: &[(&'static str, Ordeal)], mut told: impl FnMut(&(&'static str, Ordeal), Result<End, String>)) {
    let (all, next) = (Arc::<[_]>::from(ordeals), Arc::new(AtomicUsize::new(0)));
    let (tell, ended) = mpsc::channel();
    // They are not joined, because a store that hangs would never say so.
    for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
        let (all, next, tell) = (all.clone(), next.clone(), tell.clone());
        thread::spawn(move || {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let Some((_, ordeal)) = all.get(n) else { return };
                if tell.send((n, ordeal.undergo())).is_err() {
                    return;
                }
            }
        });
    }
    let mut missing: BTreeSet<_> = (0..ordeals.len()).collect();
    while let Some(first) = missing.first() {
        let (n, result) = ended.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("it hangs: {:?}", ordeals[*first]));
        missing.remove(&n);
        told(&ordeals[n], result);
    }
}

/// Enough to find the cause of each.
fn some_of(wrong: &[String]) -> String {
    wrong.iter().step_by(wrong.len().div_ceil(40)).map(String::as_str).collect::<Vec<_>>().join("\n")
}

#[test]
fn whatever_the_disk_does_a_store_is_whole_afterwards_or_says_that_it_is_damaged() {
    let seed = 20_261_126;
    // The first ones are those in which the file is made.
    torture(seed, |most| {
        [1, 2].into_iter().chain(seeds(seed ^ most).take(4).map(|random| 1 + random % most)).collect()
    });
}

#[test]
#[ignore = "minutes: every call of every kind, `just torture`"]
fn whichever_call_the_disk_fails_a_store_is_whole_afterwards_or_says_that_it_is_damaged() {
    let seed = std::env::var("TORTURE_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
    // Where there are few, chance has several tries at each.
    torture(seed, |most| (0..=500 / most).flat_map(|_| 1..=most).collect());
}
