//! Which life of a worker a process is: what tells a restarted worker from its own zombie.

use crate::nats::names::Names;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// Keys of a durable's metadata.
const INCARNATION: &str = "incarnation";
const NONCE: &str = "nonce";

/// Which life of a worker a durable belongs to: later ones are higher, and the nonce tells apart what started in one
/// instant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Incarnation {
    number: u64,
    nonce: String,
}

impl From<(u64, String)> for Incarnation {
    fn from((number, nonce): (u64, String)) -> Self {
        Self { number, nonce }
    }
}

impl Incarnation {
    pub fn of(names: &Names, metadata: &HashMap<String, String>) -> Option<Self> {
        let number = metadata.get(&names.key(INCARNATION))?.parse().ok()?;
        Some(Self { number, nonce: metadata.get(&names.key(NONCE))?.clone() })
    }

    /// As others are told of it.
    pub fn told(&self) -> (u64, String) {
        (self.number, self.nonce.clone())
    }

    pub fn metadata(&self, names: &Names) -> HashMap<String, String> {
        HashMap::from([(names.key(INCARNATION), self.number.to_string()), (names.key(NONCE), self.nonce.clone())])
    }
}

/// The life that this process is, for all the logs that it reads.
///
/// Two processes of one name that start together meet on each log in another order. Because a number that one of them
/// raises counts for all of its logs, one comes out above the other everywhere.
#[derive(Debug)]
pub struct Life {
    number: AtomicU64,
    nonce: String,
}

impl Default for Life {
    fn default() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX / 2);
        Self { number: AtomicU64::new(now), nonce: hex::encode(rand::random::<[u8; 8]>()) }
    }
}

impl Life {
    /// Rises above another life, whatever the clock says: a starting process never gives way.
    pub fn rise_above(&self, other: &Incarnation) {
        self.number.fetch_max(other.number.saturating_add(1), Ordering::Relaxed);
    }

    pub fn incarnation(&self) -> Incarnation {
        Incarnation { number: self.number.load(Ordering::Relaxed), nonce: self.nonce.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Letters;

    #[test]
    fn a_starting_process_is_above_whatever_it_finds() {
        let far_ahead = Incarnation { number: u64::MAX / 2, nonce: "f".into() };
        let life = Life::default();
        assert!(life.incarnation() < far_ahead);
        life.rise_above(&far_ahead);
        assert!(life.incarnation() > far_ahead);
        let names = Names::of::<Letters>("");
        assert_eq!(Incarnation::of(&names, &life.incarnation().metadata(&names)), Some(life.incarnation()));
        assert_eq!(Incarnation::of(&names, &HashMap::new()), None);
    }
}
