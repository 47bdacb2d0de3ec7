//! The real store over a disk that fails, tears and forgets.
//!
//! The disk keeps what was synced, and what was written since, sector by sector. A fault comes at the n-th call of redb, and with it
//! the end of the process; at a power failure any of the sectors that were not synced may have arrived, or not. Then the store is
//! opened again over what is left.
//!
//! | after | the store is |
//! | --- | --- |
//! | a call that fails, a full disk, a crash, a power failure | as the last commit that was acknowledged has left it, or the one under way |
//! | syncs that are forgotten, and a power failure later | as some commit has left it, or found damaged: never anything else |

use super::{KeyedRow, Owner, Store, StoreError};
use crate::checkpoint::Checkpoint;
use crate::identity::accept::Accepted;
use crate::sample::{Text, Texts};
use crate::transaction::Transaction;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use redb::StorageBackend;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

const SECTOR: usize = 512;
const CACHE: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// One call fails, and the process ends in order.
    Fails,
    /// From then on there is no room for more.
    Full,
    /// The process is killed: what it has written is there.
    Killed,
    /// The power fails.
    PowerFails,
    /// Syncs are told to be done, and are not; the power fails some calls later.
    SyncForgotten,
}

const FAULTS: [Fault; 5] = [Fault::Fails, Fault::Full, Fault::Killed, Fault::PowerFails, Fault::SyncForgotten];

/// Calls between the first sync that is forgotten and the failure that shows it.
const LATER: usize = 40;

#[derive(Debug, Default)]
struct State {
    synced: Vec<u8>,
    written: Vec<u8>,
    /// Sectors that differ, or may.
    unsynced: BTreeSet<usize>,
    calls: usize,
    fault: Option<(usize, Fault)>,
    has_happened: bool,
    is_dead: bool,
}

#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<State>>);

impl Disk {
    fn over(image: Vec<u8>, fault: Option<(usize, Fault)>) -> Self {
        Self(Arc::new(Mutex::new(State { synced: image.clone(), written: image, fault, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// What is left of it, with some of the sectors that were not synced.
    fn left(&self, fault: Fault, dice: &mut ChaCha8Rng) -> Vec<u8> {
        let state = self.state();
        if !matches!(fault, Fault::PowerFails | Fault::SyncForgotten) {
            return state.written.clone();
        }
        // Its length may have arrived, or not.
        let mut left = state.synced.clone();
        if dice.random_bool(0.5) {
            left.resize(state.written.len(), 0);
        }
        for sector in &state.unsynced {
            let (from, to) = (sector * SECTOR, (sector + 1) * SECTOR);
            let to = to.min(left.len()).min(state.written.len());
            if from < to && dice.random_bool(0.5) {
                left[from..to].copy_from_slice(&state.written[from..to]);
            }
        }
        left
    }
}

impl State {
    /// A call comes: whether it fails.
    fn called(&mut self, grows: bool) -> io::Result<()> {
        self.calls += 1;
        let dead = || Err(io::Error::other("the disk is gone"));
        if self.is_dead {
            return dead();
        }
        let Some((at, fault)) = self.fault else { return Ok(()) };
        let is_now = self.calls == at;
        match fault {
            Fault::Fails if is_now => {
                self.has_happened = true;
                Err(io::Error::other("the disk gives no answer"))
            }
            Fault::Full if self.calls >= at && grows => {
                self.has_happened = true;
                Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device"))
            }
            Fault::Killed | Fault::PowerFails if is_now => {
                (self.has_happened, self.is_dead) = (true, true);
                dead()
            }
            Fault::SyncForgotten if self.has_happened && self.calls >= at + LATER => {
                self.is_dead = true;
                dead()
            }
            _ => Ok(()),
        }
    }

    fn touch(&mut self, from: usize, to: usize) {
        self.unsynced.extend(from / SECTOR..to.div_ceil(SECTOR));
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().written.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.state();
        state.called(false)?;
        let from = usize::try_from(offset).unwrap();
        let found = state.written.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut state, len) = (self.state(), usize::try_from(len).unwrap());
        let before = state.written.len();
        state.called(len > before)?;
        state.written.resize(len, 0);
        state.touch(before.min(len), before.max(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        state.called(false)?;
        if let Some((at, Fault::SyncForgotten)) = state.fault
            && state.calls >= at
        {
            if !state.has_happened {
                // From then on the failure is counted.
                (state.has_happened, state.fault) = (true, Some((state.calls, Fault::SyncForgotten)));
            }
            return Ok(());
        }
        state.synced = state.written.clone();
        state.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        state.called(false)?;
        let from = usize::try_from(offset).unwrap();
        let to = from + data.len();
        if to > state.written.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        state.written[from..to].copy_from_slice(data);
        state.touch(from, to);
        Ok(())
    }
}

/// All that a store holds.
type Content = (Option<Checkpoint>, BTreeMap<[u8; 16], Vec<u8>>, Vec<Accepted>);

fn open(disk: &Disk) -> Result<Store<Texts>, StoreError> {
    let owner = Owner { log: "chunks-0".to_owned(), partition: 0, partitions: 1 };
    Store::over("chunks-0.redb".into(), || Ok(disk.clone()), &owner, CACHE)
}

fn content(store: &Store<Texts>) -> Result<Content, StoreError> {
    let rows = store.rows_after(None, usize::MAX)?.0.into_iter().map(|(key, row)| (key, row.0)).collect();
    Ok((store.checkpoint()?, rows, store.accepted()?))
}

fn row(key: u8, seed: u64) -> KeyedRow<Texts> {
    // Some of them take more than a page.
    let len = if key.is_multiple_of(7) { 5_000 } else { 40 };
    ([key; 16], Text::of(seed, len))
}

fn at(position: u64) -> Checkpoint {
    Checkpoint { position, message_time: 7, ..Checkpoint::start_of(1) }
}

fn transaction(number: u64) -> Transaction<Texts> {
    let keys = (number as u8 * 11..).take(12);
    let rows = keys.map(|key| row(key, number)).collect();
    let collected = vec![[(number as u8).wrapping_mul(11).wrapping_sub(5); 16]];
    let (producers, tally) = (Vec::new(), Default::default());
    Transaction { number, rows, collected, producers, checkpoint: at(number), tally }
}

type Step = Box<dyn Fn(&Store<Texts>) -> Result<(), StoreError>>;

/// What a store goes through, one step after the other.
fn steps() -> Vec<Step> {
    let accepted = Accepted { at: 1, verdict: "lost".to_owned(), from: 4, to: 9 };
    let restored = || (0..200).map(|key| Ok::<_, StoreError>(row(key, 99)));
    let mut steps: Vec<Step> = vec![Box::new(|store| store.begin(&at(0)))];
    for number in 1..=4 {
        steps.push(Box::new(move |store| store.commit(&transaction(number))));
    }
    steps.push(Box::new(move |store| store.accept(&at(9), accepted.clone())));
    steps.push(Box::new(move |store| store.restore(&at(50), &[], &[], restored(), |_| {})));
    steps.push(Box::new(|store| store.commit(&transaction(5))));
    steps
}

/// How a store has come out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Came {
    /// With the last commit that was acknowledged.
    Whole,
    /// With the one that was under way.
    Further,
    /// With an earlier one.
    Earlier,
    Damaged,
    /// The fault came too late to have any effect.
    Unharmed,
}

/// What the store holds before the first step, and after each.
fn contents() -> (Vec<Content>, usize) {
    let disk = Disk::default();
    let store = open(&disk).unwrap();
    let mut contents = vec![content(&store).unwrap()];
    for step in steps() {
        step(&store).unwrap();
        contents.push(content(&store).unwrap());
    }
    drop(store);
    let calls = disk.state().calls;
    (contents, calls)
}

/// One fault at the n-th call.
fn torture(fault: Fault, n: usize, contents: &[Content]) -> Came {
    let mut dice = ChaCha8Rng::seed_from_u64(n as u64);
    let disk = Disk::over(Vec::new(), Some((n, fault)));
    let mut acknowledged = None;
    if let Ok(store) = open(&disk) {
        acknowledged = Some(0);
        for (done, step) in steps().into_iter().enumerate() {
            match step(&store) {
                Ok(()) => acknowledged = Some(done + 1),
                Err(error) => {
                    let said = error.to_string();
                    assert!(said.contains("chunks-0.redb") && !said.contains('\n'), "{said}");
                    break;
                }
            }
        }
    }
    let has_happened = disk.state().has_happened;
    let left = disk.left(fault, &mut dice);
    let found = open(&Disk::over(left, None)).and_then(|store| content(&store));
    let last = acknowledged.unwrap_or(0);
    let came = match found {
        Ok(found) if contents.get(last) == Some(&found) => Came::Whole,
        Ok(found) if contents.get(last + 1) == Some(&found) => Came::Further,
        Ok(found) if contents.contains(&found) => Came::Earlier,
        Ok((at, rows, _)) => panic!("{fault:?} at {n}: {} rows at {at:?} are of no commit", rows.len()),
        Err(StoreError::Damaged { .. }) => Came::Damaged,
        Err(error) => panic!("{fault:?} at {n}: {error}"),
    };
    let may = match fault {
        Fault::SyncForgotten => true,
        _ => matches!(came, Came::Whole | Came::Further),
    };
    // A file that nothing was ever committed to is made anew.
    assert!(may || acknowledged.is_none(), "{fault:?} at {n}: {came:?} after {last} steps");
    if has_happened { came } else { Came::Unharmed }
}

/// Every so many calls have each fault once.
fn torture_all(every: usize) -> BTreeMap<(Fault, Came), usize> {
    let (contents, calls) = contents();
    let mut all = BTreeMap::new();
    for fault in FAULTS {
        for n in (1..=calls).step_by(every) {
            *all.entry((fault, torture(fault, n, &contents))).or_default() += 1;
        }
    }
    all
}

fn tell(all: &BTreeMap<(Fault, Came), usize>) {
    for ((fault, came), times) in all {
        println!("{times:>6} times {fault:?}: {came:?}");
    }
    for fault in FAULTS {
        assert!(all.keys().any(|(of, came)| *of == fault && *came != Came::Unharmed), "{fault:?} had effect");
    }
}

#[test]
fn whatever_a_disk_does_the_store_is_what_some_commit_has_left_or_is_found_damaged() {
    tell(&torture_all(23));
}

#[test]
#[ignore = "every call takes minutes"]
fn every_call_of_every_kind() {
    tell(&torture_all(1));
}
