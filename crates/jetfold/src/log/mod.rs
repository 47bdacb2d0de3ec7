//! The partition logs: each read message by message, without a hole.

pub mod connections;
pub mod life;
pub mod pull;
pub mod reader;
pub mod source;
