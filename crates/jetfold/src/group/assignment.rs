//! Who is to fold what: the same for everybody who has heard the same, and computed without asking anybody.
//!
//! Each pair of member and partition has a weight (rendezvous hashing), and no member gets one partition more than another has, or
//! at most one. Whoever folds a partition keeps it, as long as that is balanced: so a member that comes gets its share, a member
//! that goes leaves what it had, and nothing else moves.
//!
//! | a partition | goes to |
//! | --- | --- |
//! | of a pinned member | that member |
//! | of a member that has no more than its share | that member |
//! | of a member that has more | the members that have less; it lets go of those first that weigh least with it |
//! | of nobody, or of a member that is leaving | who follows it, if that one has room; else the one with room that weighs most |

use crate::group::member::Member;
use std::collections::BTreeMap;

/// Members by name.
pub type Members = BTreeMap<String, Member>;

/// What is to become of each partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment<'m> {
    /// Whose claim to it counts: that of a pinned member, or the one of the highest term.
    pub claims: Vec<Option<&'m str>>,
    /// Who is to fold it; `None`: nobody is there who takes partitions.
    pub owners: Vec<Option<&'m str>>,
    /// Who is to follow it all the time, if somebody is willing.
    pub standbys: Vec<Option<&'m str>>,
}

/// Whose claim to each partition counts.
fn claims(members: &Members, partitions: u32) -> Vec<Option<&str>> {
    let mut best: Vec<Option<(bool, u64, &str)>> = vec![None; partitions as usize];
    for (name, member) in members {
        for owned in member.owns.iter().filter(|owned| owned.partition < partitions) {
            let best = &mut best[owned.partition as usize];
            *best = (*best).max(Some((member.pinned, owned.term, name.as_str())));
        }
    }
    best.into_iter().map(|claim| claim.map(|(_, _, name)| name)).collect()
}

/// Assigns `partitions` among `members`.
pub fn assign(members: &Members, partitions: u32) -> Assignment<'_> {
    let count = partitions as usize;
    let claims = claims(members, partitions);
    let takers: Vec<(&str, &Member)> =
        members.iter().filter(|(_, member)| member.takes()).map(|(name, member)| (name.as_str(), member)).collect();
    if takers.is_empty() {
        return Assignment { owners: claims.clone(), claims, standbys: vec![None; count] };
    }
    let hashes: Vec<u64> = takers.iter().map(|(name, _)| hash(name.as_bytes())).collect();
    let mut owners: Vec<Option<&str>> = vec![None; count];
    let mut free = Vec::with_capacity(count);
    for partition in 0..count {
        match claims[partition] {
            Some(name) if members[name].pinned => owners[partition] = Some(name),
            _ => free.push(partition),
        }
    }
    let mut shares = Shares::new(free.len(), takers.len());
    let place_of = |name: &str| takers.binary_search_by(|(taker, _)| (*taker).cmp(name)).ok();

    // Whoever has more than its share keeps what weighs most with it. Those that have most are first to have one more.
    let mut kept: Vec<Vec<usize>> = vec![Vec::new(); takers.len()];
    for &partition in &free {
        if let Some(taker) = claims[partition].and_then(place_of) {
            kept[taker].push(partition);
        }
    }
    let mut by_load: Vec<usize> = (0..takers.len()).collect();
    by_load.sort_by_key(|&taker| (std::cmp::Reverse(kept[taker].len()), hashes[taker]));
    for taker in by_load {
        let mut own = std::mem::take(&mut kept[taker]);
        // The partitions for which others would be chosen before it are given away first.
        own.sort_by_cached_key(|&partition| {
            let weight = weigh(hashes[taker], partition);
            let before = hashes.iter().filter(|&&hash| weigh(hash, partition) > weight).count();
            (before, std::cmp::Reverse(weight))
        });
        for partition in own {
            if shares.take(taker) {
                owners[partition] = Some(takers[taker].0);
            }
        }
    }
    let mut homeless: Vec<usize> = free.iter().copied().filter(|&partition| owners[partition].is_none()).collect();

    // Who follows a partition has most of its rows. What is under way is not turned back by what others do meanwhile.
    let mut followers: Vec<Vec<(bool, u64, usize)>> = vec![Vec::new(); count];
    for (taker, (_, member)) in takers.iter().enumerate() {
        for followed in member.follows.iter().filter(|followed| followed.partition < partitions) {
            followers[followed.partition as usize].push((followed.close, followed.position, taker));
        }
    }
    homeless.retain(|&partition| {
        let mut following = followers[partition].clone();
        following.sort_by_key(|&(close, position, taker)| {
            std::cmp::Reverse((close, position, weigh(hashes[taker], partition)))
        });
        match following.into_iter().find(|&(_, _, taker)| shares.take(taker)) {
            Some((_, _, taker)) => owners[partition] = Some(takers[taker].0),
            None => return true,
        }
        false
    });
    for partition in homeless {
        let mut ranked: Vec<usize> = (0..takers.len()).filter(|&taker| shares.has_room(taker)).collect();
        ranked.sort_by_key(|&taker| std::cmp::Reverse(weigh(hashes[taker], partition)));
        let taker = *ranked.first().expect("there are as many places as partitions");
        assert!(shares.take(taker), "it has room");
        owners[partition] = Some(takers[taker].0);
    }
    let standbys = standbys(&takers, &hashes, &owners, &followers);
    Assignment { claims, owners, standbys }
}

/// The second in rank of each partition, of those that are willing and have room for it.
fn standbys<'m>(
    takers: &[(&'m str, &'m Member)],
    hashes: &[u64],
    owners: &[Option<&'m str>],
    followers: &[Vec<(bool, u64, usize)>],
) -> Vec<Option<&'m str>> {
    let willing: Vec<usize> = (0..takers.len()).filter(|&taker| takers[taker].1.standby > 0).collect();
    let mut standbys = vec![None; owners.len()];
    if willing.is_empty() {
        return standbys;
    }
    // One more than its share: who is not to follow its own may find all others full.
    let most = owners.len().div_ceil(willing.len()) + 1;
    let mut load = vec![0; takers.len()];
    for (partition, owner) in owners.iter().enumerate() {
        let rank = |&taker: &usize| {
            let is_following = followers[partition].iter().any(|&(_, _, follower)| follower == taker);
            (is_following, weigh(hashes[taker], partition))
        };
        let can = |taker: &usize| *owner != Some(takers[*taker].0) && load[*taker] < most;
        if let Some(taker) = willing.iter().copied().filter(can).max_by_key(rank) {
            load[taker] += 1;
            standbys[partition] = Some(takers[taker].0);
        }
    }
    standbys
}

/// How many partitions each taker may have: all the same number, and some of them one more.
struct Shares {
    loads: Vec<usize>,
    least: usize,
    /// How many may still have one more.
    more: usize,
}

impl Shares {
    fn new(partitions: usize, takers: usize) -> Self {
        Self { loads: vec![0; takers], least: partitions / takers, more: partitions % takers }
    }

    fn has_room(&self, taker: usize) -> bool {
        self.loads[taker] < self.least || self.loads[taker] == self.least && self.more > 0
    }

    /// Takes a place, if there is one.
    fn take(&mut self, taker: usize) -> bool {
        let has_room = self.has_room(taker) || crate::planted!("shares-have-no-bounds");
        if has_room {
            self.more -= usize::from(self.loads[taker] == self.least);
            self.loads[taker] += 1;
        }
        has_room
    }
}

/// FNV-1a: whoever assigns has to hash as everybody else does, in whatever version.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The weight of a member, by the hash of its name, for a partition. The last step is that of SplitMix64: FNV alone leaves the
/// weights of neighbours alike.
fn weigh(member: u64, partition: usize) -> u64 {
    let mut mixed = member ^ (partition as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests;
