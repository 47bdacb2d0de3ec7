//! What is said to NATS, from connecting to the objects of one system.

pub mod admin;
pub mod connect;
pub mod heard;
pub mod names;
pub mod plan;
pub mod publish;
pub mod read;
pub mod retry;
pub mod shape;
pub mod standing;
pub mod topology;
