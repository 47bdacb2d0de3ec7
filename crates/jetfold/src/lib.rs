//! A fold on JetStream: a dense log, a leading store, confirmed effects, verdicts and snapshots.
//!
//! The story stands in the README of stream-sum, which is its first application.
//!
//! # The modules, from the ground up
//!
//! Imports point down only.
//!
//! | floor | modules |
//! | --- | --- |
//! | 4 | [`mod@environment`], [`mod@publisher`], [`mod@system`], [`mod@worker`] |
//! | 3 | [`mod@archive`], [`mod@partition`] |
//! | 2 | [`archive::bucket`], [`archive::listed`], [`mod@effects`], [`mod@log`], [`nats::admin`], [`nats::connect`], [`nats::heard`], [`nats::plan`], [`nats::publish`], [`nats::read`], [`nats::retry`], [`nats::shape`], [`nats::standing`], [`nats::topology`] |
//! | 1 | [`mod@store`], [`mod@table`], [`mod@testing`] |
//! | 0 | [`mod@application`], [`mod@checkpoint`], [`mod@commit`], [`mod@identity`], [`mod@key`], [`nats::names`], [`mod@packed`], [`mod@producer`], [`mod@refused`], [`mod@stamp`], [`mod@standing`], [`store::checksum`], [`mod@time`], [`mod@transaction`], [`mod@words`] |
//! | side | [`mod@caught`], [`mod@crash_point`], [`mod@joined`], [`mod@shutdown`], [`mod@throttle`], [`mod@values`] |

pub mod application;
pub mod archive;
pub mod caught;
pub mod checkpoint;
pub mod commit;
pub mod crash_point;
pub mod effects;
pub mod environment;
pub mod identity;
pub mod joined;
pub mod key;
pub mod log;
pub mod nats;
pub mod packed;
pub mod partition;
pub mod producer;
pub mod publisher;
pub mod refused;
#[cfg(test)]
mod sample;
pub mod shutdown;
pub mod stamp;
pub mod standing;
pub mod store;
pub mod system;
pub mod table;
pub mod testing;
pub mod throttle;
pub mod time;
pub mod transaction;
pub mod values;
pub mod words;
pub mod worker;

pub use application::{Application, Cx, Facts, Input, Never, Output, Place, Row, Slot, Tally, Undecodable};
pub use identity::accept::Acceptance;
pub use key::Key;
pub use nats::admin::{Allowed, Change};
pub use packed::Packed;
pub use publisher::Publisher;
pub use shutdown::on_signals as signals;
pub use store::{StoreError, View};
pub use system::{Config, Error, System};
pub use time::LogTime;
pub use words::Words;
pub use worker::Worker;
