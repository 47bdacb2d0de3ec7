//! The bus: everything that is said to NATS.

pub mod backoff;
pub mod connect;
pub mod finals;
pub mod lanes;
pub mod names;
pub mod publish;
pub mod read;
pub mod source;
pub mod topology;
pub mod watch;
