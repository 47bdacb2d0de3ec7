//! What is named after streams and runs, beside what [the machine](jetfold::nats::names) names.

use crate::sum::Summer;
use crate::sum::stream_id::{RUN_PREFIX_BYTES, RunPrefix, StreamId};
use jetfold::nats::names::Names;
use std::fmt;

/// The JetStream stream of finals, before the prefix of a system: one message a subject, one subject a stream.
pub const FINAL_SUMS_STREAM: &str = "sums";

/// The names of stream-sum's system under a prefix.
pub fn names(prefix: &str) -> Names {
    Names::of::<Summer>(prefix)
}

/// A stream's ID as the end of a subject: split, so that a run can be filtered for.
pub(crate) struct IdTokens(pub StreamId);

impl fmt::Display for IdTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = self.0.to_string();
        let (run, rest) = hex.split_at(2 * RUN_PREFIX_BYTES);
        write!(f, "{run}.{rest}")
    }
}

/// Names that are made of streams and runs.
pub trait FinalNames {
    /// The subject of one stream's final.
    fn final_subject(&self, id: StreamId) -> String;

    /// The finals of one run.
    fn finals_of_run(&self, run: RunPrefix) -> String;

    /// The stream whose final has this subject.
    fn stream_of_final(&self, subject: &str) -> Option<StreamId>;

    /// The subject on which a client that can't hash publishes the chunks of one stream, as an account mapping's
    /// source, and where the server's own hash takes it.
    fn mapping(&self, partitions: u32) -> (String, String);
}

impl FinalNames for Names {
    fn final_subject(&self, id: StreamId) -> String {
        self.subject(&format!("{FINAL_SUMS_STREAM}.{}", IdTokens(id)))
    }

    fn finals_of_run(&self, run: RunPrefix) -> String {
        self.subject(&format!("{FINAL_SUMS_STREAM}.{run}.*"))
    }

    fn stream_of_final(&self, subject: &str) -> Option<StreamId> {
        let id = subject.strip_prefix(&self.subject(&format!("{FINAL_SUMS_STREAM}.")))?;
        let (run, rest) = id.split_once('.')?;
        (run.len() == 2 * RUN_PREFIX_BYTES).then(|| format!("{run}{rest}").parse().ok())?
    }

    fn mapping(&self, partitions: u32) -> (String, String) {
        (self.subject("chunk.*"), self.subject(&format!("chunks.{{{{partition({partitions},1)}}}}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_final_s_subject_names_its_stream() {
        let id: StreamId = "000102030405060708090a0b0c0d0e0f".parse().unwrap();
        assert_eq!(names("").final_subject(id), "sums.00010203.0405060708090a0b0c0d0e0f");
        assert_eq!(names("acme").final_subject(id), "acme.sums.00010203.0405060708090a0b0c0d0e0f");
        for names in [names(""), names("acme")] {
            assert_eq!(names.stream_of_final(&names.final_subject(id)), Some(id));
        }
        for subject in ["sums.0001020304050607.08090a0b0c0d0e0f", "sums.x", "sums.00010203.zz", "acme.sums.a.b"] {
            assert_eq!(names("").stream_of_final(subject), None, "{subject}");
        }
    }
}
