//! What goes wrong again and again is said once in a while, with how often it did.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// How long after a complaint the next one of its kind is held back.
const PAUSE: Duration = Duration::from_secs(10);

/// Kinds of trouble that are told apart. A process that meets more takes the rest of them for one kind.
const MOST_KINDS: usize = 64;

/// Lets a complaint through now and then, so that what goes wrong a thousand times a second is said once.
///
/// The parts of a process that meet one and the same trouble share one, or a server that dies is told of by each of them.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<Complaints>);

#[derive(Debug, Default)]
struct Complaints {
    said: Option<Instant>,
    /// How many there were since.
    held_back: u64,
}

impl Complaints {
    /// How many are to be told of, if there are any and it is time.
    fn due(&mut self, now: Instant) -> Option<u64> {
        let is_time = self.said.is_none_or(|said| now - said >= PAUSE);
        let is_due = is_time && self.held_back > 0;
        is_due.then(|| {
            self.said = Some(now);
            std::mem::take(&mut self.held_back)
        })
    }

    fn add(&mut self, more: u64, now: Instant) -> Option<u64> {
        self.held_back += more;
        self.due(now)
    }
}

impl Throttle {
    pub const fn new() -> Self {
        Self(Mutex::new(Complaints { said: None, held_back: 0 }))
    }

    pub fn is_due(&self) -> bool {
        self.count().is_some()
    }

    /// Counts one more. If it is time to say so: how many there were since the last was said, this one included.
    pub fn count(&self) -> Option<u64> {
        self.add(1)
    }

    /// The same for several more.
    pub fn add(&self, more: u64) -> Option<u64> {
        self.lock().add(more, Instant::now())
    }

    /// How many were held back, if it is time to say so.
    pub fn held_back(&self) -> Option<u64> {
        self.lock().due(Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Complaints> {
        self.0.lock().expect("nothing panics while it holds this")
    }
}

/// A throttle for trouble that has many causes, each of which is to be said.
///
/// Causes whose words differ in their numbers alone are of one kind: a thousand positions, logs or ports are one trouble.
#[derive(Debug, Default)]
pub struct ThrottleByCause(Mutex<BTreeMap<String, Complaints>>);

impl ThrottleByCause {
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// Counts one more of this cause. If it is time to say so: how many of its kind there were since the last was said,
    /// this one included.
    pub fn count(&self, cause: &str) -> Option<u64> {
        self.add(cause, 1)
    }

    /// The same for several more.
    pub fn add(&self, cause: &str, more: u64) -> Option<u64> {
        self.add_at(cause, more, Instant::now())
    }

    fn add_at(&self, cause: &str, more: u64, now: Instant) -> Option<u64> {
        let mut kinds = self.0.lock().expect("nothing panics while it holds this");
        let mut kind: String = cause.chars().filter(|c| !c.is_ascii_digit()).collect();
        if kinds.len() >= MOST_KINDS && !kinds.contains_key(&kind) {
            kind = String::new();
        }
        kinds.entry(kind).or_default().add(more, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_complaint_is_let_through_and_then_one_in_ten_seconds_with_how_many_there_were() {
        let (mut complaints, began) = (Complaints::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(complaints.due(at(0)), None, "nothing to say");
        let said = [0, 1, 2, 9, 10, 11, 19, 40].map(|seconds| complaints.add(1, at(seconds)));
        assert_eq!(said, [Some(1), None, None, None, Some(4), None, None, Some(3)]);
        assert_eq!((complaints.add(1, at(41)), complaints.due(at(49)), complaints.due(at(50))), (None, None, Some(1)));
        assert_eq!(complaints.due(at(99)), None, "it is said once");
    }

    #[test]
    fn causes_are_told_apart_by_their_words_and_not_by_their_numbers() {
        let (throttle, now) = (ThrottleByCause::new(), Instant::now());
        for (cause, said) in [
            ("position 7 came where 5 was next", Some(1)),
            ("position 9 came where 8 was next", None),
            ("the connection was made anew", Some(1)),
            ("the connection was made anew", None),
        ] {
            assert_eq!(throttle.add_at(cause, 1, now), said, "{cause}");
        }
        assert_eq!(throttle.add_at("position 12 came where 11 was next", 1, now + PAUSE), Some(2));
    }

    #[test]
    fn there_is_a_bound_to_the_kinds_that_are_told_apart() {
        let (throttle, now) = (ThrottleByCause::new(), Instant::now());
        let said = (0..1000).filter(|n| throttle.add_at(&"x".repeat(n + 1), 1, now).is_some()).count();
        assert_eq!(said, MOST_KINDS + 1);
    }
}
