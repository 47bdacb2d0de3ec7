//! Stateful, exactly-once stream processing on NATS JetStream.
//!
//! A **chunker** makes many content streams and publishes them as interleaved chunks, partitioned by a hash of the
//! stream's ID. **Summers** fold a running SHA-1 per stream, and publish the final sum of each. The chunker verifies
//! that every stream got exactly one final, the right one, in time.
//!
//! # The story, in seven steps
//!
//! 1. A stream of content has a [`StreamId`](stream_id::StreamId); its content travels as [`Chunk`](chunk::Chunk)s,
//!    numbered from 1, the last of them empty. [`codec`] is how they look on the wire, and [`workload`] makes them up.
//! 2. Each partition has a JetStream stream of its own, its *partition log*, so its positions are dense: the next batch
//!    is always `position + 1`. [`bus::lanes`] fills the logs, one batch in flight on each; [`bus::source`] reads one.
//! 3. The [fold](transaction::Fold) says what a chunk does to the [`Row`](row::Row) of its stream. It is pure: what it
//!    decides depends on the log alone, so every replay decides the same.
//! 4. A [`Store`](store::Store) is `fold(log[..=position])`, one redb file a partition. Rows and
//!    [`Checkpoint`](checkpoint::Checkpoint) are committed in one transaction; nothing is acked, because the store leads.
//! 5. The final of a stream is published under a subject made of its ID, to a stream that takes one message a subject:
//!    the server refuses a second one for as long as it keeps the first. [`bus::finals`] publishes until it is confirmed.
//! 6. A [`Partition`](partition::Partition) is where log, fold and store meet: pull, fold, publish, each effect confirmed,
//!    then commit. A crash anywhere replays from the checkpoint and arrives at the same place. A
//!    [log that is not what it was](checkpoint::Verdict) is refused by name.
//! 7. The [`Ledger`](verify::Ledger) of a [`Run`](run::Run) says how each stream has ended.
//!
//! No timer, lease, dedupe window or ack decides correctness.
//!
//! # The modules, from the ground up
//!
//! Imports point down only.
//!
//! | floor | modules |
//! | --- | --- |
//! | 5 | [`cli`], [`config`] |
//! | 4 | the roles: [`summer`], [`chunker`], [`sum_files`], [`get`]; [`run`] is what two of them share |
//! | 3 | [`partition`] |
//! | 2 | [`bus`]: everything that is said to NATS |
//! | 1 | [`store`]: everything that is said to redb |
//! | 0 | [`stream_id`], [`chunk`], [`sum`], [`codec`], [`row`], [`checkpoint`], [`reject`], [`transaction`], [`workload`], [`verify`]: pure |
//! | side | [`telemetry`], [`shutdown`], [`crash_point`], [`values`], [`nats_server`] |

pub mod chunk;
pub mod stream_id;
pub mod sum;

pub mod codec;
pub mod row;
pub mod workload;

pub mod checkpoint;
pub mod reject;
pub mod transaction;

pub mod store;

pub mod bus;

pub mod partition;

pub mod summer;

pub mod verify;

pub mod run;

pub mod chunker;
pub mod get;
pub mod sum_files;

pub mod cli;
pub mod config;

pub mod crash_point;
pub mod nats_server;
pub mod shutdown;
pub mod telemetry;
pub mod values;
