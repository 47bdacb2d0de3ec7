//! What is decided about a commit, without a socket, a clock or a task.

pub mod doubt;
pub mod effect;
pub mod inspection;
pub mod line;
