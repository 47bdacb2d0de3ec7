//! What a loss of power leaves of a file.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// What a disk writes whole, or not at all.
const SECTOR: usize = 512;

/// What is left of changes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// All: the process has ended, and the machine goes on.
    All,
    Nothing,
    /// The first so many, and a part of the next.
    Beginning,
    /// Any sectors, each as any of the changes has left it, and the length likewise.
    AnySectors,
}

impl Left {
    pub const EACH: [Self; 4] = [Self::All, Self::Nothing, Self::Beginning, Self::AnySectors];

    /// What becomes of a file of which all this is kept for certain, and these changes are not.
    pub fn of(self, kept: &[u8], unsynced: &[Change], random: &mut ChaCha8Rng) -> Vec<u8> {
        match self {
            Self::All => applied(kept, unsynced),
            Self::Nothing => kept.to_vec(),
            Self::Beginning => beginning(kept, unsynced, random),
            Self::AnySectors => any_sectors(kept, unsynced, random),
        }
    }
}

fn applied(kept: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut file = kept.to_vec();
    changes.iter().for_each(|change| change.apply(&mut file));
    file
}

fn beginning(kept: &[u8], unsynced: &[Change], random: &mut ChaCha8Rng) -> Vec<u8> {
    let whole = random.random_range(0..=unsynced.len());
    let mut file = applied(kept, &unsynced[..whole]);
    if let Some(Change::Write(at, data)) = unsynced.get(whole) {
        let part = random.random_range(0..data.len());
        Change::Write(*at, data[..part].to_vec()).apply(&mut file);
    }
    file
}

fn any_sectors(kept: &[u8], unsynced: &[Change], random: &mut ChaCha8Rng) -> Vec<u8> {
    let lands = [0.1, 0.5, 0.9][random.random_range(0..3)];
    let (mut file, mut after, mut len) = (kept.to_vec(), kept.to_vec(), kept.len());
    for change in unsynced {
        change.apply(&mut after);
        let Change::Write(at, data) = change else {
            len = if random.random_bool(lands) { after.len() } else { len };
            continue;
        };
        for sector in to_usize(*at) / SECTOR..(to_usize(*at) + data.len()).div_ceil(SECTOR) {
            let place = sector * SECTOR..after.len().min((sector + 1) * SECTOR);
            if random.random_bool(lands) {
                file.resize(file.len().max(place.end), 0);
                file[place.clone()].copy_from_slice(&after[place]);
            }
        }
    }
    file.resize(len, 0);
    file
}

/// A change of a file. A write may be behind its end.
#[derive(Clone, Debug)]
pub enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

impl Change {
    pub fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Write(at, data) => {
                let (from, to) = (to_usize(*at), to_usize(*at) + data.len());
                if file.len() < to {
                    file.resize(to, 0);
                }
                file[from..to].copy_from_slice(data);
            }
            Self::SetLen(len) => file.resize(to_usize(*len), 0),
        }
    }
}

pub fn to_usize(n: u64) -> usize {
    usize::try_from(n).expect("files of tests are small")
}
