//! What a member of the group says of itself, once a second and whenever it changes. Travels as MessagePack.

use crate::checkpoint::Position;
use serde::{Deserialize, Serialize};

/// Bytes of what tells two processes apart that have started in one instant, at the most.
const MOST_NONCE_BYTES: usize = 64;

/// One member, as it says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Which life of the worker it is: see `Incarnation`.
    pub incarnation: (u64, String),
    /// Whether somebody has named its partitions: then it takes no others, and leaves none.
    pub pinned: bool,
    /// Whether it takes no partition any more, because it is told to stop.
    pub leaving: bool,
    /// Followers that it is willing to be for partitions of others: 0 or 1.
    pub standby: u32,
    /// What it folds.
    pub owns: Vec<Owned>,
    /// What it follows.
    pub follows: Vec<Followed>,
    /// What it has let go of, each with the position that it has committed: for as long as somebody may still have to know.
    pub handed: Vec<Handed>,
}

/// A partition that a member folds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    pub partition: u32,
    /// Whose claim counts, if two members fold it: the higher one's. Whoever takes a partition takes a higher term than it has
    /// heard of.
    pub term: u64,
    /// What is committed.
    pub position: Position,
}

/// A partition that a member follows: it folds behind the owner, and publishes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Followed {
    pub partition: u32,
    /// What is committed here.
    pub position: Position,
    /// Whether it is so close that it can take over at any time.
    pub close: bool,
}

/// A partition that a member has let go of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed {
    pub partition: u32,
    pub position: Position,
    /// Milliseconds since it has stopped pulling.
    pub stopped_ms_ago: u64,
}

impl Member {
    pub fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec(self).expect("a member has a MessagePack form")
    }

    /// What is no member comes from somebody else, or from another version: it is nobody.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        rmp_serde::from_slice(bytes).ok().filter(|member: &Self| member.incarnation.1.len() <= MOST_NONCE_BYTES)
    }

    /// Its claim to a partition.
    pub fn claim(&self, partition: u32) -> Option<&Owned> {
        self.owns.iter().find(|owned| owned.partition == partition)
    }

    pub fn follow(&self, partition: u32) -> Option<&Followed> {
        self.follows.iter().find(|followed| followed.partition == partition)
    }

    /// Whether others are to know at once that this is what it is, after what it has said: positions alone are not worth a word.
    pub fn is_news(&self, said: &Self) -> bool {
        let partitions = |member: &Self| {
            let owns: Vec<_> = member.owns.iter().map(|owned| (owned.partition, owned.term)).collect();
            let follows: Vec<_> = member.follows.iter().map(|followed| (followed.partition, followed.close)).collect();
            let handed: Vec<_> = member.handed.iter().map(|handed| (handed.partition, handed.position)).collect();
            (owns, follows, handed, member.leaving)
        };
        partitions(said) != partitions(self)
    }

    /// Whether it takes partitions.
    pub fn takes(&self) -> bool {
        !self.pinned && !self.leaving
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_comes_back_as_it_was_said_and_nothing_else_is_taken_for_one() {
        let member = Member {
            incarnation: (7, "a".into()),
            standby: 1,
            owns: vec![Owned { partition: 3, term: 9, position: 40 }],
            follows: vec![Followed { partition: 4, position: 41, close: true }],
            handed: vec![Handed { partition: 5, position: 42, stopped_ms_ago: 12 }],
            ..Member::default()
        };
        assert_eq!(Member::decode(&member.encode()), Some(member.clone()));
        for bytes in [&b""[..], b"{}", b"\x90", &member.encode()[..9]] {
            assert_eq!(Member::decode(bytes), None, "{bytes:?}");
        }
        let long = Member { incarnation: (7, "a".repeat(MOST_NONCE_BYTES + 1)), ..member };
        assert_eq!(Member::decode(&long.encode()), None, "it is remembered");
    }
}
