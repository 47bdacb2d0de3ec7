//! Integration tests: the real program against a real nats-server.

mod bad_input;
mod bounds;
mod cluster;
mod crash;
mod ledger;
mod outage;
mod properties;
mod readme;
mod sharing;
mod sum_files;
mod support;
mod topology;
mod verdicts;
mod wire;
