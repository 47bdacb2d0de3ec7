//! What an operator says of a worker in a word: its partitions, and what it does on a violation.

use crate::nats::topology::MOST_PARTITIONS;
use crate::values::{parsed, serde_as_text};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Which partitions a worker folds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionSet {
    /// Its share: workers divide the partitions among themselves.
    Auto,
    /// All of them, whatever others do.
    All,
    /// These, whatever others do.
    Some(BTreeSet<u32>),
}

impl FromStr for PartitionSet {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str = "auto, all, or a list of partitions such as 0-3,6";
        match text {
            "auto" => return Ok(Self::Auto),
            "all" => return Ok(Self::All),
            _ => {}
        }
        let mut set = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.trim().parse::<u32>().ok().filter(|n| *n < MOST_PARTITIONS).ok_or(EXPECTED);
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(EXPECTED);
            }
            set.extend(first..=last);
        }
        Ok(Self::Some(set))
    }
}

impl fmt::Display for PartitionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = match self {
            Self::Auto => return f.write_str("auto"),
            Self::All => return f.write_str("all"),
            Self::Some(set) => set,
        };
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for n in set {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == *n => *last = *n,
                _ => ranges.push((*n, *n)),
            }
        }
        let text: Vec<_> = ranges
            .into_iter()
            .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
            .collect();
        f.write_str(&text.join(","))
    }
}

/// What to do on proven loss, or on an output that contradicts one already published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnViolation {
    Reject,
    Halt,
}

impl FromStr for OnViolation {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "reject" => Ok(Self::Reject),
            "halt" => Ok(Self::Halt),
            _ => Err("reject or halt"),
        }
    }
}

impl fmt::Display for OnViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reject => "reject",
            Self::Halt => "halt",
        })
    }
}

serde_as_text!(PartitionSet, OnViolation);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_lists_are_read_and_written() {
        let set: PartitionSet = "0-3,6".parse().unwrap();
        assert_eq!(set, PartitionSet::Some(BTreeSet::from([0, 1, 2, 3, 6])));
        assert_eq!(set.to_string(), "0-3,6");
        for (text, set) in [("auto", PartitionSet::Auto), ("all", PartitionSet::All)] {
            assert_eq!((text.parse(), set.to_string()), (Ok(set.clone()), text.to_owned()));
        }
        for text in ["", "3-1", "a", "1,,2", "0-99999999"] {
            assert!(text.parse::<PartitionSet>().is_err(), "{text}");
        }
    }
}
