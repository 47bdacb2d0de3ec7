//! Choices: drawn from a seed, or played again from a list.
//!
//! Every choice of a schedule goes through here, so the list of them is the schedule. Nothing goes wrong by a choice of 0, and none
//! does behind the end of the list: there everybody has a fair turn. So a schedule is made simpler by leaving choices out, and by making
//! them 0.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub struct Dice {
    from: From,
    list: Vec<u16>,
    /// Fair turns that were had.
    fair: usize,
}

enum From {
    Seed(Box<ChaCha8Rng>),
    /// The next of the list.
    List(usize),
    /// Nothing goes wrong any more.
    Fair,
}

impl Dice {
    pub fn drawn(seed: u64) -> Self {
        Self { from: From::Seed(Box::new(ChaCha8Rng::seed_from_u64(seed))), list: Vec::new(), fair: 0 }
    }

    pub fn played(list: Vec<u16>) -> Self {
        Self { from: From::List(0), list, fair: 0 }
    }

    /// From now on everybody has a fair turn.
    pub fn calm_down(&mut self) {
        if let From::List(next) = self.from {
            self.list.truncate(next);
        }
        self.from = From::Fair;
    }

    /// What was chosen before that.
    pub fn into_list(self) -> Vec<u16> {
        self.list
    }

    fn choose(&mut self, many: u16) -> Option<u16> {
        match &mut self.from {
            From::Seed(seed) => {
                let chosen = seed.random_range(0..many);
                self.list.push(chosen);
                Some(chosen)
            }
            From::List(next) => {
                let chosen = self.list.get(*next)?;
                *next += 1;
                Some(chosen % many)
            }
            From::Fair => None,
        }
    }

    /// One of `many`.
    pub fn below(&mut self, many: usize) -> usize {
        let most = u16::try_from(many.max(1)).expect("few enough to choose from");
        self.choose(most).map_or_else(|| self.fair_turn(many), usize::from)
    }

    /// Each of `many` has its turn, and no two choices go along with each other.
    fn fair_turn(&mut self, many: usize) -> usize {
        self.fair = self.fair.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.fair >> 33) % many.max(1)
    }

    /// Whether something goes wrong that does so many times in a thousand.
    pub fn is_bad(&mut self, per_mille: usize) -> bool {
        per_mille > 0 && self.choose(1000).is_some_and(|chosen| usize::from(chosen) >= 1000 - per_mille.min(1000))
    }
}
