//! The roles: what a process does for as long as it runs.

pub mod accept;
pub mod asking;
pub mod chunker;
pub mod generator;
pub mod get;
pub mod rejects;
pub mod status;
pub mod sum_files;
pub mod summing;
