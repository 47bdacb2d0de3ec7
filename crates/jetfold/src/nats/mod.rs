//! What is said to NATS, beside the folding of logs: from connecting to the JetStream objects of one system.
//!
//! [`connect`] comes first: servers, credentials, and what a server must be able to do. [`names`] has what everything is called.
//! [`topology`] says what the objects of a system must be like, and [`admin`] makes, checks and shows them; [`plan`] decides what
//! it may change of a stream, and [`shape`] what it never does. Through [`standing`] workers are asked how far they are,
//! and through [`presence`] they know of each other.
//!
//! Under all of these lie [`publish`], which knows what a refusal means, [`read`], which asks leaders only, [`retry`], which says
//! how long to wait before the next try, and [`heard`], which knows when something last came from NATS.

pub mod admin;
pub mod connect;
pub mod heard;
pub mod names;
pub mod plan;
pub mod presence;
pub mod publish;
pub mod read;
pub mod retry;
pub mod shape;
pub mod standing;
pub mod topology;
