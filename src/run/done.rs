//! `Done`: numbers of streams that need not be opened any more. They come almost in order, so stretches are kept, and not numbers.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Done {
    /// By their first numbers, the ends of stretches that do not touch. An end is not part of its stretch.
    stretches: BTreeMap<u64, u64>,
}

impl Done {
    /// The first number after the stretch that `n` lies in; `None` if it lies in none.
    pub fn end_of(&self, n: u64) -> Option<u64> {
        let (_, end) = self.stretches.range(..=n).next_back()?;
        (n < *end).then_some(*end)
    }

    pub fn contains(&self, n: u64) -> bool {
        self.end_of(n).is_some()
    }

    /// False if it is there already.
    pub fn insert(&mut self, n: u64) -> bool {
        if self.contains(n) {
            return false;
        }
        let before = self.stretches.range(..n).next_back().filter(|(_, end)| **end == n);
        let from = before.map_or(n, |(from, _)| *from);
        let end = self.stretches.remove(&(n + 1)).unwrap_or(n + 1);
        self.stretches.insert(from, end);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};
    use std::collections::BTreeSet;

    #[test]
    fn stretches_that_touch_are_one() {
        let mut done = Done::default();
        for n in [5, 7, 6, 0, 1, 9] {
            assert!(done.insert(n));
        }
        assert!(!done.insert(6));
        assert_eq!(done.stretches, BTreeMap::from([(0, 2), (5, 8), (9, 10)]));
        assert_eq!(
            [0, 1, 2, 5, 7, 8, 9, 10].map(|n| done.end_of(n)),
            [Some(2), Some(2), None, Some(8), Some(8), None, Some(10), None]
        );
    }

    #[test]
    fn it_holds_what_a_set_of_numbers_would() {
        let (mut done, mut set, mut random) = (Done::default(), BTreeSet::new(), ChaCha8Rng::seed_from_u64(7));
        for _ in 0..2000 {
            let n = u64::from(random.next_u32() % 1500);
            assert_eq!(done.insert(n), set.insert(n));
        }
        assert!((0..1501).all(|n| done.contains(n) == set.contains(&n)));
        assert!(done.stretches.len() < set.len());
    }
}
