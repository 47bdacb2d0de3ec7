//! `RunFinals`: what the leaders say of the finals of one run, and of the closing chunks before them.

use crate::run::ledger::{BatchPlace, Copies, Final};
use crate::sum::codec;
use crate::sum::names::FinalNames;
use crate::sum::stream_id::{RunPrefix, StreamId};
use jetfold::MessageMark;
use jetfold::nats::connect::{Connection, Denied};
use jetfold::nats::names::Names;
use jetfold::nats::read::{self, NoAnswer, StoredMessage, Which};
use jetfold::{Throttle, UnixNanos};

static COMPLAINTS: Throttle = Throttle::new();

/// The finals of one run, in `sums`.
#[derive(Clone)]
pub struct RunFinals {
    pub(super) connection: Connection,
    pub(super) names: Names,
    pub(super) prefix: RunPrefix,
    pub(super) sums: String,
    /// The subjects of them all.
    pub(super) filter: String,
}

impl RunFinals {
    pub fn new(connection: Connection, names: Names, prefix: RunPrefix) -> Self {
        let (sums, filter) = (names.outputs(), names.finals_of_run(prefix));
        Self { connection, names, prefix, sums, filter }
    }

    /// Whether `sums` holds finals of this run already.
    pub async fn exist(&self) -> Result<bool, NoAnswer> {
        Ok(self.next_after(0).await?.is_some())
    }

    /// The last final of a stream, as its leader has it.
    pub async fn last(&self, id: StreamId) -> Result<Option<Final>, NoAnswer> {
        let found = self.message(Which::LastOf(&self.names.final_subject(id))).await?;
        Ok(found.map(|message| self.read(&message.subject, &message.payload, message.mark()).1))
    }

    /// How many messages of a stream's subject the leader has.
    pub async fn copies(&self, id: StreamId) -> Result<Copies, NoAnswer> {
        let subject = self.names.final_subject(id);
        let first = self.message(Which::NextOf(1, &subject)).await?;
        let last = self.message(Which::LastOf(&subject)).await?;
        Ok(match (first, last) {
            (Some(first), Some(last)) if first.sequence != last.sequence => Copies::Several,
            (_, Some(last)) => Copies::One(codec::decode_final(&last.payload).ok()),
            (_, None) => Copies::None,
        })
    }

    /// The sequence of the first final of the run after a sequence.
    pub async fn next_after(&self, sequence: u64) -> Result<Option<u64>, NoAnswer> {
        Ok(self.message_after(sequence).await?.map(|message| message.sequence))
    }

    /// The first message of the run after a sequence.
    pub(super) async fn message_after(&self, sequence: u64) -> Result<Option<StoredMessage>, NoAnswer> {
        self.message(Which::NextOf(sequence + 1, &self.filter)).await
    }

    /// When a chunk batch was stored; `None` where its log has it no more, or where this user may not read the log.
    pub async fn stored_at(&self, batch: BatchPlace) -> Result<Option<UnixNanos>, NoAnswer> {
        let log = self.names.log(batch.partition);
        let question = read::message_question(&log);
        tokio::select! {
            found = read::message(&self.connection.jetstream, &log, Which::At(batch.position)) => {
                Ok(found?.map(|message| message.time))
            }
            _ = self.connection.denied_where(|denied| denied.publish_to() == Some(&question)) => {
                if COMPLAINTS.is_due() {
                    tracing::warn!("this user may not read the logs: which finals are late is told by this machine's clock");
                }
                Ok(None)
            }
        }
    }

    /// Whether a run goes on without what this user may not do: logs are read by whoever may, for the time of a message.
    pub(super) fn goes_on_without(&self, denied: &Denied) -> bool {
        let logs = read::message_question(self.names.log(0).trim_end_matches('0'));
        let partition = denied.publish_to().and_then(|subject| subject.strip_prefix(&logs));
        partition.is_some_and(|partition| partition.parse::<u32>().is_ok())
    }

    /// The stream that a message of `sums` belongs to by its subject, and what it says: a payload that names another is no
    /// final.
    pub(super) fn read(&self, subject: &str, payload: &[u8], mark: MessageMark) -> (Option<StreamId>, Final) {
        let id = self.names.stream_of_final(subject);
        (id, Final { sum: codec::decode_final(payload).ok().filter(|sum| Some(sum.id) == id), mark })
    }

    async fn message(&self, which: Which<'_>) -> Result<Option<StoredMessage>, NoAnswer> {
        read::message(&self.connection.jetstream, &self.sums, which).await
    }
}
