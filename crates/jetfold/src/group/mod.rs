//! The group: how workers share partitions among themselves, without anybody in charge.
//!
//! Each [member](member) says once a second what it holds. Everybody hears the same, computes the same [assignment], and
//! does its own part of it, which a [`Roster`](roster::Roster) decides. All of it is pure: what was heard is handed in, and time too.
//!
//! Nothing here decides what is folded or published. Members may disagree for as long as they like: two that believe in one
//! partition fold it twice, each into its own store, and publish what is there already. That is work wasted, and no more.

pub mod assignment;
pub mod endings;
pub mod member;
pub mod roster;
