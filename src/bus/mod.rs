//! The bus: everything that is said to NATS.
//!
//! [`connect`], [`connections`], [`topology`] and its [`admin`] come first, with what it may change ([`plan`]) and what it never does ([`shape`]), and
//! [`names`] for all that is named. A summer reads its logs through
//! [`source`] and publishes through [`finals`]. [`snapshots`] keeps what stores hold, as it is [`listed`]. Through [`standing`] workers are asked how far they are.
//! Under them lie [`publish`], which knows what a refusal means, [`acks`], which gathers acknowledgements, [`pull`], which gets
//! the messages of one consumer, and [`read`], which asks leaders only.

pub mod admin;
pub mod connect;
pub mod connections;
pub mod names;
pub mod plan;
pub mod shape;
pub mod topology;

pub mod life;
pub mod log;
pub mod source;

pub mod finals;

pub mod listed;
pub mod snapshots;
pub mod standing;

pub mod acks;
pub mod backoff;
pub mod heard;
pub mod publish;
pub mod pull;
pub mod read;
