//! Names: what everything is called in JetStream.

use crate::application::{Application, Input, Output};
use crate::checkpoint::Position;
use crate::time::UnixNanos;
use crate::words::Words;

/// The names of one system, under its prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    prefix: String,
    application: &'static str,
    words: &'static Words,
    is_stamped: bool,
}

impl Names {
    /// Of an application's system under a prefix; empty: none.
    pub fn of<A: Application>(prefix: &str) -> Self {
        let is_stamped = A::INPUT == Input::Stamped;
        Self { prefix: prefix.to_owned(), application: A::NAME, words: &A::WORDS, is_stamped }
    }

    /// What the application is called, and what it calls things.
    pub fn application(&self) -> &'static str {
        self.application
    }

    pub fn words(&self) -> &'static Words {
        self.words
    }

    fn name(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}-{name}", self.prefix) }
    }

    /// A subject under the prefix.
    pub fn subject(&self, subject: &str) -> String {
        if self.prefix.is_empty() { subject.to_owned() } else { format!("{}.{subject}", self.prefix) }
    }

    /// A key of metadata.
    pub fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.application)
    }

    /// The partition log: a JetStream stream.
    pub fn log(&self, partition: u32) -> String {
        self.name(&format!("{}-{partition}", self.words.logs))
    }

    /// Where records that number themselves are published.
    pub fn log_subject(&self, partition: u32) -> String {
        self.subject(&format!("{}.{partition}", self.words.logs))
    }

    /// What every message of a log matches.
    pub fn log_filter(&self, partition: u32) -> String {
        if self.is_stamped { ">".to_owned() } else { self.log_subject(partition) }
    }

    /// Where a producer publishes its stamped batches.
    pub fn producer_subject(&self, partition: u32, producer: &str) -> String {
        self.subject(&format!("{}.{partition}.{producer}", self.words.logs))
    }

    /// The stream of what is put out: one message a subject.
    pub fn outputs(&self) -> String {
        self.name(self.words.outputs)
    }

    pub fn outputs_subjects(&self) -> String {
        self.subject(&format!("{}.>", self.words.outputs))
    }

    /// The subject of what is put out.
    pub fn output_subject(&self, output: &impl Output) -> String {
        let mut subject = self.subject(&format!("{}.", self.words.outputs));
        output.subject(&mut subject);
        subject
    }

    pub fn rejects(&self) -> String {
        self.name(self.words.rejects)
    }

    pub fn rejects_subjects(&self) -> String {
        self.subject(&format!("{}.>", self.words.rejects))
    }

    /// The rejects of one partition.
    pub fn rejects_of(&self, partition: u32) -> String {
        self.subject(&format!("{}.{partition}.>", self.words.rejects))
    }

    /// What is said of rejects that were dropped: behind the subject of each.
    pub fn dropped_rejects(&self) -> String {
        self.subject(&format!("{}.*.*.*.>", self.words.rejects))
    }

    /// The subject of the reject of one batch. It holds when the log was created: a log made anew counts from 1 again. One that
    /// is brought back from a backup does not, and goes on under the time when it was created first.
    pub fn reject_subject(&self, partition: u32, log_born: UnixNanos, position: Position) -> String {
        self.subject(&format!("{}.{partition}.{log_born}.{position}", self.words.rejects))
    }

    /// The subject of a reject that another stands in the way of: that one's subject, and what tells its content.
    pub fn differing_reject_subject(&self, found: &str, digest: &str) -> String {
        format!("{found}.{digest}")
    }

    /// The object store of snapshots.
    pub fn state_bucket(&self) -> String {
        self.name(self.words.state)
    }

    /// The key-value bucket of presence.
    pub fn members_bucket(&self) -> String {
        self.name(self.words.members)
    }

    /// The durable consumer of one worker, on each log that it folds.
    pub fn durable(&self, worker: &str) -> String {
        format!("{}-{worker}", self.words.worker)
    }

    /// The worker whose durable consumer this is.
    pub fn worker_of_durable<'a>(&self, durable: &'a str) -> Option<&'a str> {
        durable.strip_prefix(self.words.worker)?.strip_prefix('-')
    }

    /// Where workers are asked how far they are; each of them answers.
    pub fn standing_subject(&self) -> String {
        self.subject(&format!("{}s.standing", self.words.worker))
    }

    /// Where one worker alone is asked.
    pub fn standing_subject_of(&self, worker: &str) -> String {
        format!("{}.{worker}", self.standing_subject())
    }

    /// Where workers of one partition are asked how far a producer has come.
    pub fn producers_subject(&self, partition: u32) -> String {
        self.subject(&format!("{}s.producers.{partition}", self.words.worker))
    }

    /// Where the owner of a partition tells what it has committed, to whoever follows it.
    pub fn committed_subject(&self, partition: u32) -> String {
        self.subject(&format!("{}s.committed.{partition}", self.words.worker))
    }

    /// Where workers are told that a loss of one partition's log is accepted.
    pub fn accept_subject(&self, partition: u32) -> String {
        self.subject(&format!("{}s.accept.{partition}", self.words.worker))
    }

    pub fn accept_subject_of_all(&self) -> String {
        self.subject(&format!("{}s.accept.*", self.words.worker))
    }

    /// Where workers answer that. It is no inbox: who may say what is lost may be another user, whose answers are not for workers.
    pub fn accepted_subject(&self, partition: u32) -> String {
        self.subject(&format!("{}s.accepted.{partition}", self.words.worker))
    }

    /// Where workers of one partition are asked what they have committed.
    pub fn ask_subject(&self, partition: u32) -> String {
        self.subject(&format!("{}s.ask.{partition}", self.words.worker))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Letters, Said};

    #[test]
    fn a_prefix_stands_before_every_name_and_subject() {
        let plain = Names::of::<Letters>("");
        assert_eq!((plain.log(3), plain.log_subject(3)), ("log-3".to_owned(), "log.3".to_owned()));
        assert_eq!(plain.producer_subject(3, "shop"), "log.3.shop");
        assert_eq!(plain.output_subject(&Said(7)), "out.7");
        assert_eq!(plain.reject_subject(3, 17, 9), "rejects.3.17.9");
        assert_eq!(plain.key("format"), "letters.format");
        let acme = Names::of::<Letters>("acme");
        assert_eq!((acme.log(3), acme.log_subject(3)), ("acme-log-3".to_owned(), "acme.log.3".to_owned()));
        assert_eq!((acme.outputs(), acme.outputs_subjects()), ("acme-out".to_owned(), "acme.out.>".to_owned()));
        assert_eq!(acme.output_subject(&Said(7)), "acme.out.7");
        assert_eq!(
            (acme.state_bucket(), acme.ask_subject(3)),
            ("acme-state".to_owned(), "acme.workers.ask.3".to_owned())
        );
        assert_eq!(acme.standing_subject_of("a"), "acme.workers.standing.a");
    }

    #[test]
    fn a_durable_tells_its_worker() {
        let names = Names::of::<Letters>("acme");
        assert_eq!(names.worker_of_durable(&names.durable("a-1")), Some("a-1"));
        for other in ["worker", "workers-a", "summer-a", ""] {
            assert_eq!(names.worker_of_durable(other), None, "{other}");
        }
    }
}
