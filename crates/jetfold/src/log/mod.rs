//! The partition logs: each read message by message, without a hole.
//!
//! A [`source`] reads one log from a position on, and [`pull`] keeps its requests outstanding, over the [`connections`] that
//! the sources of one worker share. What is pulled is never acked, because the store says where the fold goes on. [`life`]
//! decides which of two processes of one worker's name reads the log: the later one. A [`reader`] asks for what a judgement needs: the
//! state of the log, and the messages that tell whether the log is what it was.

pub mod connections;
pub mod life;
pub mod pull;
pub mod reader;
pub mod source;
