//! Losses that the operator accepts, and what is recorded of them.

use crate::checkpoint::Position;
use crate::time::UnixNanos;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Something that the operator has accepted, or that could be mended only in part: the store is no longer the fold of its
/// log alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// When, by this machine's clock.
    pub at: UnixNanos,
    /// What was found.
    pub verdict: String,
    /// Where the store stood, and where it goes on.
    pub from: Position,
    pub to: Position,
}

/// What of a log the operator may accept as lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    Diverged,
    Truncated,
    Hole,
    Replaced,
}

impl FromStr for Loss {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "diverged" => Ok(Self::Diverged),
            "truncated" => Ok(Self::Truncated),
            "hole" => Ok(Self::Hole),
            "replaced" => Ok(Self::Replaced),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Diverged => "diverged",
            Self::Truncated => "truncated",
            Self::Hole => "hole",
            Self::Replaced => "replaced",
        })
    }
}

/// A loss that the operator accepts, in one partition: `replaced:3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acceptance {
    pub loss: Loss,
    pub partition: u32,
}

impl FromStr for Acceptance {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let parse = || {
            let (loss, partition) = text.split_once(':')?;
            Some(Self { loss: loss.parse().ok()?, partition: partition.parse().ok()? })
        };
        parse().ok_or("diverged, truncated, hole or replaced, a colon, and a partition, as in replaced:3")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_is_named_by_loss_and_partition() {
        assert_eq!("replaced:3".parse(), Ok(Acceptance { loss: Loss::Replaced, partition: 3 }));
        for text in ["", "replaced", "replaced:x", "lost:3"] {
            assert!(text.parse::<Acceptance>().is_err(), "{text}");
        }
    }
}
