//! Exactly-once checksums on NATS JetStream: the first application of [jetfold].
//!
//! A **chunker** makes many content streams and publishes them as interleaved chunks, partitioned by a hash of the
//! stream's ID. **Summers** fold a running SHA-1 per stream, and publish the final sum of each. The chunker verifies
//! that every stream got exactly one final, the right one, in time.
//!
//! How logs, stores and effects make a fold that no crash disturbs is jetfold's story, and stands at the
//! [head of its page](jetfold). This crate has what is the sum's own:
//!
//! 1. A stream of content has a [`StreamId`]; its content travels as [`Chunk`]s, numbered from 1, the last of them empty.
//!    [`codec`](crate::sum::codec) is how they look on the wire, and [`workload`](crate::run::workload) makes them up.
//! 2. [`run::lanes`] fills the partition logs, one batch in flight on each. Chunks number themselves, so batches need no
//!    [stamps](jetfold::Stamp): one that is sent again is known by its numbers.
//! 3. A [`Summer`] says what a chunk does to the [`Row`](crate::sum::row::Row) of its stream: it is an
//!    [`Application`](jetfold::Application). [`summing::run`](crate::roles::summing::run) is a whole worker with it, which
//!    any service may start: `examples/embed.rs` does.
//! 4. The final of a stream is published under a subject made of its ID, to [`FINAL_SUMS_STREAM`], which takes one
//!    message a subject: so there is one final.
//! 5. [`generate_and_verify_streams`] is the other side: the [`Ledger`](crate::run::ledger::Ledger) of a [`Run`](run::Run) says how
//!    each stream has ended.
//!
//! # The modules, from the ground up
//!
//! Imports point down only.
//!
//! | floor | modules |
//! | --- | --- |
//! | 6 | [`mod@cli`] |
//! | 5 | [`local::up`], [`mod@soak`], [`mod@web`] |
//! | 4 | [`mod@roles`], [`mod@run`] |
//! | 2 | [`sum::topology_section`] |
//! | 1 | [`sum::held`] |
//! | 0 | [`run::ahead`], [`run::done`], [`run::endings`], [`run::interleaved`], [`run::ladder`], [`run::latency`], [`run::ledger`], [`run::name`], [`run::presence`], [`run::report`], [`run::schedule`], [`run::unopened`], [`run::workload`], [`mod@sum`] |
//! | side | [`cli::heap`], [`local::nats_server`], [`local::server`], [`mod@telemetry`] |

pub mod cli;
pub mod local;
pub mod roles;
pub mod run;
pub mod soak;
pub mod sum;
pub mod telemetry;
pub mod web;

/// Of this program, and of a release the commit that it is built from.
pub const VERSION: &str = env!("STREAM_SUM_VERSION");

pub use crate::roles::chunker::{ChunkerConfig, generate_and_verify_streams};
pub use crate::sum::Summer;
pub use crate::sum::chunk::Chunk;
pub use crate::sum::names::FINAL_SUMS_STREAM;
pub use crate::sum::running::Sum;
pub use crate::sum::stream_id::StreamId;
