//! A nats-server of one's own, and the roles together on this machine.

pub mod nats_server;
pub mod server;
pub mod up;
