//! A fold on JetStream: stateful work that counts each record exactly once, whatever dies.
//!
//! You say what a record does to the row of its key, in an [`Application`]. jetfold does the rest: it
//! keeps records in dense logs and rows in stores on the disks of workers, publishes what the fold puts out, and arrives at the
//! same place after any crash.
//!
//! # The story, in seven steps
//!
//! 1. An application has keys, a [row](application::Row) for each key, and records. A record belongs to one
//!    [key](Key), and the key to one partition.
//! 2. A [`Publisher`] gathers records into batches. Each batch is [stamped](Stamp) with its producer and
//!    its number: the log stores it once, however often it is sent, and the fold drops one that comes again all the same.
//! 3. Each partition has a JetStream stream of its own, its *partition log*, so its positions are dense: the next batch
//!    is always `position + 1`. A [`Source`](log::source::Source) reads one log, and sees at once if a batch is missing.
//! 4. A [`Table`] holds rows in memory, and has the application fold one batch after the other. The application is
//!    pure, so every replay of the log decides the same.
//! 5. Each output of the fold is published under a subject of its own, and so is each batch of which it refuses something.
//!    Their streams take one message a subject: the server refuses a second one for as long as it keeps the first.
//!    A worker publishes them until each is confirmed.
//! 6. A [`Store`](store::Store) is `fold(log[..=position])`, one redb file a partition. Rows and
//!    [`Checkpoint`] are committed in one transaction; nothing is acked, because the store leads.
//!    [Snapshots](archive) of it are put away, and the log is purged behind them.
//! 7. A `Partition` of a [`Worker`] is where log, table and store meet: pull, fold, publish, each effect confirmed, then
//!    commit. What may be committed is decided by a `Line` of transactions and an
//!    `Inspection` of its first, both pure. A crash anywhere replays from the checkpoint and
//!    arrives at the same place. A [log that is not what it was](Verdict) is refused by name.
//!
//! # What is guaranteed
//!
//! 1. Each record that a log holds is folded once into the committed rows, in the order of the log; what is not folded is proven
//!    to be a duplicate, or stands in the stream of rejects with a reason.
//! 2. Each output is confirmed before the rows that it was made with are committed, and its stream holds one message of it for as
//!    long as it keeps that.
//! 3. If the broker has lost what it had acknowledged, or a disk has [changed what a store holds](store), the worker says what was
//!    lost, and what can be done.
//! 4. The log, the fold and subjects decide all of this: no timer, lease, dedupe window or ack does.
//!
//! Exactly-once begins at the log, with the stamp: a batch that its publisher sends again is folded once. What
//! happens before the log is the program's. If a program can read its input again, a
//! [publisher with a name](system::System::publisher_named) goes on where the last process of that name stopped; if a publisher
//! without a name dies, nothing tells how much of the input it has sent. An application
//! whose records number themselves needs no stamps, and says so by [`Input::Own`].
//! Exactly-once ends at the stream of outputs: a reader that connects again may see one message twice.
//!
//! # Word count
//!
//! The smallest application counts words: a word is a key, its row is a number, and each record adds one to it.
//!
//! ```
//! use jetfold::{Application, Cx, Never, Slot, Undecodable, testing};
//!
//! #[derive(Clone)]
//! struct WordCount;
//!
//! impl Application for WordCount {
//!     const NAME: &'static str = "word-count";
//!     type Key = String;
//!     type Row = u64;
//!     type Record<'a> = &'a str;
//!     type Output = Never;
//!     type Reason = Never;
//!     type Tally = ();
//!
//!     /// A message is a list of words, one a line.
//!     fn records<'a>(&self, payload: &'a [u8]) -> impl Iterator<Item = Result<&'a str, Undecodable>> {
//!         let (text, wrong) = match std::str::from_utf8(payload) {
//!             Ok(text) => (text, None),
//!             Err(_) => ("", Some(Err(Undecodable { index: 0, what: "not UTF-8" }))),
//!         };
//!         text.lines().map(Ok).chain(wrong)
//!     }
//!
//!     fn key<'r>(&self, word: &'r &str) -> &'r str {
//!         word
//!     }
//!
//!     fn fold(&self, count: Slot<'_, u64>, _: &&str, _: &mut Cx<'_, Self>) -> Result<(), Never> {
//!         let before = count.get().copied().unwrap_or(0);
//!         count.set(before + 1);
//!         Ok(())
//!     }
//! }
//!
//! // It is a fold: from whatever place a worker starts again, it arrives at the same counts.
//! let log = testing::log(["the\nquick\nfox", "the\nfox", "", "fox"]);
//! testing::restart_points(WordCount, &log).unwrap();
//! ```
//!
//! A program around it makes the JetStream objects, works, publishes and asks. Whatever of it is killed is started again, and
//! each word is counted once. The whole of it is `examples/word_count.rs`, in under 100 lines.
//!
//! ```no_run
//! # use jetfold::{Application, Config, Cx, Error, Never, Slot, System, Undecodable, View, signals};
//! # #[derive(Clone)]
//! # struct WordCount;
//! # impl Application for WordCount {
//! #     const NAME: &'static str = "word-count";
//! #     type Key = String;
//! #     type Row = u64;
//! #     type Record<'a> = &'a str;
//! #     type Output = Never;
//! #     type Reason = Never;
//! #     type Tally = ();
//! #     fn records<'a>(&self, _: &'a [u8]) -> impl Iterator<Item = Result<&'a str, Undecodable>> {
//! #         std::iter::empty()
//! #     }
//! #     fn key<'r>(&self, word: &'r &str) -> &'r str {
//! #         word
//! #     }
//! #     fn fold(&self, _: Slot<'_, u64>, _: &&str, _: &mut Cx<'_, Self>) -> Result<(), Never> {
//! #         Ok(())
//! #     }
//! # }
//! # async fn run() -> Result<(), Error> {
//! let system = System::new(WordCount, Config::from_env()?);
//! system.apply().await?;
//!
//! let mut publisher = system.publisher_named("reader").await?;
//! for (line, number) in std::io::stdin().lines().zip(1..) {
//!     for word in line?.split_whitespace() {
//!         publisher.push_at(number, word, |batch| batch.extend([word.as_bytes(), b"\n"].concat())).await?;
//!     }
//! }
//! publisher.finish().await?;
//!
//! let worker = system.worker().answering(|view: &View<WordCount>, word| {
//!     let count = view.get(&String::from_utf8_lossy(word))?.unwrap_or(0);
//!     Ok(count.to_string().into_bytes())
//! });
//! worker.run(signals()?).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Where to go on
//!
//! - [`Application`] is the contract: what an application says, and what purity asks of it.
//! - [`System`] is an application on a NATS server: it makes the JetStream objects, and gives workers, publishers
//!   and answers.
//! - [`testing::restart_points`] folds a log again from every place at which a worker may die, and tells the first
//!   difference: every application should have a test that calls it.
//!
//! # The modules, from the ground up
//!
//! Imports point down only.
//!
//! | floor | modules |
//! | --- | --- |
//! | 5 | `http`, `otlp` |
//! | 4 | `environment`, `publisher`, `simulation` (of tests), `system`, `testing::outside`, `worker` |
//! | 3 | `archive`, `partition`, `rejects` |
//! | 2 | `archive::bucket`, `archive::listed`, `effects`, `log`, `nats::admin`, `nats::connect`, `nats::heard`, `nats::plan`, `nats::presence`, `nats::publish`, `nats::read`, `nats::retry`, `nats::shape`, `nats::standing`, `nats::topology` |
//! | 1 | `store`, `table`, `testing` |
//! | 0 | `application`, `checkpoint`, `commit`, `group`, `identity`, `key`, `metrics`, `nats::names`, `packed`, `producer`, `refused`, `stamp`, `standing`, `store::checksum`, `time`, `transaction`, `words` |
//! | side | `caught`, `crash_point`, `joined`, `planted`, `shutdown`, `throttle`, `values` |

mod application;
pub mod archive;
mod caught;
mod checkpoint;
mod commit;
#[doc(hidden)]
pub mod crash_point;
mod effects;
mod environment;
mod group;
#[cfg(feature = "http")]
pub mod http;
mod identity;
mod joined;
mod key;
pub mod log;
pub mod metrics;
pub mod nats;
#[cfg(feature = "otlp")]
pub mod otlp;
mod packed;
mod partition;
#[doc(hidden)]
pub mod planted;
mod producer;
mod publisher;
mod refused;
pub mod rejects;
#[cfg(test)]
mod sample;
mod shutdown;
#[cfg(test)]
mod simulation;
mod stamp;
mod standing;
pub mod store;
mod system;
mod table;
pub mod testing;
mod throttle;
mod time;
mod transaction;
pub mod values;
mod words;
mod worker;

pub use application::{Application, Cx, Facts, Input, Never, Output, Place, Row, Slot, Tally, Undecodable};
pub use caught::caught;
pub use checkpoint::{Checkpoint, Mark, Position};
pub use effects::{REJECT_CHUNKS, REJECT_COUNT, REJECT_PAYLOAD, REJECT_REASON};
pub use identity::accept::{Acceptance, Accepted, Loss};
pub use identity::{LogState, MessageMark, Verdict, judge, rfc3339};
pub use joined::joined;
pub use key::{Key, partition_of_token};
pub use nats::admin::{Allowed, Change};
pub use packed::Packed;
pub use partition::counters::Counters;
pub use publisher::delivery::{Account, Delivery, DeliveryError, Halt, Patience};
pub use publisher::{PublishError, Publisher};
pub use refused::{MISROUTED, UNDECODABLE};
pub use shutdown::on_signals as signals;
pub use stamp::{STAMP, Stamp};
pub use standing::{Doing, Move, MoveCause, PartitionStanding, WorkerStanding};
pub use store::{StoreError, View};
pub use system::{Config, Error, System};
pub use table::{Share, Table};
pub use throttle::{Throttle, ThrottleByCause};
pub use time::{LogTime, UnixNanos, age};
pub use transaction::{Batch, Folded, Tally as FoldTally, Transaction};
pub use words::Words;
pub use worker::accepting::{Accepting, CannotTell, tell as accept};
pub use worker::ask::{AskError, Told, ask};
pub use worker::health::Health;
pub use worker::{Config as WorkerConfig, PartitionSet, Worker, WorkerError};
