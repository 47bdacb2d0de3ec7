//! A disk in memory with one file, and with the troubles of a real one.
//!
//! What is written is seen at once, and kept once it is synced. Of what was not synced, a loss of power leaves whatever it likes.

use crate::store::torture::left::{Change, Left, to_usize};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use redb::StorageBackend;
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

/// What a file takes its room in.
const BLOCK: u64 = 4096;

/// No run of these tests comes near it: beyond, something goes round in circles.
const MOST_CALLS: u64 = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Read,
    Write,
    SetLen,
    Sync,
}

/// What goes wrong, with the n-th of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The n-th call of a kind fails, with this error of the system. Of a write, a part may land.
    Refuses(Call, i32),
    /// The power is gone with the n-th change: a write, a new length, a sync.
    LosesPower,
    /// The n-th sync is only said to be done, and so are as many behind it as the seed says, up to one less than these. The power
    /// is gone with the next.
    Forgets(u64),
    /// There is room for n blocks.
    IsFull,
}

/// How often a disk was asked for what.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calls {
    pub all: u64,
    pub reads: u64,
    pub writes: u64,
    pub set_lens: u64,
    pub syncs: u64,
    /// Blocks that the file has had at once.
    pub blocks: u64,
}

impl Calls {
    /// Of which `trouble` may strike one.
    pub fn of(&self, trouble: Trouble) -> u64 {
        match trouble {
            Trouble::Refuses(Call::Read, _) => self.reads,
            Trouble::Refuses(Call::Write, _) => self.writes,
            Trouble::Refuses(Call::SetLen, _) => self.set_lens,
            Trouble::Refuses(Call::Sync, _) | Trouble::Forgets(_) => self.syncs,
            Trouble::LosesPower => self.writes + self.set_lens + self.syncs,
            Trouble::IsFull => self.blocks,
        }
    }

    fn count(&mut self, call: Call) {
        self.all += 1;
        match call {
            Call::Read => self.reads += 1,
            Call::Write => self.writes += 1,
            Call::SetLen => self.set_lens += 1,
            Call::Sync => self.syncs += 1,
        }
        assert!(self.all < MOST_CALLS, "the disk is asked again and again");
    }
}

/// The disk. All clones are one.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// What the file holds for whoever reads it.
    seen: Vec<u8>,
    /// What it holds whatever happens.
    kept: Vec<u8>,
    /// What leads from the one to the other.
    unsynced: Vec<Change>,
    /// Which of its blocks have a place on the disk.
    blocks: BTreeSet<u64>,
    room: u64,
    trouble: Option<(Trouble, u64)>,
    calls: Calls,
    /// Syncs that are still to be forgotten.
    forgets: u64,
    powered: bool,
    struck: bool,
    /// Changes that were asked for after something was refused.
    changed_since: u64,
    /// Which process has the file open. What is left of earlier ones is not heard.
    life: u32,
    random: ChaCha8Rng,
}

impl Disk {
    /// An empty one. `seed` draws all that is left to chance.
    pub fn new(trouble: Option<(Trouble, u64)>, seed: u64) -> Self {
        let room = match trouble {
            Some((Trouble::IsFull, blocks)) => blocks,
            _ => u64::MAX,
        };
        Self(Arc::new(Mutex::new(State {
            seen: Vec::new(),
            kept: Vec::new(),
            unsynced: Vec::new(),
            blocks: BTreeSet::new(),
            room,
            trouble,
            calls: Calls::default(),
            forgets: 0,
            powered: true,
            struck: false,
            changed_since: 0,
            life: 0,
            random: ChaCha8Rng::seed_from_u64(seed),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The file, opened by a new process: the one before has ended.
    pub fn opened(&self) -> File {
        let mut state = self.state();
        state.life += 1;
        File { disk: self.clone(), life: state.life }
    }

    pub fn calls(&self) -> Calls {
        self.state().calls
    }

    /// Whether the trouble has come.
    pub fn struck(&self) -> bool {
        self.state().struck
    }

    /// Whether it has refused anything.
    pub fn refused(&self) -> bool {
        self.state().refused()
    }

    /// How many changes were asked for after something was refused.
    pub fn changed_since(&self) -> u64 {
        self.state().changed_since
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.state().seen.clone()
    }

    /// Ends whoever has the file open, and then begins anew with what is left, and without the trouble; but a disk that is full
    /// stays so.
    pub fn restart(&self, left: Left) {
        let state = &mut *self.state();
        if left != Left::All {
            state.kept = left.of(&state.kept, &state.unsynced, &mut state.random);
            state.seen.clone_from(&state.kept);
            state.unsynced.clear();
        }
        let len = state.seen.len() as u64;
        state.blocks.retain(|block| block * BLOCK < len);
        (state.trouble, state.forgets, state.powered, state.life) = (None, 0, true, state.life + 1);
    }

    /// Ends whoever has the file open.
    pub fn end_process(&self) {
        self.state().life += 1;
    }

    pub fn make_room(&self) {
        self.state().room = u64::MAX;
    }
}

impl State {
    fn refused(&self) -> bool {
        self.struck && matches!(self.trouble, Some((Trouble::Refuses(..) | Trouble::IsFull, _)))
    }

    /// Whether the trouble comes with this call.
    fn strikes(&self, call: Call) -> Option<Trouble> {
        let (trouble, at) = self.trouble?;
        let concerns = match trouble {
            Trouble::Refuses(what, _) => what == call,
            Trouble::LosesPower => call != Call::Read,
            Trouble::Forgets(_) => call == Call::Sync,
            Trouble::IsFull => false,
        };
        (concerns && self.calls.of(trouble) == at).then_some(trouble)
    }

    /// Admits a call, or refuses it.
    fn admit(&mut self, call: Call) -> io::Result<()> {
        if !self.powered {
            return Err(io::Error::other("the power is gone"));
        }
        self.calls.count(call);
        self.changed_since += u64::from(self.refused() && call != Call::Read);
        match self.strikes(call) {
            None => Ok(()),
            Some(Trouble::Refuses(_, errno)) => {
                self.struck = true;
                Err(io::Error::from_raw_os_error(errno))
            }
            Some(Trouble::LosesPower) => Err(self.lose_power()),
            Some(Trouble::Forgets(most)) => {
                self.struck = true;
                self.forgets = 1 + self.random.random_range(0..most);
                Ok(())
            }
            Some(Trouble::IsFull) => unreachable!("that is seen by whoever needs a block"),
        }
    }

    fn lose_power(&mut self) -> io::Error {
        (self.struck, self.powered) = (true, false);
        io::Error::other("the power is gone")
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.seen);
        self.unsynced.push(change);
    }

    /// Finds a place for each block of a write, and tells for how many of its bytes there is one.
    fn place(&mut self, at: u64, len: usize) -> usize {
        for block in at / BLOCK..(at + len as u64).div_ceil(BLOCK) {
            if self.blocks.contains(&block) {
                continue;
            }
            if self.blocks.len() as u64 >= self.room {
                self.struck = true;
                return to_usize((block * BLOCK).saturating_sub(at));
            }
            self.blocks.insert(block);
            self.calls.blocks = self.calls.blocks.max(self.blocks.len() as u64);
        }
        len
    }
}

/// The file of a [`Disk`], as one process has it open.
#[derive(Debug)]
pub struct File {
    disk: Disk,
    life: u32,
}

impl File {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.life == self.life { Ok(state) } else { Err(io::Error::other("the process has ended")) }
    }
}

impl StorageBackend for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.state()?;
        state.admit(Call::Read)?;
        let from = to_usize(offset);
        let found = state.seen.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state()?;
        let was_powered = state.powered;
        let admitted = state.admit(Call::SetLen);
        // What is on its way when the power goes may arrive.
        if admitted.is_ok() || was_powered && !state.powered {
            state.change(Change::SetLen(len));
            state.blocks.retain(|block| block * BLOCK < len);
        }
        admitted
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state()?;
        let to_forget = state.forgets;
        state.admit(Call::Sync)?;
        let state = &mut *state;
        match to_forget {
            0 if state.forgets == 0 => state.unsynced.drain(..).for_each(|change| change.apply(&mut state.kept)),
            // The first that is forgotten.
            0 => {}
            // All that were to be forgotten are.
            1 => return Err(state.lose_power()),
            more => state.forgets = more - 1,
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state()?;
        let was_powered = state.powered;
        let admitted = state.admit(Call::Write);
        let lands = match &admitted {
            Ok(()) => state.place(offset, data.len()),
            Err(_) if was_powered => state.random.random_range(0..=data.len()),
            Err(_) => 0,
        };
        if lands > 0 {
            state.change(Change::Write(offset, data[..lands].to_vec()));
        }
        admitted?;
        if lands < data.len() { Err(io::Error::from_raw_os_error(libc::ENOSPC)) } else { Ok(()) }
    }
}

/// A seed for each case of a test, drawn from one that is printed.
pub fn seeds(seed: u64) -> impl Iterator<Item = u64> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    std::iter::repeat_with(move || random.next_u64())
}
