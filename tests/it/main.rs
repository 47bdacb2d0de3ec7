//! Integration tests: the real program against a real nats-server.

mod bad_input;
mod bounds;
mod cluster;
mod crash;
mod embed;
mod ledger;
mod outage;
mod progress;
mod properties;
mod retention;
mod sharing;
mod snapshots;
mod status;
mod sum_files;
mod support;
mod topology;
mod up;
mod verdicts;
mod wire;
