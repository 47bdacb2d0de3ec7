//! Integration tests: the real program against a real nats-server.

mod sum_files;
mod support;
mod wire;
