//! The bus: everything that is said to NATS.

pub mod connect;
pub mod names;
pub mod read;
pub mod topology;
pub mod backoff;
pub mod finals;
pub mod publish;
pub mod source;
pub mod lanes;
pub mod watch;
