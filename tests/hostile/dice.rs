//! Choices drawn from a seed, and what is said when a test fails under them.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub struct Dice {
    seed: u64,
    drawn: ChaCha8Rng,
    /// Messages so far, and the last of them.
    messages: u64,
    last: Vec<u8>,
}

impl Dice {
    /// The seed of a test, unless the environment names another.
    pub fn of(seed: u64) -> Self {
        let seed = named("HOSTILE_SEED").unwrap_or(seed);
        Self { seed, drawn: ChaCha8Rng::seed_from_u64(seed), messages: 0, last: Vec::new() }
    }

    pub fn any(&mut self) -> u64 {
        self.drawn.next_u64()
    }

    pub fn byte(&mut self) -> u8 {
        self.any() as u8
    }

    /// One of so many, counted from 0.
    pub fn below(&mut self, many: usize) -> usize {
        (self.any() % many.max(1) as u64) as usize
    }

    pub fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    pub fn of_these<T: Copy>(&mut self, these: &[T]) -> T {
        these[self.below(these.len())]
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.drawn.fill_bytes(&mut bytes);
        bytes
    }

    /// Takes note of a message, so that a failure can say which it was.
    pub fn is_sent(&mut self, message: &[u8]) {
        self.messages += 1;
        self.last.clear();
        self.last.extend_from_slice(message);
    }
}

impl Drop for Dice {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (seed, messages, last) = (self.seed, self.messages, hex::encode(&self.last));
            eprintln!("HOSTILE_SEED={seed} fails at message {messages}: {last}");
        }
    }
}

/// So many messages, or as many times more as the environment says.
pub fn messages(many: u64) -> u64 {
    many * named("HOSTILE_TIMES").unwrap_or(1)
}

fn named(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}
