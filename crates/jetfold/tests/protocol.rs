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

/// Explores all of it, and finds nothing that must not be.
fn holds(name: &str, protocol: Protocol) {
    let began = std::time::Instant::now();
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
    // The first that is found is as short as any.
    let found = HasDiscoveries::AnyOf([property].into());
    let checker = protocol.checker().finish_when(found).spawn_bfs().join();
    let path = checker.assert_any_discovery(property);
    println!("{bug:?}: {property}: {:?}", path.into_actions());
}


fn base() -> Protocol {
    Protocol { workers: 2, records: 2, keys: 2, sent: 1, log_losses: 1, followers: true, ..Protocol::default() }
}

#[test]
fn a() {
    finds(Bug::CommitsUnconfirmed, properties::IS_OUT, base());
}
#[test]
fn b() {
    finds(Bug::RunsAhead, properties::IS_OUT, base());
}
#[test]
fn c() {
    finds(Bug::ComparesNothing, properties::IS_OUT, Protocol { workers: 2, ..base() });
}
#[test]
fn d() {
    finds(Bug::KeepsItsMark, properties::IS_OUT, Protocol { output_losses: 1, ..base() });
}
#[test]
fn e() {
    finds(Bug::TrustsTheGoal, properties::IS_OUT, Protocol { disk_losses: 1, output_losses: 1, ..base() });
}
#[test]
fn f() {
    finds(Bug::PullsOn, properties::IS_THE_FOLD, Protocol { records: 3, keys: 1, followers: false, ..base() });
}
#[test]
fn two_workers() {
    holds("two", base());
}
#[test]
fn three_lossless() {
    holds("3 lossless", Protocol { workers: 3, records: 2, log_losses: 0, ..base() });
}
#[test]
fn owners3() {
    holds("2 owners, 3 records, log loss", Protocol { records: 3, followers: false, ..base() });
}
#[test]
fn outputs() {
    holds("2, 2 records, output loss", Protocol { log_losses: 0, output_losses: 1, ..base() });
}
#[test]
fn both() {
    holds("2, 2 records, both lost", Protocol { output_losses: 1, ..base() });
}
#[test]
fn snapshots() {
    holds("2, 2 records, snapshots", Protocol { log_losses: 0, disk_losses: 1, snapshots: 1, ..base() });
}
#[test]
fn follower3() {
    holds("2, 3 records, follower", Protocol { log_losses: 0, records: 3, ..base() });
}
