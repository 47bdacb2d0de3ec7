use super::*;
use crate::group::member::{Followed, Owned};
use proptest::prelude::*;

fn members<'n>(names: impl IntoIterator<Item = &'n str>) -> Members {
    names.into_iter().map(|name| (name.to_owned(), Member::default())).collect()
}

fn owner_of(members: &Members, partition: u32) -> Option<String> {
    claims(members, partition + 1)[partition as usize].map(str::to_owned)
}

/// As if every partition had moved to where it was assigned. Returns how many moved from one member to another, or from nobody.
fn settle(members: &mut Members, partitions: u32) -> usize {
    let assignment = assign(members, partitions);
    let owners: Vec<_> = assignment.owners.iter().map(|owner| owner.map(str::to_owned)).collect();
    let mut moved = 0;
    for (partition, owner) in (0..partitions).zip(owners) {
        let before = owner_of(members, partition);
        if before != owner {
            moved += 1;
            if let Some(before) = before {
                members.get_mut(&before).unwrap().owns.retain(|owned| owned.partition != partition);
            }
            if let Some(owner) = owner {
                members.get_mut(&owner).unwrap().owns.push(Owned { partition, term: 1, position: 0 });
            }
        }
    }
    moved
}

fn loads(members: &Members) -> Vec<usize> {
    members.values().filter(|member| member.takes()).map(|member| member.owns.len()).collect()
}

fn is_balanced(members: &Members) -> bool {
    let loads = loads(members);
    loads.iter().max().unwrap_or(&0) - loads.iter().min().unwrap_or(&0) <= 1
}

#[test]
fn sixty_four_members_share_256_partitions_and_each_that_comes_or_goes_moves_its_share_alone() {
    let names: Vec<_> = (0..64).map(|n| format!("worker-{n}")).collect();
    let mut group = Members::new();
    for (n, name) in names.iter().enumerate() {
        group.insert(name.clone(), Member::default());
        let moved = settle(&mut group, 256);
        assert!(is_balanced(&group), "{n}: {:?}", loads(&group));
        assert_eq!(moved, if n == 0 { 256 } else { 256 / (n + 1) }, "the {n}th moves its share, and nothing else");
        assert_eq!(settle(&mut group, 256), 0, "what is settled stays");
    }
    assert_eq!(loads(&group), vec![4; 64]);
    let began = std::time::Instant::now();
    assert_eq!(assign(&group, 256).owners.len(), 256);
    println!("assigned in {:?}", began.elapsed());
    for name in &names[..40] {
        let gone = group.remove(name).unwrap();
        let moved = settle(&mut group, 256);
        assert!(is_balanced(&group));
        assert_eq!(moved, gone.owns.len(), "only what it had moves");
    }
}

#[test]
fn a_member_that_comes_back_gets_what_it_had_so_a_rolling_restart_moves_each_partition_twice() {
    let names: Vec<_> = (0..4).map(|n| format!("worker-{n}")).collect();
    let mut group = members(names.iter().map(String::as_str));
    settle(&mut group, 16);
    let mut moves = 0;
    for name in &names {
        group.get_mut(name).unwrap().leaving = true;
        moves += settle(&mut group, 16);
        assert!(group[name].owns.is_empty() && is_balanced(&group));
        group.insert(name.clone(), Member::default());
        moves += settle(&mut group, 16);
        assert!(is_balanced(&group));
    }
    assert_eq!(moves, 2 * 16);
}

#[test]
fn pinned_members_keep_what_they_have_and_others_share_the_rest() {
    let owned = |partition| Owned { partition, term: 1, position: 0 };
    let mut group = members(["a", "b", "pinned"]);
    group.get_mut("pinned").unwrap().pinned = true;
    group.get_mut("pinned").unwrap().owns = vec![owned(0), owned(1), owned(2)];
    settle(&mut group, 8);
    assert_eq!(loads(&group).iter().sum::<usize>(), 5);
    assert!(is_balanced(&group));
    let assignment = assign(&group, 8);
    assert_eq!(&assignment.owners[..3], [Some("pinned"); 3]);
    // One that has just been started with what another folds: the other lets go of it.
    group.get_mut("a").unwrap().owns.push(Owned { partition: 0, term: 9, position: 7 });
    assert_eq!(owner_of(&group, 0).unwrap(), "pinned");
}

#[test]
fn who_follows_a_partition_takes_it_and_the_furthest_of_those() {
    let follows = |partition, position| Followed { partition, position, close: true };
    let mut group = members(["a", "b", "c"]);
    group.get_mut("b").unwrap().follows = vec![follows(0, 5), follows(1, 7)];
    group.get_mut("c").unwrap().follows = vec![follows(0, 6)];
    let assignment = assign(&group, 3);
    assert_eq!(assignment.owners, [Some("c"), Some("b"), Some("a")]);
}

#[test]
fn nobody_is_assigned_to_where_all_are_leaving_and_owners_keep_what_they_have() {
    let mut group = members(["a", "b"]);
    settle(&mut group, 4);
    for member in group.values_mut() {
        member.leaving = true;
    }
    let Assignment { claims, owners, .. } = assign(&group, 4);
    assert_eq!(owners, claims);
    assert!(owners.iter().all(Option::is_some));
}

#[test]
fn standbys_are_others_than_the_owners_and_stay_who_they_are() {
    let mut group = members(["a", "b", "c"]);
    group.values_mut().for_each(|member| member.standby = 1);
    settle(&mut group, 12);
    let standbys: Vec<_> = assign(&group, 12).standbys.iter().map(|name| name.unwrap().to_owned()).collect();
    for (partition, standby) in (0..12).zip(&standbys) {
        assert_ne!(owner_of(&group, partition).as_ref(), Some(standby));
        let followed = Followed { partition, position: 1, close: true };
        group.get_mut(standby).unwrap().follows.push(followed);
    }
    group.insert("d".to_owned(), Member { standby: 1, ..Member::default() });
    let after = assign(&group, 12);
    let changed = (0..12).filter(|&p| after.standbys[p] != Some(&standbys[p]) && after.owners[p] != Some(&standbys[p]));
    assert!(changed.count() <= 12 / 4, "a fourth gets its share, and who follows goes on following");
}

proptest! {
    /// Whatever the members say of themselves, the assignment is whole, balanced, and the same for everybody.
    #[test]
    fn any_group_is_balanced(
        claims in prop::collection::vec((0_usize..6, 0_u32..24, 1_u64..4, any::<bool>()), 0..60),
        flags in prop::collection::vec((any::<bool>(), any::<bool>(), 0_u32..2), 1..6),
    ) {
        let mut group = Members::new();
        for (n, (pinned, leaving, standby)) in flags.iter().enumerate() {
            let member = Member { pinned: *pinned && n > 0, leaving: *leaving && n > 0, standby: *standby, ..Member::default() };
            group.insert(format!("w{n}"), member);
        }
        for (n, partition, term, owns) in claims {
            let Some(member) = group.get_mut(&format!("w{n}")) else { continue };
            if member.claim(partition).is_some() || member.follow(partition).is_some() {
                continue;
            }
            match owns {
                true => member.owns.push(Owned { partition, term, position: term }),
                false => member.follows.push(Followed { partition, position: term, close: term > 1 }),
            }
        }
        let assignment = assign(&group, 24);
        prop_assert_eq!(&assignment, &assign(&group, 24));
        let mut loads: BTreeMap<&str, usize> =
            group.iter().filter(|(_, member)| member.takes()).map(|(name, _)| (name.as_str(), 0)).collect();
        for (partition, owner) in (0..).zip(&assignment.owners) {
            let owner = owner.expect("somebody takes partitions");
            match loads.get_mut(owner) {
                Some(load) => *load += 1,
                None => prop_assert!(group[owner].pinned && group[owner].claim(partition).is_some()),
            }
        }
        prop_assert!(loads.values().max().unwrap() - loads.values().min().unwrap() <= 1, "{:?}", loads);
    }
}
