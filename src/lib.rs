//! Stateful, exactly-once stream processing on NATS JetStream.
//!
//! A **chunker** makes many content streams and publishes them as interleaved chunks, partitioned by a hash of the
//! stream's ID. **Summers** fold a running SHA-1 per stream, and publish the final sum of each. The chunker verifies
//! that every stream got exactly one final, the right one, in time.
//!
//! # The story, in seven steps
//!
//! 1. A stream of content has a [`StreamId`]; its content travels as [`Chunk`]s,
//!    numbered from 1, the last of them empty. [`codec`](crate::sum::codec) is how they look on the wire, and [`workload`](crate::run::workload) makes them up.
//! 2. Each partition has a JetStream stream of its own, its *partition log*, so its positions are dense: the next batch
//!    is always `position + 1`. [`run::lanes`] fills the logs, one batch in flight on each; [`bus::source`](jetfold::log::source) reads one.
//! 3. A [`Summer`] says what a chunk does to the [`Row`](crate::sum::row::Row) of its stream. It is an [`Application`](jetfold::application::Application):
//!    pure, so every replay of the log decides the same. Its [`Table`](jetfold::table::Table) holds rows, and folds one batch after the other.
//! 4. A [`Store`](jetfold::store::Store) is `fold(log[..=position])`, one redb file a partition. Rows and
//!    [`Checkpoint`](jetfold::checkpoint::Checkpoint) are committed in one transaction; nothing is acked, because the store leads.
//! 5. The final of a stream is published under a subject made of its ID, to [`FINAL_SUMS_STREAM`], which takes one
//!    message a subject: the server refuses a second one for as long as it keeps the first. [`bus::finals`](jetfold::effects) publishes
//!    until it is confirmed.
//! 6. A [`Partition`](jetfold::partition::Partition) is where log, table and store meet:
//!    pull, fold, publish, each effect confirmed, then commit. What may be committed is decided by a [`Line`](jetfold::commit::line::Line) of
//!    transactions and an [`Inspection`](jetfold::commit::inspection::Inspection) of its first, both pure. A crash anywhere replays from the
//!    checkpoint and arrives at the same place. A [log that is not what it was](jetfold::identity::Verdict) is refused by name.
//! 7. [`generate_and_verify_streams`] is the other side: the [`Ledger`](crate::run::ledger::Ledger) of a [`Run`](run::Run) says how
//!    each stream has ended.
//!
//! No timer, lease, dedupe window or ack decides correctness. [`summing::run`](crate::roles::summing::run) is a whole worker, to be started within any
//! service: `examples/embed.rs` does.
//!
//! # The modules, from the ground up
//!
//! Imports point down only.
//!
//! | floor | modules |
//! | --- | --- |
//! | 5 | [`mod@cli`], [`local::up`] |
//! | 4 | [`mod@roles`], [`mod@run`] |
//! | 2 | [`sum::topology_section`] |
//! | 1 | [`sum::held`] |
//! | 0 | [`run::ahead`], [`run::interleaved`], [`run::ladder`], [`run::latency`], [`run::ledger`], [`run::presence`], [`run::report`], [`run::unopened`], [`run::workload`], [`mod@sum`] |
//! | side | [`cli::heap`], [`local::nats_server`], [`local::server`], [`mod@telemetry`] |

pub mod cli;
pub mod local;
pub mod roles;
pub mod run;
pub mod sum;
pub mod telemetry;

pub use crate::roles::chunker::{ChunkerConfig, generate_and_verify_streams};
pub use crate::sum::Summer;
pub use crate::sum::chunk::Chunk;
pub use crate::sum::names::FINAL_SUMS_STREAM;
pub use crate::sum::running::Sum;
pub use crate::sum::stream_id::StreamId;
