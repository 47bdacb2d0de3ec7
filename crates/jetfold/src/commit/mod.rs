//! What is decided about a commit, without a socket, a clock or a task.
//!
//! An [`effect`] is what a fold asks of the world, and what can become of it. The [line](mod@line) holds transactions on their way to the
//! store, and is told of each answer as it comes: it hands out what is to be published, inspected and written next. [`doubt`]
//! has the signs that a stream of effects may have forgotten what it had acknowledged. An [`inspection`] is the last look at a
//! transaction before its commit, and asks leaders as much as these signs demand.
//!
//! The [committer](crate::partition::committer) carries out what the line says, and [a check](crate::partition::check) asks what an
//! inspection asks. Tests drive both machines through schedules that no network would produce in a year.

pub mod doubt;
pub mod effect;
pub mod goals;
pub mod inspection;
pub mod line;
