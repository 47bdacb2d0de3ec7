use super::*;
use crate::group::member::{Followed, Owned};

const PATIENCE: Duration = Duration::from_millis(2500);
const LOOK: Duration = Duration::from_millis(250);

fn owns(partitions: impl IntoIterator<Item = u32>) -> Member {
    let owned = |partition| Owned { partition, term: 1, position: 10 };
    Member { owns: partitions.into_iter().map(owned).collect(), ..Member::default() }
}

fn follows(mut member: Member, partition: u32, close: bool) -> Member {
    member.follows.push(Followed { partition, position: 9, close });
    member
}

fn decide(roster: &Roster, me: &Member) -> Vec<Deed> {
    roster.decide(me, &BTreeSet::new())
}

fn roster(me: &str) -> Roster {
    Roster::new(me.to_owned(), 2, PATIENCE)
}

#[test]
fn who_is_alone_takes_everything_at_once() {
    let free = |partition| Deed::Own { partition, term: 1, since: Cause::Free };
    assert_eq!(decide(&roster("a"), &Member::default()), [free(0), free(1)]);
    assert_eq!(roster("a").decide(&Member::default(), &BTreeSet::from([0])), [free(1)], "0 is being taken");
}

#[test]
fn a_partition_moves_in_steps_and_is_folded_by_one_at_each() {
    // `b` comes. It follows the one that is to be its own.
    let mut b = roster("b");
    b.heard("a", owns([0, 1]));
    let [Deed::Follow(moving)] = decide(&b, &Member::default())[..] else { panic!() };
    // `a` waits until `b` is close.
    let mut a = roster("a");
    a.heard("b", follows(Member::default(), moving, false));
    assert_eq!(decide(&a, &owns([0, 1])), []);
    a.heard("b", follows(Member::default(), moving, true));
    assert_eq!(decide(&a, &owns([0, 1])), [Deed::HandOver { partition: moving, to: "b".into() }]);
    // Until `a` has let go, `b` only follows.
    let following = follows(Member::default(), moving, true);
    assert_eq!(decide(&b, &following), []);
    let handed = Handed { partition: moving, position: 12, stopped_ms_ago: 5 };
    b.heard("a", Member { handed: vec![handed], ..owns([1 - moving]) });
    let since = Cause::HandedOver { from: "a".into(), handed: Some(handed) };
    assert_eq!(decide(&b, &following), [Deed::Own { partition: moving, term: 2, since }]);
    assert_eq!(b.handed(moving), Some(12));
}

#[test]
fn of_two_that_claim_a_partition_the_higher_term_counts_whoever_speaks_last() {
    let claims = |term| Member { owns: vec![Owned { partition: 0, term, position: 10 }], ..Member::default() };
    for names in [["a", "c"], ["c", "a"]] {
        let mut b = roster("b");
        b.heard(names[0], claims(5));
        b.heard(names[1], claims(3));
        assert_eq!(b.next_term(0), 6);
        b.left(names[1]);
        b.left(names[0]);
        let left = Deed::Own { partition: 0, term: 6, since: Cause::Left { from: names[0].into() } };
        assert!(decide(&b, &Member::default()).contains(&left), "of {names:?}");
    }
}

#[test]
fn who_is_silent_is_gone_and_its_partitions_are_taken_with_a_higher_term() {
    let mut b = roster("b");
    b.heard("a", owns([0, 1]));
    for _ in 0..10 {
        assert!(b.attend(LOOK, true).is_empty());
    }
    assert_eq!(b.attend(LOOK, true), ["a"]);
    let silent = |partition| Deed::Own { partition, term: 2, since: Cause::Silent { from: "a".into(), for_ms: 2750 } };
    assert_eq!(decide(&b, &Member::default()), [silent(0), silent(1)]);
    // It wakes: its claims are older, and it is told so.
    let mut a = roster("a");
    let taken = Member { owns: vec![Owned { partition: 0, term: 2, position: 11 }], ..Member::default() };
    a.heard("b", taken);
    assert_eq!(decide(&a, &owns([0, 1])), [Deed::LetGo(0)]);
}

#[test]
fn who_is_not_heard_itself_or_was_paused_takes_nobody_for_gone() {
    let mut b = roster("b");
    b.heard("a", owns([0, 1]));
    for _ in 0..100 {
        assert!(b.attend(LOOK, false).is_empty(), "cut off");
    }
    assert!(b.attend(Duration::from_secs(3600), true).is_empty(), "paused for an hour, which counts little");
}

#[test]
fn who_leaves_and_says_so_is_not_waited_for() {
    let mut b = roster("b");
    b.heard("a", owns([0, 1]));
    b.left("a");
    let left = |partition| Deed::Own { partition, term: 2, since: Cause::Left { from: "a".into() } };
    assert_eq!(decide(&b, &Member::default()), [left(0), left(1)]);
}

#[test]
fn who_is_told_to_stop_hands_over_everything_and_takes_nothing() {
    let mut a = roster("a");
    a.heard("b", follows(follows(Member::default(), 0, true), 1, false));
    let me = Member { leaving: true, ..owns([0, 1]) };
    assert_eq!(decide(&a, &me), [Deed::HandOver { partition: 0, to: "b".into() }]);
    assert_eq!(decide(&a, &Member { leaving: true, ..Member::default() }), []);
    assert!(a.has_takers());
    a.heard("b", Member { leaving: true, ..Member::default() });
    assert!(!a.has_takers());
    assert_eq!(decide(&a, &me), [], "nobody is there to take them");
}

#[test]
fn a_pinned_worker_does_what_it_was_told_and_others_make_room_for_it() {
    let mut a = roster("a");
    a.heard("p", Member { pinned: true, ..owns([0]) });
    assert_eq!(decide(&a, &owns([0, 1])), [Deed::LetGo(0)]);
    assert_eq!(decide(&a, &owns([1])), []);
    let mut p = roster("p");
    p.heard("a", owns([0, 1]));
    assert_eq!(decide(&p, &Member { pinned: true, ..owns([0]) }), []);
}

#[test]
fn a_standby_follows_what_another_folds_and_takes_it_when_that_one_is_gone() {
    let mut b = roster("b");
    b.heard("a", owns([0]));
    let me = Member { standby: 1, ..owns([1]) };
    assert_eq!(decide(&b, &me), [Deed::Follow(0)]);
    let me = follows(me, 0, true);
    assert_eq!(decide(&b, &me), []);
    b.left("a");
    assert_eq!(decide(&b, &me), [Deed::Own { partition: 0, term: 2, since: Cause::Left { from: "a".into() } }]);
}

#[test]
fn members_that_hear_of_each_other_late_do_not_fight() {
    // Both took both partitions, and neither had heard of the other.
    let (mut a, mut b) = (roster("a"), roster("b"));
    let (mut in_a, mut in_b) = (owns([0, 1]), owns([0, 1]));
    for _ in 0..4 {
        a.heard("b", in_b.clone());
        b.heard("a", in_a.clone());
        for (roster, me) in [(&a, &mut in_a), (&b, &mut in_b)] {
            for deed in decide(roster, &me.clone()) {
                match deed {
                    Deed::LetGo(partition) | Deed::HandOver { partition, .. } => {
                        me.owns.retain(|owned| owned.partition != partition);
                        me.follows.retain(|followed| followed.partition != partition);
                    }
                    Deed::Follow(partition) => *me = follows(me.clone(), partition, true),
                    Deed::Own { partition, term, .. } => {
                        me.follows.retain(|followed| followed.partition != partition);
                        me.owns.push(Owned { partition, term, position: 10 });
                    }
                }
            }
        }
    }
    let mut all: Vec<_> = in_a.owns.iter().chain(&in_b.owns).map(|owned| owned.partition).collect();
    all.sort_unstable();
    assert_eq!(all, [0, 1], "each is folded by one");
    assert_eq!((in_a.owns.len(), in_b.owns.len()), (1, 1));
}

#[test]
fn what_is_made_up_is_remembered_within_bounds_and_overflows_nothing() {
    let claims =
        |partition, term| Member { owns: vec![Owned { partition, term, position: u64::MAX }], ..Member::default() };
    let mut a = roster("a");
    for n in 0..3 * MOST_MEMBERS {
        a.heard(&format!("made-up-{n}"), claims(n as u32, u64::MAX));
    }
    assert_eq!(a.remembered(), (MOST_MEMBERS, 2), "there are two partitions");
    a.heard("made-up-0", Member { owns: vec![Owned { partition: 0, term: 1, position: 1 }; 3], ..Member::default() });
    assert_eq!(a.others["made-up-0"].member.owns.len(), 1, "nobody holds three of two");
    for _ in 0..99 {
        a.attend(LOOK, true);
    }
    let deeds = decide(&a, &Member::default());
    assert!(matches!(deeds[0], Deed::Own { partition: 0, term: u64::MAX, .. }), "{deeds:?}");
    assert_eq!((deeds.len(), a.next_term(1)), (2, u64::MAX));
}
