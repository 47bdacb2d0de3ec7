//! Choices: drawn from a seed, or played again from a list.
//!
//! Every choice of a schedule goes through here, so the list of them is the schedule. 0 is always the calm one: nothing goes wrong,
//! and the first who may go on does. So a schedule is made simpler by leaving choices out, and by making them 0.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub enum Dice {
    Drawn { from: Box<ChaCha8Rng>, taken: Vec<u16> },
    Played { list: Vec<u16>, next: usize },
}

impl Dice {
    pub fn drawn(seed: u64) -> Self {
        Self::Drawn { from: Box::new(ChaCha8Rng::seed_from_u64(seed)), taken: Vec::new() }
    }

    /// Plays a list, and then zeros.
    pub fn played(list: Vec<u16>) -> Self {
        Self::Played { list, next: 0 }
    }

    /// What was chosen so far.
    pub fn into_list(self) -> Vec<u16> {
        match self {
            Self::Drawn { taken, .. } => taken,
            Self::Played { mut list, next } => {
                list.truncate(next);
                list
            }
        }
    }

    /// One of `many`.
    pub fn below(&mut self, many: usize) -> usize {
        let many = u16::try_from(many.max(1)).expect("few enough to choose from");
        let chosen = match self {
            Self::Drawn { from, taken } => {
                let chosen = from.random_range(0..many);
                taken.push(chosen);
                chosen
            }
            Self::Played { list, next } => {
                let chosen = list.get(*next).map_or(0, |chosen| chosen % many);
                *next += 1;
                chosen
            }
        };
        usize::from(chosen)
    }

    /// Whether something goes wrong that does so many times in a thousand.
    pub fn is_bad(&mut self, per_mille: usize) -> bool {
        per_mille > 0 && self.below(1000) >= 1000 - per_mille.min(1000)
    }
}
