//! Batches that carry the stamp of their producer: what becomes of one is known before any of its records is folded.

use super::{Staged, Table};
use crate::application::{Application, Input};
use crate::producer::{Fate, Refusal};
use crate::refused::{RejectedBatch, Rejections};
use crate::transaction::{Batch, Folded, Tally};

impl<A: Application> Table<A> {
    /// Whether batches are stamped.
    pub(super) const IS_STAMPED: bool = matches!(A::INPUT, Input::Stamped);

    /// Takes note of the stamp of the batch that the table has just moved to. If the batch is not to be folded: what it asks for
    /// instead. Rows of keys stay as they are.
    pub(super) fn unfolded(&mut self, batch: &Batch, staged: &Staged<'_, A>) -> Option<Folded<A>> {
        let (now, expiry) = (self.at.log_time, self.application.producer_expiry());
        let mut folded = Folded { outputs: Vec::new(), rejected: None, loss: None, tally: Tally::default() };
        match self.producers.judge(batch.stamp.as_ref(), now, expiry) {
            Fate::Next => return None,
            Fate::Again => folded.tally.again = 1,
            Fate::Refused(Refusal { reason, loss }) => {
                let records = staged.records.len();
                // A batch that has no records, or can't be decoded, is rejected as one.
                let rejections = Rejections::all(records.max(1), reason);
                folded.tally.records = records as u64;
                folded.tally.rejected = rejections.count();
                folded.tally.losses = if loss.is_some() { rejections.count() } else { 0 };
                folded.loss = loss;
                let payload = batch.payload.clone();
                folded.rejected = Some(RejectedBatch { position: batch.position, payload, rejections });
            }
        }
        Some(folded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::producer::{PRODUCER_GAP, UNKNOWN_PRODUCER, UNSTAMPED};
    use crate::sample::{EXPIRY, Letters, Said, batch};
    use crate::table::Share;
    use crate::transaction::Transaction;
    use std::sync::Arc;

    const SHARE: Share = Share { partition: 0, partitions: 1 };

    struct Log(Table<Letters>);

    impl Log {
        fn new() -> Self {
            Self(Table::new(Arc::new(Letters), SHARE, u64::MAX, Checkpoint::start_of(1)))
        }

        /// Folds a message of producer `p`, its first life.
        fn at(&mut self, time: i64, number: u64, letters: &[u8]) -> Folded<Letters> {
            self.stamped(time, Some(("p", 1, number, number)), letters)
        }

        fn stamped(&mut self, time: i64, stamp: Option<(&str, u64, u64, u64)>, letters: &[u8]) -> Folded<Letters> {
            let batch = batch(self.0.position() + 1, time, stamp, letters);
            let staged = self.0.stage(&batch.payload);
            self.0.fold(&batch, staged)
        }

        fn seal(&mut self) -> Transaction<Letters> {
            self.0.seal(0, &[]).unwrap()
        }
    }

    fn refused(folded: &Folded<Letters>) -> Option<String> {
        folded.rejected.as_ref().map(|rejected| rejected.rejections.describe(99))
    }

    #[test]
    fn a_batch_that_is_sent_again_is_counted_once() {
        let mut log = Log::new();
        assert_eq!(log.at(1, 1, b"aab").tally.records, 3);
        let again = log.at(1, 1, b"aab");
        assert_eq!((again.tally.again, again.tally.records, refused(&again)), (1, 0, None));
        assert_eq!(log.at(1, 2, b"a").outputs, [Said::of(b'a'.into(), 3)]);
        let transaction = log.seal();
        assert_eq!(transaction.rows, [(b'a'.into(), 3), (b'b'.into(), 1)]);
        assert_eq!((transaction.tally.again, transaction.tally.records, transaction.checkpoint.position), (1, 4, 3));
    }

    #[test]
    fn a_batch_is_refused_whole_and_changes_no_row() {
        let mut log = Log::new();
        for (stamp, letters, expected, loses) in [
            (None, &b"abc"[..], format!("0-2 {UNSTAMPED}"), false),
            (Some(("p", 1, 2, 2)), b"a?", format!("0-1 {UNKNOWN_PRODUCER}"), false),
            (Some(("p", 1, 1, 1)), b"", String::new(), false),
            (Some(("p", 1, 3, 3)), b"abcd", format!("0-3 {PRODUCER_GAP}"), true),
            (Some(("p", 1, 4, 4)), b"a", format!("0 {PRODUCER_GAP}"), true),
            (Some(("p", 1, 4, 4)), b"ab\xff", format!("0 {PRODUCER_GAP}"), true),
            (Some(("p", 1, 4, 4)), b"", format!("0 {PRODUCER_GAP}"), true),
        ] {
            let folded = log.stamped(1, stamp, letters);
            assert_eq!(refused(&folded).unwrap_or_default(), expected);
            let rejections = folded.rejected.map_or(0, |rejected| rejected.rejections.count());
            assert_eq!((folded.tally.rejected, folded.tally.losses), (rejections, if loses { rejections } else { 0 }));
            assert_eq!(folded.loss.is_some(), loses, "{expected}");
            assert!(folded.outputs.is_empty());
        }
        let transaction = log.seal();
        assert_eq!((transaction.rows, transaction.tally.rejected), (vec![], 3 + 2 + 4 + 1 + 1 + 1));
    }

    #[test]
    fn what_a_producer_sends_counts_as_sent_whatever_its_records_are() {
        let mut log = Log::new();
        assert_eq!(refused(&log.at(1, 1, b"a\xff")).as_deref(), Some("1 undecodable"));
        assert_eq!(refused(&log.at(1, 2, b"a?b")).as_deref(), Some("1 no letter"));
        assert_eq!(log.at(1, 2, b"a?b").tally.again, 1);
        assert_eq!(log.seal().rows.len(), 2);
    }

    #[test]
    fn a_producer_expires_by_the_time_of_the_log() {
        let mut log = Log::new();
        log.at(5, 1, b"a");
        log.stamped(5 + EXPIRY, Some(("q", 1, 1, 1)), b"a");
        assert_eq!(log.at(5 + EXPIRY, 1, b"a").tally.again, 1);
        let names = |transaction: Transaction<Letters>| -> Vec<_> {
            let producers = transaction.producers.into_iter();
            producers.map(|(name, row)| (name.to_string(), row.map(|row| row.number))).collect()
        };
        assert_eq!(names(log.seal()), [("p".to_owned(), Some(1)), ("q".to_owned(), Some(1))]);
        assert_eq!(refused(&log.at(6 + EXPIRY, 2, b"a")).as_deref(), Some("0 unknown-producer"));
        assert_eq!(names(log.seal()), [("p".to_owned(), None)], "it leaves the store");
    }

    #[test]
    #[should_panic = "producers are read from the store"]
    fn a_table_that_knows_no_producers_goes_on_nowhere() {
        Table::new(Arc::new(Letters), SHARE, 0, Checkpoint { position: 1, ..Checkpoint::start_of(1) });
    }
}
