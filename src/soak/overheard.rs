//! `Overheard`: what the summers of a soak say of logs that are not what they were, out of all that they log.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

/// Findings that are kept; what comes after them is counted.
const MOST: usize = 1000;

/// The names of verdicts, as they begin a sentence.
const VERDICTS: [&str; 6] = ["LogDiverged", "LogTruncated", "LogHole", "LogReplaced", "SumsForgot", "RejectsForgot"];

/// Something that JetStream was found to have forgotten, or to hold otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forgot {
    /// Seconds since the first chunk.
    pub t: f64,
    pub partition: Option<u32>,
    pub verdict: String,
    pub words: String,
}

#[derive(Default)]
struct Found {
    findings: Vec<Forgot>,
    /// What was found of which partition: summers say the same again, and to each other.
    known: BTreeSet<(Option<u32>, String, String)>,
    more: u64,
}

#[derive(Clone, Default)]
pub struct Overheard {
    /// When the first chunk was sent.
    began: Arc<OnceLock<Instant>>,
    found: Arc<Mutex<Found>>,
}

impl Overheard {
    pub fn begins(&self, began: Instant) {
        self.began.set(began).ok();
    }

    /// A line of a summer's log.
    pub fn hear(&self, line: &str) {
        let Some((partition, verdict, words)) = finding(line) else { return };
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        // The numbers in a sentence tell one finding from the next; that it is looked at again does not.
        let told = words.split(';').next().unwrap_or_default().to_owned();
        if !found.known.insert((partition, verdict.clone(), told)) {
            return;
        }
        let t = self.began.get().map_or(0.0, |began| began.elapsed().as_secs_f64());
        match found.findings.len() < MOST {
            true => found.findings.push(Forgot { t, partition, verdict, words }),
            false => found.more += 1,
        }
    }

    /// What was found so far, and how many findings are not among them.
    pub fn findings(&self) -> (Vec<Forgot>, u64) {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        (found.findings.clone(), found.more)
    }
}

/// The partition, the verdict and the sentence, of a line that tells of one.
fn finding(line: &str) -> Option<(Option<u32>, String, String)> {
    let entry: Value = serde_json::from_str(line).ok()?;
    let said = entry["message"].as_str().filter(|_| entry["level"] == "ERROR")?;
    let sentence = said.strip_prefix("recorded: ").unwrap_or(said);
    let (partition, sentence) = match sentence.strip_prefix("partition ").and_then(|rest| rest.split_once(": ")) {
        Some((partition, rest)) => (partition.parse().ok(), rest),
        None => {
            let log = entry["log"].as_str().and_then(|log| log.rsplit('-').next());
            (log.and_then(|partition| partition.parse().ok()), sentence)
        }
    };
    let verdict = VERDICTS.into_iter().find(|verdict| sentence.starts_with(&format!("{verdict}: ")))?;
    Some((partition, verdict.to_owned(), sentence.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_verdict_says_is_heard_once_and_all_else_passes_by() {
        let overheard = Overheard::default();
        for line in [
            r#"{"level":"ERROR","message":"partition 3: LogDiverged: the log ends at 5, and 9 was folded; looking again for 30 s"}"#,
            r#"{"level":"ERROR","message":"partition 3: LogDiverged: the log ends at 5, and 9 was folded; and so on"}"#,
            r#"{"level":"ERROR","message":"recorded: SumsForgot: 3 published again","log":"acme-chunks-7","from":1,"to":1}"#,
            r#"{"level":"WARN","message":"partition 3: LogDiverged: a snapshot is passed over"}"#,
            r#"{"level":"ERROR","message":"finals are delayed"}"#,
            "no JSON",
        ] {
            overheard.hear(line);
        }
        let (found, more) = overheard.findings();
        let told: Vec<_> = found.iter().map(|found| (found.partition, found.verdict.as_str())).collect();
        assert_eq!(told, [(Some(3), "LogDiverged"), (Some(7), "SumsForgot")]);
        assert_eq!(more, 0);
    }
}
