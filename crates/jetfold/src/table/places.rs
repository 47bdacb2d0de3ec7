//! `Places`: values by key, each at a place of its own in one dense list.
//!
//! Keys stand in the index, not beside the values. So whether a key is known is found out in a small part of the memory,
//! and a value is fetched when its place is known, well before it is needed. A map that keeps keys with the values waits for
//! the values' memory twice.

// Keys of one producer may differ in a few bits. The fast variant mixes them once, and with unlucky seeds they meet in the same slots.
use foldhash::quality::RandomState;
use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::ops::{Index, IndexMut};

/// Values by key. Places count from 0, and stay what they are until [`Places::retain`].
pub struct Places<K, T> {
    index: HashMap<K, u32, RandomState>,
    values: Vec<T>,
}

impl<K, T> Default for Places<K, T> {
    fn default() -> Self {
        Self { index: HashMap::default(), values: Vec::new() }
    }
}

impl<K: Eq + Hash, T> Places<K, T> {
    /// Bytes that the index takes for each value: key and place. What a growing table keeps in reserve comes on top, and
    /// so does what a key has elsewhere.
    pub const INDEX_BYTES: usize = size_of::<(K, u32)>() + 1;

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn place_of<Q: ?Sized + Eq + Hash>(&self, key: &Q) -> Option<usize>
    where
        K: Borrow<Q>,
    {
        self.index.get(key).map(|place| *place as usize)
    }

    /// Puts in the value of a key that has none.
    ///
    /// # Panics
    /// With more than 2^32 values, which no memory holds.
    pub fn insert(&mut self, key: K, value: T) -> usize {
        let place = self.values.len();
        let before = self.index.insert(key, place.try_into().expect("fewer than 2^32 values"));
        debug_assert_eq!(before, None, "a key has one place");
        self.values.push(value);
        place
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut T> {
        self.place_of(key).map(|place| &mut self.values[place])
    }

    /// Drops all values but those to keep. The others move up, so that places change.
    pub fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        let mut kept = 0;
        let mut moved = Vec::with_capacity(self.values.len());
        self.values.retain(|value| {
            let keeps = keep(value);
            moved.push(keeps.then_some(kept));
            kept += u32::from(keeps);
            keeps
        });
        self.index.retain(|_, place| match moved[*place as usize] {
            Some(now) => {
                *place = now;
                true
            }
            None => false,
        });
        // Slots that were dropped count as used until the table is made anew, and a table that is used up so grows for
        // good, although it holds no more than before.
        self.index.shrink_to_fit();
        // One batch of the smallest records may have made room for a hundred times as many as are held.
        if self.values.capacity() / 4 > self.values.len() {
            self.values.shrink_to(2 * self.values.len());
        }
    }
}

impl<K, T> Index<usize> for Places<K, T> {
    type Output = T;

    fn index(&self, place: usize) -> &T {
        &self.values[place]
    }
}

impl<K, T> IndexMut<usize> for Places<K, T> {
    fn index_mut(&mut self, place: usize) -> &mut T {
        &mut self.values[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::BuildHasher;

    #[test]
    fn values_are_found_by_key_before_and_after_others_are_dropped() {
        let id = |n: u32| <[u8; 16]>::try_from([n.to_be_bytes(); 4].concat()).unwrap();
        let mut places = Places::default();
        for n in 0..1000 {
            assert_eq!(places.insert(id(n), n), n as usize);
        }
        let before = places.index.capacity();
        places.retain(|n| n % 3 == 1);
        assert_eq!(places.len(), 333);
        assert!(places.index.capacity() < before);
        places.insert(id(1000), 1000);
        for n in 0..1100 {
            let found = places.place_of(&id(n)).map(|place| places[place]);
            assert_eq!(found, (n % 3 == 1 && n < 1000 || n == 1000).then_some(n));
        }
        *places.get_mut(&id(1000)).unwrap() += 1;
        assert_eq!(places[333], 1001);
    }

    #[test]
    fn keys_that_are_chosen_to_meet_share_slots_no_more_often_than_any_others() {
        const KEYS: usize = 1 << 13;
        let spread = |n: u128| n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let same = spread(77);
        let (low, high) = (u128::from(u64::MAX), !u128::from(u64::MAX));
        let counted = |of: fn(u128) -> u128| (0..KEYS as u128).map(of).collect();
        let mut all: Vec<(&str, Vec<u128>)> = vec![
            ("counted up", counted(|n| n)),
            ("counted up by 2^32", counted(|n| n << 32)),
            ("counted up by 2^64", counted(|n| n << 64)),
            ("counted up in the first bytes of all", counted(|n| n << 112)),
            ("both halves the same", counted(|n| n << 64 | n)),
            ("each half the other's complement", counted(|n| (!n & u128::from(u64::MAX)) << 64 | n)),
        ];
        all.push(("the same first half", (0..KEYS as u128).map(|n| same & high | spread(n) & low).collect()));
        all.push(("the same second half", (0..KEYS as u128).map(|n| same & low | spread(n) & high).collect()));
        let two_bits = (0..128).flat_map(|a| (0..a).map(move |b| same ^ 1 << a ^ 1 << b));
        all.push(("two bits of one key turned", two_bits.take(KEYS).collect()));
        let of_one_partition = (0..)
            .map(|n| spread(n).to_be_bytes())
            .filter(|key| crate::key::partition_of_token(hex::encode(key).as_bytes(), 16) == 3);
        all.push(("of one partition", of_one_partition.take(KEYS).map(u128::from_be_bytes).collect()));
        for (what, keys) in all {
            for _ in 0..8 {
                // A table has a mixer of its own, and chooses the slot by the last bits of what comes out of it.
                let places = Places::<u128, ()>::default();
                let mut slots: Vec<usize> =
                    keys.iter().map(|key| places.index.hasher().hash_one(key) as usize % KEYS).collect();
                slots.sort_unstable();
                let meetings: usize =
                    slots.chunk_by(|one, other| one == other).map(|these| these.len() * (these.len() - 1) / 2).sum();
                // By chance it is half as many as there are keys, give or take 64.
                assert!(meetings < KEYS * 5 / 8, "{what}: {meetings} meetings of {} keys", keys.len());
            }
        }
    }

    #[test]
    fn no_two_tables_mix_alike_so_that_nobody_can_choose_keys_beforehand() {
        let mixed = || Places::<u128, ()>::default().index.hasher().hash_one(7u128);
        let seen: std::collections::HashSet<u64> = (0..64).map(|_| mixed()).collect();
        assert_eq!(seen.len(), 64);
    }
}
