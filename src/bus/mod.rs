//! The bus: everything that is said to NATS.
//!
//! [`connect`] and [`topology`] come first, with [`names`] for all that is named. A summer reads its logs through
//! [`source`] and publishes through [`finals`]; a run fills the logs through [`lanes`] and hears back through [`watch`].
//! Under them lie [`publish`], which knows what a refusal means, and [`read`], which asks leaders only.

pub mod connect;
pub mod names;
pub mod topology;

pub mod life;
pub mod source;

pub mod finals;
pub mod lanes;
pub mod watch;

pub mod backoff;
pub mod publish;
pub mod read;
