//! Names: what everything is called in JetStream.

use crate::application::Output;
use crate::checkpoint::Position;
use crate::row::UnixNanos;
use crate::stream_id::{RUN_PREFIX_BYTES, RunPrefix, StreamId};

/// The JetStream stream of finals, before the prefix of a system: one message a subject, one subject a stream.
pub const FINAL_SUMS_STREAM: &str = "sums";

/// What the name of every worker's durable begins with.
const DURABLE: &str = "summer-";

/// The names of one system, under its prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    prefix: String,
}

impl Names {
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    fn name(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}-{name}", self.prefix) }
    }

    fn subject(&self, subject: &str) -> String {
        if self.prefix.is_empty() { subject.to_owned() } else { format!("{}.{subject}", self.prefix) }
    }

    /// The partition log: a JetStream stream.
    pub fn log(&self, partition: u32) -> String {
        self.name(&format!("chunks-{partition}"))
    }

    pub fn log_subject(&self, partition: u32) -> String {
        self.subject(&format!("chunks.{partition}"))
    }

    pub fn sums(&self) -> String {
        self.name(FINAL_SUMS_STREAM)
    }

    pub fn sums_subjects(&self) -> String {
        self.subject(&format!("{FINAL_SUMS_STREAM}.>"))
    }

    /// The subject of one stream's final: its ID, split so that a run can be filtered for.
    pub fn final_subject(&self, id: StreamId) -> String {
        let hex = id.to_string();
        let (run, rest) = hex.split_at(2 * RUN_PREFIX_BYTES);
        self.subject(&format!("{FINAL_SUMS_STREAM}.{run}.{rest}"))
    }

    /// The subject of what is put out.
    pub fn output_subject(&self, output: &impl Output) -> String {
        let mut subject = self.subject(&format!("{FINAL_SUMS_STREAM}."));
        output.subject(&mut subject);
        subject
    }

    /// The finals of one run.
    pub fn finals_of_run(&self, run: RunPrefix) -> String {
        self.subject(&format!("{FINAL_SUMS_STREAM}.{run}.*"))
    }

    /// The stream whose final has this subject.
    pub fn stream_of_final(&self, subject: &str) -> Option<StreamId> {
        let id = subject.strip_prefix(&self.subject(&format!("{FINAL_SUMS_STREAM}.")))?;
        let (run, rest) = id.split_once('.')?;
        (run.len() == 2 * RUN_PREFIX_BYTES).then(|| format!("{run}{rest}").parse().ok())?
    }

    pub fn rejects(&self) -> String {
        self.name("rejects")
    }

    pub fn rejects_subjects(&self) -> String {
        self.subject("rejects.>")
    }

    /// The rejects of one partition.
    pub fn rejects_of(&self, partition: u32) -> String {
        self.subject(&format!("rejects.{partition}.>"))
    }

    /// The subject of the reject of one batch. It holds when the log was created: a log made anew counts from 1 again. One that
    /// is brought back from a backup does not, and goes on under the time when it was created first.
    pub fn reject_subject(&self, partition: u32, log_born: UnixNanos, position: Position) -> String {
        self.subject(&format!("rejects.{partition}.{log_born}.{position}"))
    }

    /// The subject of a reject that another stands in the way of: that one's subject, and what tells its content.
    pub fn differing_reject_subject(&self, found: &str, digest: &str) -> String {
        format!("{found}.{digest}")
    }

    /// The object store of snapshots.
    pub fn state_bucket(&self) -> String {
        self.name("stream-sum-state")
    }

    /// The key-value bucket of presence.
    pub fn members_bucket(&self) -> String {
        self.name("stream-sum-members")
    }

    /// The durable consumer of one worker, on each log that it folds.
    pub fn durable(&self, worker: &str) -> String {
        format!("{DURABLE}{worker}")
    }

    /// The worker whose durable consumer this is.
    pub fn worker_of_durable<'a>(&self, durable: &'a str) -> Option<&'a str> {
        durable.strip_prefix(DURABLE)
    }

    /// Where workers are asked how far they are; each of them answers.
    pub fn standing_subject(&self) -> String {
        self.subject("summers.standing")
    }

    /// Where one worker alone is asked.
    pub fn standing_subject_of(&self, worker: &str) -> String {
        self.subject(&format!("summers.standing.{worker}"))
    }

    /// The subject on which a client that can't hash publishes the chunks of one stream, as an account mapping's
    /// source, and where the server's own hash takes it.
    pub fn mapping(&self, partitions: u32) -> (String, String) {
        (self.subject("chunk.*"), self.subject(&format!("chunks.{{{{partition({partitions},1)}}}}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_stands_before_every_name_and_subject() {
        let id: StreamId = "000102030405060708090a0b0c0d0e0f".parse().unwrap();
        let plain = Names::new("");
        assert_eq!(plain.log(3), "chunks-3");
        assert_eq!(plain.log_subject(3), "chunks.3");
        assert_eq!(plain.final_subject(id), "sums.00010203.0405060708090a0b0c0d0e0f");
        assert_eq!(plain.reject_subject(3, 17, 9), "rejects.3.17.9");
        let acme = Names::new("acme");
        assert_eq!(acme.log(3), "acme-chunks-3");
        assert_eq!(acme.log_subject(3), "acme.chunks.3");
        assert_eq!(acme.sums_subjects(), "acme.sums.>");
        assert_eq!(acme.final_subject(id), "acme.sums.00010203.0405060708090a0b0c0d0e0f");
    }

    #[test]
    fn a_final_s_subject_names_its_stream() {
        let id: StreamId = "000102030405060708090a0b0c0d0e0f".parse().unwrap();
        for names in [Names::new(""), Names::new("acme")] {
            assert_eq!(names.stream_of_final(&names.final_subject(id)), Some(id));
        }
        let plain = Names::new("");
        for subject in ["sums.0001020304050607.08090a0b0c0d0e0f", "sums.x", "sums.00010203.zz", "acme.sums.a.b"] {
            assert_eq!(plain.stream_of_final(subject), None, "{subject}");
        }
    }
}
