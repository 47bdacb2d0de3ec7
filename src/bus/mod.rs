//! The bus: everything that is said to NATS.

pub mod connect;
pub mod names;
pub mod read;
pub mod topology;
