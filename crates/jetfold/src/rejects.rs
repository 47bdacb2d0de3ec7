//! Rejects, for whoever works them off: listed, read one by one, and dropped with a reason.
//!
//! A reject is a batch of which something was rejected, named by its sequence in the stream of rejects. Nothing is taken out of that
//! stream: it forgets what is older than it is told to keep. What is dropped gets a message beside it that says why, on a subject of
//! its own; so it is dropped once, and whoever asks later is told.

use crate::checkpoint::Position;
use crate::effects::{REJECT_CHUNKS, REJECT_COUNT, REJECT_PAYLOAD, REJECT_REASON};
use crate::identity::rfc3339;
use crate::nats::connect::Connection;
use crate::nats::names::Names;
use crate::nats::publish::{self, Once};
use crate::nats::read::{self, NoAnswer, StoredMessage, Which};
use crate::time::UnixNanos;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;

/// The last token of a subject on which it is said why a reject is dropped.
const DROPPED: &str = "dropped";

/// One reject.
#[derive(Clone, Debug)]
pub struct Reject {
    pub sequence: Position,
    /// When it was stored.
    pub time: UnixNanos,
    /// Where its batch was in a log, as the subject says it.
    pub partition: String,
    pub position: String,
    subject: String,
    message: StoredMessage,
}

/// Why a reject was dropped, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    pub why: String,
    pub time: UnixNanos,
}

/// Records of a batch that were rejected, by their places in it, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Range {
    first: usize,
    last: usize,
    reason: String,
}

/// The rejects of a system.
#[derive(Clone)]
pub struct Rejects {
    connection: Connection,
    names: Names,
}

impl Rejects {
    pub fn new(connection: Connection, names: Names) -> Self {
        Self { connection, names }
    }

    /// The oldest rejects, at most so many: of one partition, and of one reason, if they are given. `dropped`: those that were
    /// dropped, with why; else those that were not.
    pub async fn list(
        &self,
        partition: Option<u32>,
        reason: Option<&str>,
        limit: usize,
        dropped: bool,
    ) -> Result<Vec<(Reject, Option<Dropped>)>, NoAnswer> {
        let filter = match partition {
            None => self.names.rejects_subjects(),
            Some(partition) => self.names.rejects_of(partition),
        };
        let mut why = self.dropped().await?;
        let (mut next, mut found) = (1, Vec::new());
        while found.len() < limit
            && let Some(message) = self.read(Which::NextOf(next, &filter)).await?
        {
            next = message.sequence + 1;
            let Some(reject) = self.reject(message) else { continue };
            let why = why.remove(&of_dropped(&reject.subject));
            if why.is_some() == dropped && reason.is_none_or(|reason| reject.has(reason)) {
                found.push((reject, why));
            }
        }
        Ok(found)
    }

    /// The one with this sequence.
    pub async fn one(&self, sequence: Position) -> Result<Option<Reject>, NoAnswer> {
        Ok(self.read(Which::At(sequence)).await?.and_then(|message| self.reject(message)))
    }

    /// Why a reject was dropped, if it was.
    pub async fn why_dropped(&self, reject: &Reject) -> Result<Option<Dropped>, NoAnswer> {
        let subject = of_dropped(&reject.subject);
        Ok(self.read(Which::LastOf(&subject)).await?.map(Dropped::of))
    }

    /// Drops a reject: it is not listed any more, and the reason is kept for as long as rejects are. `Some` is what somebody has said
    /// before, which stays. Goes on until the leader shows that it is stored: dropping the future is how to give up.
    pub async fn drop(&self, reject: &Reject, why: &str) -> Option<Dropped> {
        let subject = of_dropped(&reject.subject);
        let payload = Bytes::from(why.to_owned());
        let stored = publish::publish_once(&self.connection, &self.names.rejects(), &subject, None, payload).await;
        match stored.once {
            // By this call, whose acknowledgement was lost, or by another that said the same.
            Once::Found(message) if message.payload != why => Some(Dropped::of(message)),
            Once::Found(_) | Once::Stored(_) => None,
        }
    }

    /// All that is said of dropped ones, by its subject.
    async fn dropped(&self) -> Result<BTreeMap<String, Dropped>, NoAnswer> {
        let (mut next, mut found) = (1, BTreeMap::new());
        let filter = self.names.dropped_rejects();
        while let Some(message) = self.read(Which::NextOf(next, &filter)).await? {
            next = message.sequence + 1;
            // A reject that stood in another's way has a longer subject as well.
            if message.subject.ends_with(DROPPED) {
                found.insert(message.subject.clone(), Dropped::of(message));
            }
        }
        Ok(found)
    }

    async fn read(&self, which: Which<'_>) -> Result<Option<StoredMessage>, NoAnswer> {
        read::message(&self.connection.jetstream, &self.names.rejects(), which).await
    }

    /// The subject says where it comes from; `None` if it says that another is dropped.
    fn reject(&self, message: StoredMessage) -> Option<Reject> {
        let all = self.names.rejects_subjects();
        let subject = message.subject.clone();
        let rest = subject.strip_prefix(all.trim_end_matches('>')).unwrap_or_default();
        let mut parts = rest.split('.');
        let (partition, position) = (parts.next().unwrap_or("-").to_owned(), parts.nth(1).unwrap_or("-").to_owned());
        let is_dropped = parts.any(|part| part == DROPPED);
        let StoredMessage { sequence, time, .. } = message;
        (!is_dropped).then_some(Reject { sequence, time, partition, position, subject, message })
    }
}

/// Where it is said that the reject of this subject is dropped.
fn of_dropped(subject: &str) -> String {
    format!("{subject}.{DROPPED}")
}

impl Dropped {
    fn of(message: StoredMessage) -> Self {
        Self { why: String::from_utf8_lossy(&message.payload).into_owned(), time: message.time }
    }
}

impl Reject {
    fn header(&self, name: &str) -> &str {
        self.message.header(name).unwrap_or("-")
    }

    fn has(&self, reason: &str) -> bool {
        self.header(REJECT_REASON).split(',').any(|found| found == reason)
    }

    /// The batch; `None` if only its length and digest were kept, because it was too large.
    pub fn payload(&self) -> Option<&[u8]> {
        self.message.header(REJECT_PAYLOAD).is_none().then_some(&self.message.payload)
    }

    /// Why the record at this place of the batch was rejected; `None` if it was not, or if too many were for all to be told.
    pub fn reason_at(&self, index: usize) -> Option<String> {
        let ranges = self.header(REJECT_CHUNKS).split("; ").filter_map(range);
        ranges.into_iter().find(|range| (range.first..=range.last).contains(&index)).map(|range| range.reason)
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sequence, time, partition, position, .. } = self;
        let (time, count, which) = (rfc3339(*time), self.header(REJECT_COUNT), self.header(REJECT_CHUNKS));
        write!(f, "{sequence}  {time}  partition {partition}  position {position}  {count} rejected: {which}")
    }
}

/// `3 gap` or `0-2 gap`.
fn range(text: &str) -> Option<Range> {
    let (indexes, reason) = text.split_once(' ')?;
    let (first, last) = indexes.split_once('-').unwrap_or((indexes, indexes));
    Some(Range { first: first.parse().ok()?, last: last.parse().ok()?, reason: reason.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_a_header_is_read_and_what_was_cut_off_is_not() {
        let found: Vec<_> = "0-2 gap; 3 broken; and 12 more".split("; ").filter_map(range).collect();
        let of = |first, last, reason: &str| Range { first, last, reason: reason.to_owned() };
        assert_eq!(found, [of(0, 2, "gap"), of(3, 3, "broken")]);
    }
}
