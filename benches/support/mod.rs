//! What benchmarks share: a stack of their own, ready-made logs, and the loops that do as little as can be done.

#![allow(dead_code)] // Each benchmark takes its part of it.

pub mod load;
pub mod loops;
pub mod stack;
