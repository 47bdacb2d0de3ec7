//! What must hold in every state, and what must be seen in some: a model in which nothing happens keeps every promise.

use crate::protocol::history::Output;
use crate::protocol::model::Protocol;
use crate::protocol::state::State;
use crate::protocol::streams::{Found, Judgement};
use crate::protocol::worker::{Duty, Origin, Store};
use stateright::Property;
use std::collections::BTreeSet;

pub const IS_THE_FOLD: &str = "a store is the fold of its log, or of what that was";
pub const IS_OUT: &str = "what is committed is out, or its store misses it";
pub const IS_ONE: &str = "an output is what the log says, or the difference is seen";
pub const IS_ONCE: &str = "a subject has one message";
pub const IS_KEPT: &str = "what is purged is in a settled snapshot";
pub const TAKES_OVER: &str = "another worker commits the last position";
pub const REFUSES: &str = "a store is refused by its log";
pub const FOLLOWER_TAKES_OVER: &str = "a follower takes over what has grown again";
pub const REPORTS: &str = "another output is found and reported";
pub const MENDS: &str = "an output is there again that was lost";
pub const RESTORES: &str = "a store is restored from behind a purge";

/// Whether a state is one of those that are to be seen.
type Condition = fn(&Protocol, &State) -> bool;

pub fn of(protocol: &Protocol) -> Vec<Property<Protocol>> {
    let may_lose = protocol.log_losses > 0;
    let seen: [(&'static str, Condition, bool); 6] = [
        (TAKES_OVER, takes_over, true),
        (REFUSES, refuses, may_lose),
        (REPORTS, reports, may_lose),
        (FOLLOWER_TAKES_OVER, follower_takes_over, may_lose && protocol.followers),
        (MENDS, mends, protocol.output_losses > 0),
        (RESTORES, restores, protocol.snapshots > 0),
    ];
    let mut all = vec![
        Property::always(IS_THE_FOLD, is_the_fold),
        Property::always(IS_OUT, is_out),
        Property::always(IS_ONE, is_one),
        Property::always(IS_ONCE, is_once),
        Property::always(IS_KEPT, is_kept),
    ];
    let wanted = seen.into_iter().filter(|(.., wanted)| *wanted);
    all.extend(wanted.map(|(name, condition, _)| Property::sometimes(name, condition)));
    all
}

fn stores(state: &State) -> impl Iterator<Item = &Store> {
    let put = state.snapshots.iter().map(|snapshot| &snapshot.store);
    state.workers.iter().map(|worker| &worker.store).chain(put)
}

/// Nothing is skipped and nothing folded twice. If the log has the message that was folded last, it has all before it.
fn is_the_fold(_: &Protocol, state: &State) -> bool {
    stores(state).all(|store| match state.judge(store) {
        Judgement::Sound => state.log.records.starts_with(&store.folded),
        _ => state.log.has_been(&store.folded),
    })
}

/// Whether each output that `store` has committed is found as `is_right` says. The store's mark is gone, or somebody has told
/// of another output under the subject: then it is seen.
fn each_output(state: &State, store: &Store, is_right: fn(&State, &Output) -> bool) -> bool {
    let is_seen = |output: &Output| state.reported.contains(&output.subject());
    !state.outputs.holds(store.mark)
        || store.folded.outputs_after(0).all(|output| is_right(state, &output) || is_seen(&output))
}

fn is_out(_: &Protocol, state: &State) -> bool {
    stores(state).all(|store| each_output(state, store, |state, output| state.outputs.find(output) != Found::Nothing))
}

fn is_one(_: &Protocol, state: &State) -> bool {
    let is_of_the_log = |output: &Output| match state.log.era {
        0 => output.is_of(&state.log.records),
        _ => state.log.pasts.iter().chain([&state.log.records]).any(|log| output.is_of(log)),
    };
    state.outputs.messages.iter().all(|(output, _)| is_of_the_log(output))
        && (state.log.era > 0 || state.reported.is_empty())
        && stores(state)
            .all(|store| each_output(state, store, |state, output| state.outputs.find(output) != Found::Another))
}

fn is_once(_: &Protocol, state: &State) -> bool {
    let subjects: BTreeSet<_> = state.outputs.messages.iter().map(|(output, _)| output.subject()).collect();
    subjects.len() == state.outputs.messages.len()
}

/// A store that has lost everything can be restored, and go on from there.
fn is_kept(_: &Protocol, state: &State) -> bool {
    state.log.purged == 0
        || state.furthest_settled().is_some_and(|snapshot| snapshot.store.position() > state.log.purged)
}

/// One that had committed something has lost its session, and the other has come to the end.
fn takes_over(protocol: &Protocol, state: &State) -> bool {
    let left_off = |store: &Store| store.origin == Origin::Owned && store.position() < protocol.records;
    let came_to_the_end =
        |store: &Store| store.origin == Origin::Owned && store.position() == protocol.records && state.is_sound(store);
    let mut idle = state.workers.iter().filter(|worker| worker.does(Duty::Idle));
    idle.any(|worker| left_off(&worker.store)) && state.workers.iter().any(|worker| came_to_the_end(&worker.store))
}

fn refuses(_: &Protocol, state: &State) -> bool {
    state.workers.iter().any(|worker| state.judge(&worker.store) == Judgement::Diverged)
}

fn reports(_: &Protocol, state: &State) -> bool {
    !state.reported.is_empty()
}

fn follower_takes_over(_: &Protocol, state: &State) -> bool {
    state.workers.iter().any(|worker| {
        let of_this_era = worker.store.era() == Some(state.log.era);
        worker.does(Duty::Owns) && worker.store.origin == Origin::Followed && of_this_era && state.log.era > 0
    })
}

fn mends(_: &Protocol, state: &State) -> bool {
    let is_mended =
        |store: &Store| store.origin == Origin::Mended && store.mark.is_some() && state.outputs.holds(store.mark);
    state.workers.iter().any(|worker| worker.does(Duty::Owns) && is_mended(&worker.store))
}

fn restores(_: &Protocol, state: &State) -> bool {
    let is_restored = |store: &Store| store.origin == Origin::Restored && state.is_sound(store);
    state.log.purged > 0 && state.workers.iter().any(|worker| worker.does(Duty::Owns) && is_restored(&worker.store))
}
