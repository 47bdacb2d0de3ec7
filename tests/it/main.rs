//! Integration tests: the real program against a real nats-server.

mod absence;
mod backup;
mod bad_input;
mod bounds;
mod cluster;
mod crash;
mod damage;
mod embed;
mod forgetting;
mod ledger;
mod lossy_route;
mod outage;
mod progress;
mod properties;
mod restored;
mod retention;
mod sharing;
mod snapshots;
mod status;
mod sum_files;
mod support;
mod topology;
mod up;
mod verdicts;
mod watch;
mod wire;
