//! Stateful, exactly-once stream processing on NATS JetStream.
//!
//! A **chunker** makes many content streams and publishes them as interleaved chunks, partitioned by a hash of the
//! stream's ID. **Summers** fold a running SHA-1 per stream, and publish the final sum of each. The chunker verifies
//! that every stream got exactly one final, the right one, in time.
//!
//! # The story, in seven steps
//!
//! 1. A stream of content has a [`StreamId`]; its content travels as [`Chunk`]s,
//!    numbered from 1, the last of them empty. [`codec`] is how they look on the wire, and [`workload`] makes them up.
//! 2. Each partition has a JetStream stream of its own, its *partition log*, so its positions are dense: the next batch
//!    is always `position + 1`. [`run::lanes`] fills the logs, one batch in flight on each; [`bus::source`] reads one.
//! 3. A [`Summer`] says what a chunk does to the [`Row`](row::Row) of its stream. It is an [`Application`](application::Application):
//!    pure, so every replay of the log decides the same. Its [`Table`](table::Table) holds rows, and folds one batch after the other.
//! 4. A [`Store`](store::Store) is `fold(log[..=position])`, one redb file a partition. Rows and
//!    [`Checkpoint`](checkpoint::Checkpoint) are committed in one transaction; nothing is acked, because the store leads.
//! 5. The final of a stream is published under a subject made of its ID, to [`FINAL_SUMS_STREAM`], which takes one
//!    message a subject: the server refuses a second one for as long as it keeps the first. [`bus::finals`] publishes
//!    until it is confirmed.
//! 6. A [`Partition`](partition::Partition) is where log, table and store meet:
//!    pull, fold, publish, each effect confirmed, then commit. What may be committed is decided by a [`Line`](line::Line) of
//!    transactions and an [`Inspection`](inspection::Inspection) of its first, both pure. A crash anywhere replays from the
//!    checkpoint and arrives at the same place. A [log that is not what it was](identity::Verdict) is refused by name.
//! 7. [`generate_and_verify_streams`] is the other side: the [`Ledger`](verify::Ledger) of a [`Run`](run::Run) says how
//!    each stream has ended.
//!
//! No timer, lease, dedupe window or ack decides correctness. [`summing::run`] is a whole worker, to be started within any
//! service: `examples/embed.rs` does.
//!
//! # The modules, from the ground up
//!
//! Imports point down only.
//!
//! | floor | modules |
//! | --- | --- |
//! | 5 | [`cli`], [`config`], [`context`], [`progress`]; [`up`], the roles together |
//! | 4 | the roles: [`publisher`] for anybody's records, [`summing`], a [`worker`] that sums, [`chunker`], [`sum_files`], [`get`], [`status`]; [`generator`] is how the chunker makes chunks, [`run`] what two of them share; [`system`], an application and where it runs, with what the [`environment`] says of it |
//! | 3 | [`partition`] |
//! | 2 | [`bus`]: everything that is said to NATS; [`topology_section`]: what of it is configured |
//! | 1 | [`store`]: everything that is said to redb; [`snapshot`], a store as a stream of bytes; [`table`]: rows in memory; [`testing`]: both, for whoever writes an application; [`summer::held`], the table of this program |
//! | 0 | [`stream_id`], [`chunk`], [`sum`], [`codec`], [`checksum`], [`row`], [`mod@time`], [`checkpoint`], [`identity`], [`accept`], [`doubt`], [`effect`], [`reject`], [`key`], [`packed`], [`words`], [`stamp`], [`producer`], [`application`], [`transaction`], [`bus::names`], [`summer`], [`final_names`], [`mod@line`], [`inspection`], [`workload`], [`interleaved`], [`unopened`], [`verify`], [`ladder`], [`latency`], [`ahead`], [`presence`], [`report`], [`standing`]: pure |
//! | side | [`telemetry`], [`throttle`], [`shutdown`], [`caught`], [`crash_point`], [`heap`], [`joined`], [`values`]; [`nats_server`] and [`local_server`] for a server of one's own |

pub mod chunk;
pub mod stream_id;
pub mod sum;

pub mod checksum;
pub mod codec;
pub mod interleaved;
pub mod row;
pub mod time;
pub mod workload;

pub mod accept;
pub mod checkpoint;
pub mod doubt;
pub mod effect;
pub mod identity;
pub mod reject;
pub mod transaction;

pub mod application;
pub mod key;
pub mod packed;
pub mod producer;
pub mod stamp;
pub mod words;

#[cfg(test)]
mod sample;

pub mod store;

pub mod snapshot;

pub mod final_names;
pub mod summer;
pub mod table;
pub mod topology_section;

pub mod testing;

pub mod inspection;
pub mod line;

pub mod bus;

pub mod standing;

pub mod partition;

pub mod summing;
pub mod worker;

pub mod environment;
pub mod publisher;
pub mod system;

pub mod ahead;
pub mod ladder;
pub mod latency;
pub mod presence;
pub mod report;
pub mod unopened;
pub mod verify;

pub mod run;

pub mod chunker;
pub mod generator;
pub mod get;
pub mod status;
pub mod sum_files;

pub mod local_server;
pub mod nats_server;
pub mod up;

pub mod cli;
pub mod config;
pub mod context;

pub mod caught;
pub mod crash_point;
pub mod heap;
pub mod joined;
pub mod progress;
pub mod shutdown;
pub mod telemetry;
pub mod throttle;
pub mod values;

pub use chunk::Chunk;
pub use chunker::{ChunkerConfig, generate_and_verify_streams};
pub use final_names::FINAL_SUMS_STREAM;
pub use stream_id::StreamId;
pub use sum::Sum;
pub use summer::Summer;
