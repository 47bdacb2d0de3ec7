//! Hostile input: more than a million messages that nobody honest would send, to the code that decodes and folds them, in one process.
//!
//! Whatever comes, nothing panics, each record is folded, a duplicate, or rejected with a reason, and a decoder that is written here
//! for the second time, without the library that the first one uses, takes and refuses the same. What an input announces is not
//! believed: memory follows the bytes that are there.
//!
//! Each test has a seed of its own. `HOSTILE_SEED=7` gives all of them another, and `HOSTILE_TIMES=10` ten times as many messages. A
//! failure says the seed, how many messages came before, and the bytes of the last.

mod batches;
mod decoder;
mod dice;
mod forge;
mod heap;
mod ids;
mod model;
mod outside;
mod partition;
mod producers;
mod seeds;
mod stamped;
