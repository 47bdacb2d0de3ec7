//! The protocol, explored: every run of a small system, in whatever order things happen.

mod protocol {
    pub mod history;
    pub mod model;
    pub mod properties;
    pub mod state;
    pub mod streams;
    pub mod worker;
}

use protocol::model::{Bug, Protocol};
use protocol::properties;
use stateright::{Checker, HasDiscoveries, Model};
use std::time::Instant;

/// Explores all of it, and finds nothing that must not be.
fn holds(name: &str, protocol: Protocol) {
    let began = Instant::now();
    let checker = protocol.checker().spawn_bfs().join();
    println!(
        "{name}: {} states, {} steps deep, in {:.1?}",
        checker.unique_state_count(),
        checker.max_depth(),
        began.elapsed()
    );
    assert!(checker.is_done(), "it is explored to its end");
    checker.assert_properties();
}

/// Shows that the checker finds what a broken rule leads to.
fn finds(bug: Bug, property: &'static str, protocol: Protocol) {
    let protocol = Protocol { bug: Some(bug), ..protocol };
    let found = HasDiscoveries::AnyOf([property].into());
    let began = Instant::now();
    let checker = protocol.checker().finish_when(found).spawn_bfs().join();
    let took = began.elapsed();
    let path = checker.assert_any_discovery(property);
    println!("{bug:?}, in {took:.1?}: {property}: {:?}", path.into_actions());
}

/// Two workers, of which one may follow, and two records; nothing is lost.
fn small() -> Protocol {
    Protocol { workers: 2, records: 2, keys: 2, sent: 1, followers: true, ..Protocol::default() }
}

#[test]
fn three_workers_over_a_log_that_keeps_everything() {
    holds("three workers", Protocol { workers: 3, records: 3, sent: 2, ..small() });
}

#[test]
fn workers_over_a_log_that_loses_its_end_and_grows_again() {
    holds("two workers, log", Protocol { log_losses: 1, ..small() });
    holds("two workers, longer log", Protocol { log_losses: 1, records: 3, keys: 1, ..small() });
    holds("two workers, log twice", Protocol { log_losses: 2, keys: 1, ..small() });
    holds("three workers, log", Protocol { log_losses: 1, workers: 3, keys: 1, ..small() });
}

#[test]
fn outputs_that_are_lost_after_they_were_confirmed() {
    holds("outputs", Protocol { output_losses: 1, ..small() });
    holds("outputs twice", Protocol { output_losses: 2, keys: 1, ..small() });
    holds("outputs and log", Protocol { output_losses: 1, log_losses: 1, keys: 1, ..small() });
}

#[test]
fn snapshots_that_the_log_is_purged_up_to() {
    let kept = Protocol { snapshots: 1, disk_losses: 1, ..small() };
    holds("snapshots", Protocol { records: 3, keys: 1, ..kept.clone() });
    holds("snapshots, log", Protocol { log_losses: 1, keys: 1, ..kept.clone() });
    holds("snapshots, outputs", Protocol { output_losses: 1, keys: 1, ..kept.clone() });
    holds("two snapshots, log", Protocol { snapshots: 2, disk_losses: 0, log_losses: 1, followers: false, ..kept });
}

#[test]
#[ignore = "takes minutes, and gigabytes of memory"]
fn wider_bounds() {
    holds("three workers, log", Protocol { log_losses: 1, workers: 3, ..small() });
    holds("outputs and log", Protocol { output_losses: 1, log_losses: 1, ..small() });
    holds("owners, longer log", Protocol { log_losses: 1, records: 3, followers: false, ..small() });
    holds("snapshots, log", Protocol { snapshots: 1, disk_losses: 1, log_losses: 1, ..small() });
}

#[test]
fn an_owner_that_commits_before_it_is_confirmed_is_found() {
    finds(Bug::CommitsUnconfirmed, properties::IS_OUT, small());
}

#[test]
fn a_follower_that_runs_ahead_and_is_believed_is_found() {
    finds(Bug::RunsAhead, properties::IS_OUT, small());
}

#[test]
fn a_follower_that_does_not_compare_the_message_is_found_once_the_log_has_grown_again() {
    finds(Bug::ComparesNothing, properties::IS_OUT, Protocol { log_losses: 1, ..small() });
}

#[test]
fn a_follower_that_does_not_take_the_owners_mark_is_found_once_outputs_are_lost() {
    finds(Bug::KeepsItsMark, properties::IS_OUT, Protocol { output_losses: 1, ..small() });
}

#[test]
fn a_full_follower_that_does_not_look_at_its_own_fold_is_found_once_log_and_outputs_are_lost() {
    let lossy = Protocol { log_losses: 1, output_losses: 1, disk_losses: 1, keys: 1, ..small() };
    finds(Bug::TrustsTheGoal, properties::IS_ONE, lossy);
}

#[test]
fn a_store_that_goes_on_although_its_last_message_is_purged_is_found_once_the_log_has_grown_again() {
    let purging = Protocol { snapshots: 1, log_losses: 1, keys: 1, followers: false, ..small() };
    finds(Bug::TrustsThePurged, properties::IS_THE_FOLD, purging);
}

#[test]
fn a_pull_that_outlives_a_loss_of_its_log_is_found() {
    finds(Bug::PullsOn, properties::IS_THE_FOLD, Protocol { log_losses: 1, followers: false, ..small() });
}
