//! `Roster`: who is there, as one member has heard it, and what that member is to do about it.
//!
//! | it | and | does |
//! | --- | --- | --- |
//! | folds a partition | another claims it with a higher term | lets go |
//! | folds a partition | it is to be another's, who follows it and is close | hands it over |
//! | follows a partition | it is to be its own, and nobody claims it | takes it |
//! | follows a partition | it is to be another's, and it is no standby | lets go |
//! | neither | it is to be its own, and nobody claims it | takes it, cold |
//! | neither | it is to be its own and another folds it, or it is the standby | follows it |
//!
//! Silence is counted only while this member is heard itself. A process that was paused, or cut off, has heard nobody for a while:
//! that says something of itself, and nothing of the others. So its clock stands still, and it keeps what it has.

use crate::checkpoint::Position;
use crate::group::assignment::{Members, assign};
use crate::group::member::{Handed, Member};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How often a member says that it is there.
pub const BEAT: Duration = Duration::from_secs(1);

/// The most that one look at the clock counts: whoever looks this seldom was paused.
const LONGEST_LOOK: Duration = Duration::from_millis(500);

/// Partitions that a member takes over at once. Each follower folds as much as the owner does.
const MOST_TAKEN_AT_ONCE: usize = 8;

/// Of so many partitions one more is handed over at a time: one after the other, each pause is as short as it can be, but
/// whoever is told to stop has seconds for all.
const HANDED_OF: usize = 16;

/// Members that are heard of at once, at the most: whoever may write to the bucket can make up as many as it likes.
const MOST_MEMBERS: usize = 1024;

/// What there is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// To fold a partition, under this term.
    Own { partition: u32, term: u64, since: Cause },
    /// To fold it behind its owner, and to publish nothing.
    Follow(u32),
    /// To stop folding or following it.
    LetGo(u32),
    /// To stop folding it, since another is to go on.
    HandOver { partition: u32, to: String },
}

/// Why a partition is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nobody was heard of who folds it.
    Free,
    /// Its owner has let go of it.
    HandedOver { from: String, handed: Option<Handed> },
    /// Its owner has left, and said so.
    Left { from: String },
    /// Its owner is silent.
    Silent { from: String, for_ms: u64 },
}

/// Who folded a partition last.
#[derive(Clone, Debug)]
struct Last {
    name: String,
    term: u64,
    end: End,
}

#[derive(Clone, Debug)]
enum End {
    Claims,
    LetGo(Option<Handed>),
    Left,
    Silent(u64),
}

#[derive(Clone, Debug)]
struct Heard {
    member: Member,
    at: Duration,
}

#[derive(Debug)]
pub struct Roster {
    me: String,
    partitions: u32,
    /// Whoever is silent for so long is gone.
    patience: Duration,
    others: BTreeMap<String, Heard>,
    last: BTreeMap<u32, Last>,
    /// How long this member has listened.
    attended: Duration,
}

impl Roster {
    /// Of the member `me`, which has heard nobody yet.
    pub fn new(me: String, partitions: u32, patience: Duration) -> Self {
        Self { me, partitions, patience, others: BTreeMap::new(), last: BTreeMap::new(), attended: Duration::ZERO }
    }

    /// Time passes. `is_heard`: what this member says of itself arrives. Returns who is gone.
    pub fn attend(&mut self, elapsed: Duration, is_heard: bool) -> Vec<String> {
        if !is_heard && !crate::planted!("who-is-deaf-counts-silence") {
            return Vec::new();
        }
        self.attended += elapsed.min(LONGEST_LOOK);
        let is_silent = |heard: &Heard| self.attended.saturating_sub(heard.at) > self.patience;
        let silent: Vec<_> =
            self.others.iter().filter(|(_, heard)| is_silent(heard)).map(|(name, _)| name.clone()).collect();
        for name in &silent {
            let heard = self.others.remove(name).expect("it was just found");
            let for_ms = u64::try_from(self.attended.saturating_sub(heard.at).as_millis()).unwrap_or(u64::MAX);
            self.ends(name, || End::Silent(for_ms));
        }
        silent
    }

    /// Another member has said what it is.
    pub fn heard(&mut self, name: &str, member: Member) {
        if !self.is_credible(name, &member) {
            return;
        }
        for owned in member.owns.iter().filter(|owned| owned.partition < self.partitions) {
            let claims = Last { name: name.to_owned(), term: owned.term, end: End::Claims };
            match self.last.get_mut(&owned.partition) {
                Some(last)
                    if last.name != name && last.term > owned.term && !crate::planted!("a-lower-claim-counts") => {}
                Some(last) => *last = claims,
                None => _ = self.last.insert(owned.partition, claims),
            }
        }
        for (partition, last) in &mut self.last {
            if last.name == name
                && member.claim(*partition).is_none()
                && !matches!(last.end, End::Left | End::Silent(_))
            {
                let handed = member.handed.iter().find(|handed| handed.partition == *partition);
                if handed.is_some() || matches!(last.end, End::Claims) {
                    last.end = End::LetGo(handed.copied());
                }
            }
        }
        self.others.insert(name.to_owned(), Heard { member, at: self.attended });
    }

    /// Whether there is room for what a member says: it can't hold more partitions than there are.
    fn is_credible(&self, name: &str, member: &Member) -> bool {
        let most = [member.owns.len(), member.follows.len(), member.handed.len()].into_iter().max().unwrap_or(0);
        let is_room = self.others.len() < MOST_MEMBERS || self.others.contains_key(name);
        is_room && most <= self.partitions as usize
    }

    /// What is remembered: members, and partitions that somebody has claimed.
    pub fn remembered(&self) -> (usize, usize) {
        (self.others.len(), self.last.len())
    }

    /// Another member has left, and said so.
    pub fn left(&mut self, name: &str) {
        if self.others.remove(name).is_some() {
            self.ends(name, || End::Left);
        }
    }

    fn ends(&mut self, name: &str, end: impl Fn() -> End) {
        for last in self.last.values_mut().filter(|last| last.name == name && matches!(last.end, End::Claims)) {
            last.end = end();
        }
    }

    /// The partitions that other members follow.
    pub fn followed(&self) -> BTreeSet<u32> {
        let follows = self.others.values().flat_map(|heard| &heard.member.follows);
        follows.map(|followed| followed.partition).collect()
    }

    /// Where the owner of a partition has stopped, if it has handed it over.
    pub fn handed(&self, partition: u32) -> Option<Position> {
        match self.last.get(&partition)?.end {
            End::LetGo(handed) => handed.map(|handed| handed.position),
            _ => None,
        }
    }

    /// Whether somebody is there who may take over from this member.
    pub fn has_takers(&self) -> bool {
        self.others.values().any(|heard| heard.member.takes())
    }

    /// What this member, as it is, is to do. Of the partitions in `busy` it is doing something already.
    pub fn decide(&self, me: &Member, busy: &BTreeSet<u32>) -> Vec<Deed> {
        if me.pinned {
            return Vec::new();
        }
        let mut members: Members =
            self.others.iter().map(|(name, heard)| (name.clone(), heard.member.clone())).collect();
        members.insert(self.me.clone(), me.clone());
        let assignment = assign(&members, self.partitions);
        let mut taking =
            me.follows.iter().filter(|followed| self.is_to_own(&assignment.owners, followed.partition)).count();
        let mut handing = me.owns.iter().filter(|owned| busy.contains(&owned.partition)).count();
        let most_handed = 1 + me.owns.len() / HANDED_OF;
        let owns: BTreeSet<u32> = me.owns.iter().map(|owned| owned.partition).collect();
        let follows: BTreeSet<u32> = me.follows.iter().map(|followed| followed.partition).collect();
        let mut deeds = Vec::new();
        for partition in (0..self.partitions).filter(|partition| !busy.contains(partition)) {
            let place = partition as usize;
            let is_to_own = self.is_to_own(&assignment.owners, partition);
            let is_standby = assignment.standbys[place] == Some(self.me.as_str());
            let owner = assignment.claims[place];
            let is_of_another = owner.is_some_and(|owner| owner != self.me);
            if owns.contains(&partition) {
                if is_of_another {
                    deeds.push(Deed::LetGo(partition));
                } else if let Some(to) = assignment.owners[place].filter(|_| !is_to_own)
                    && members[to].follow(partition).is_some_and(|followed| {
                        followed.close || crate::planted!("a-partition-is-handed-to-who-is-far-behind")
                    })
                    && handing < most_handed
                {
                    handing += 1;
                    deeds.push(Deed::HandOver { partition, to: to.to_owned() });
                }
            } else if is_to_own && (owner.is_none() || crate::planted!("a-partition-is-taken-from-the-living")) {
                deeds.push(self.take(partition));
            } else if follows.contains(&partition) {
                if !is_to_own && !is_standby {
                    deeds.push(Deed::LetGo(partition));
                }
            } else if is_of_another && is_to_own && taking < MOST_TAKEN_AT_ONCE {
                taking += 1;
                deeds.push(Deed::Follow(partition));
            } else if is_of_another && is_standby {
                deeds.push(Deed::Follow(partition));
            }
        }
        deeds
    }

    fn is_to_own(&self, owners: &[Option<&str>], partition: u32) -> bool {
        owners[partition as usize] == Some(self.me.as_str())
    }

    fn take(&self, partition: u32) -> Deed {
        let Some(last) = self.last.get(&partition) else { return Deed::Own { partition, term: 1, since: Cause::Free } };
        let from = last.name.clone();
        let since = match last.end {
            // It is heard of, and claims nothing any more.
            End::Claims | End::LetGo(None) => Cause::HandedOver { from, handed: None },
            End::LetGo(handed) => Cause::HandedOver { from, handed },
            End::Left => Cause::Left { from },
            End::Silent(for_ms) => Cause::Silent { from, for_ms },
        };
        Deed::Own { partition, term: last.term.saturating_add(1), since }
    }

    /// The term of a claim that nobody has a higher one than.
    pub fn next_term(&self, partition: u32) -> u64 {
        self.last.get(&partition).map_or(1, |last| last.term.saturating_add(1))
    }
}

#[cfg(test)]
mod tests;
