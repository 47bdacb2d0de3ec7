//! `RejectedBatch`: what of a batch could not be folded, and why.

use crate::checkpoint::Position;
use bytes::Bytes;
use std::fmt;

/// The batch is no list of records.
pub const UNDECODABLE: &str = "undecodable";

/// The key of a record belongs to another partition.
pub const MISROUTED: &str = "misrouted";

/// Neighbouring records of one batch, rejected for one reason. Indexes count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectedRange {
    pub first: usize,
    pub last: usize,
    pub reason: &'static str,
}

impl fmt::Display for RejectedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{} {}", self.first, self.reason)
        } else {
            write!(f, "{}-{} {}", self.first, self.last, self.reason)
        }
    }
}

/// The rejected records of a batch, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejections {
    ranges: Vec<RejectedRange>,
}

impl Rejections {
    /// All of the first `count` records.
    ///
    /// # Panics
    /// If there is none.
    pub fn all(count: usize, reason: &'static str) -> Self {
        assert!(count > 0, "what is rejected holds something");
        Self { ranges: vec![RejectedRange { first: 0, last: count - 1, reason }] }
    }

    pub fn add(&mut self, index: usize, reason: &'static str) {
        match self.ranges.last_mut() {
            Some(range) if range.reason == reason && range.last + 1 == index => range.last = index,
            _ => self.ranges.push(RejectedRange { first: index, last: index, reason }),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub fn ranges(&self) -> &[RejectedRange] {
        &self.ranges
    }

    /// How many records were rejected.
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|range| (range.last - range.first + 1) as u64).sum()
    }

    /// Each reason once, by its first appearance, as in `gap,broken`.
    pub fn reasons(&self) -> String {
        let mut seen: Vec<&str> = Vec::new();
        for range in &self.ranges {
            if !seen.contains(&range.reason) {
                seen.push(range.reason);
            }
        }
        seen.join(",")
    }

    /// The ranges as in `0-3 gap; 7 unknown`, in at most `limit` bytes: what does not fit is counted at the end.
    pub fn describe(&self, limit: usize) -> String {
        const ROOM_FOR_THE_REST: usize = "; and 18446744073709551615 more".len();
        let mut text = String::new();
        for (described, range) in self.ranges.iter().enumerate() {
            let separator = if text.is_empty() { "" } else { "; " };
            let next = format!("{separator}{range}");
            if text.len() + next.len() + ROOM_FOR_THE_REST > limit {
                let rest: usize = self.ranges[described..].iter().map(|r| r.last - r.first + 1).sum();
                return format!("{text}{separator}and {rest} more");
            }
            text.push_str(&next);
        }
        text
    }
}

/// A batch that held something rejected: one message of the rejects stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedBatch {
    pub position: Position,
    /// The whole batch as it came.
    pub payload: Bytes,
    pub rejections: Rejections,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_reason_are_one_range() {
        let mut rejections = Rejections::default();
        for index in [0, 1, 2] {
            rejections.add(index, "gap");
        }
        rejections.add(3, "broken");
        rejections.add(7, "gap");
        assert_eq!(rejections.describe(4096), "0-2 gap; 3 broken; 7 gap");
        assert_eq!(rejections.count(), 5);
        assert_eq!(rejections.reasons(), "gap,broken");
    }

    #[test]
    fn what_does_not_fit_the_limit_is_counted() {
        let mut rejections = Rejections::default();
        for index in 0..5_000 {
            rejections.add(index * 2, "unknown");
        }
        let text = rejections.describe(4096);
        assert!(text.len() <= 4096, "{}", text.len());
        let described = text.matches("unknown").count();
        assert!(text.ends_with(&format!("; and {} more", 5_000 - described)), "{text}");
    }
}
