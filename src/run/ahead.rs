//! `Ahead`: finals that their leader has shown before they were delivered, so that their delivery is no news.

use jetfold::MessageMark;
use jetfold::UnixNanos;
use std::collections::BTreeMap;

/// Finals that are remembered: more than can be awaited at once.
const MOST: usize = 1 << 20;

#[derive(Debug, Default)]
pub struct Ahead {
    /// The place in `sums` of the last final that was delivered.
    delivered: u64,
    /// Places and times of those beyond it.
    shown: BTreeMap<u64, UnixNanos>,
}

impl Ahead {
    /// The leader has shown a final.
    pub fn show(&mut self, mark: MessageMark) {
        // Deliveries come in order: one that should have come before the last never does.
        if mark.position > self.delivered && self.shown.len() < MOST {
            self.shown.insert(mark.position, mark.time);
        }
    }

    /// A final was delivered; says whether the leader had shown it.
    pub fn deliver(&mut self, mark: MessageMark) -> bool {
        let is_known = self.shown.get(&mark.position) == Some(&mark.time);
        self.delivered = mark.position;
        while let Some(first) = self.shown.first_entry().filter(|first| *first.key() <= mark.position) {
            first.remove();
        }
        is_known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(position: u64, time: UnixNanos) -> MessageMark {
        MessageMark { position, time }
    }

    #[test]
    fn what_was_shown_is_known_once_by_place_and_time_together() {
        let mut ahead = Ahead::default();
        for position in [2, 5, 7] {
            ahead.show(mark(position, 10));
        }
        for (delivered, is_known) in [
            (mark(1, 10), false),
            (mark(2, 10), true),
            (mark(2, 10), false),
            // Another message at the place: `sums` was rolled back, and has grown again.
            (mark(5, 11), false),
            (mark(8, 10), false),
            (mark(7, 10), false),
        ] {
            assert_eq!(ahead.deliver(delivered), is_known, "{delivered:?}");
        }
        ahead.show(mark(6, 10));
        assert!(ahead.shown.is_empty(), "everything before the last delivery is forgotten");
    }
}
