//! What a soak comes to: one word, the sentences that a person reads aloud, and each guarantee or bound that was broken, with whose doing
//! that was, as far as it can be told.

use crate::run::report::{Counts, Latency};
use serde::Serialize;

/// In one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// It goes on, or was killed.
    Running,
    /// Every guarantee and every bound was kept.
    Kept,
    Broken,
    /// It could not be brought to its end, and nothing was broken until then.
    Unfinished,
}

/// Whose doing something was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Whose {
    Program,
    Cluster,
}

/// Something that was to hold, and did not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Broken {
    pub what: &'static str,
    pub count: u64,
    pub whose: Option<Whose>,
    pub detail: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judgement {
    pub word: Word,
    pub sentences: Vec<String>,
    pub broken: Vec<Broken>,
}

/// What is known at the end, or so far.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    pub counts: Counts,
    /// Streams that were closed, and of which nobody could tell how they ended.
    pub unknown: u64,
    pub latency: Latency,
    /// The same of messages that went past all workers.
    pub baseline: Latency,
    pub max_p99_ms: Option<f64>,
    /// Whether the run has ended; and why it ended before its time.
    pub has_ended: bool,
    pub failure: Option<String>,
    /// Verdicts on logs and other streams that were not what they had been.
    pub forgot: u64,
    /// Replicas that differ, each in words; `None`: there was nothing to compare.
    pub differences: Option<Vec<String>>,
    /// Faults that were done, and those of them of which no effect was seen.
    pub faults: u64,
    pub without_effect: u64,
    /// Exit codes of summers that say that a guarantee was broken.
    pub violations: Vec<String>,
    /// Of all faults, the longest time until the system was itself again.
    pub slowest_recovery_s: Option<f64>,
}

impl Evidence {
    /// Whose doing a loss is: JetStream's, if it was found to have forgotten what it had acknowledged.
    fn whose_loss(&self) -> Option<Whose> {
        Some(if self.forgot > 0 { Whose::Cluster } else { Whose::Program })
    }

    fn broken(&self) -> Vec<Broken> {
        let Self { counts, latency, baseline, .. } = self;
        let lost = self.whose_loss();
        let mut broken = Vec::new();
        let mut count = |what, count, whose, detail: &str| {
            if count > 0 {
                broken.push(Broken { what, count, whose, detail: detail.to_owned() });
            }
        };
        count("mismatched", counts.mismatched, Some(Whose::Program), "streams whose final is wrong");
        count("duplicate", counts.duplicate, lost, "streams with two finals in `sums`");
        count("missing", counts.missing, lost, "streams that were acknowledged whole and got no final");
        count("unexpected", counts.unexpected, None, "finals of streams that nobody has opened");
        let late = if baseline.max > latency.max / 2.0 { Some(Whose::Cluster) } else { lost };
        count("late", counts.late, late, "streams whose final was stored after the deadline");
        for violation in &self.violations {
            broken.push(Broken { what: "violation", count: 1, whose: lost, detail: violation.clone() });
        }
        if let Some(most) = self.max_p99_ms.filter(|most| latency.p99 > *most) {
            let whose = if baseline.p99 > most { Whose::Cluster } else { Whose::Program };
            let detail = format!(
                "the 99th percentile of latency was {:.1} ms, and {most:.0} ms were allowed; past all workers it was {:.1} ms",
                latency.p99, baseline.p99
            );
            broken.push(Broken { what: "max-p99", count: 1, whose: Some(whose), detail });
        }
        let differences = self.differences.iter().flatten();
        broken.extend(differences.map(|difference| Broken {
            what: "replicas differ",
            count: 1,
            whose: Some(Whose::Cluster),
            detail: difference.clone(),
        }));
        broken
    }

    pub fn judge(&self) -> Judgement {
        let broken = self.broken();
        let word = match (self.has_ended, &self.failure) {
            _ if !broken.is_empty() => Word::Broken,
            (false, _) => Word::Running,
            (true, Some(_)) => Word::Unfinished,
            (true, None) if self.counts.verified == 0 || self.unknown > 0 => Word::Unfinished,
            (true, None) => Word::Kept,
        };
        Judgement { word, sentences: self.sentences(&broken), broken }
    }

    fn sentences(&self, broken: &[Broken]) -> Vec<String> {
        let Self { counts, latency, baseline, .. } = self;
        let mut said = Vec::new();
        let ended = counts.streams - counts.unfinished.min(counts.streams);
        said.push(match broken {
            [] if counts.verified == 0 => "No stream has been verified.".to_owned(),
            [] => format!(
                "Every one of {} streams that have ended got exactly one final, the right one, in time.",
                thousands(ended)
            ),
            _ => format!(
                "Of {} streams that have ended, {} got their one final, the right one, in time.",
                thousands(ended),
                thousands(counts.verified)
            ),
        });
        said.extend(broken.iter().map(|Broken { what, count, whose, detail }| {
            let whose = match whose {
                Some(Whose::Program) => " This is this program's doing.",
                Some(Whose::Cluster) => " This is the servers' doing.",
                None => " Whose doing this is can't be told.",
            };
            format!("BROKEN, {what}: {} {detail}.{whose}", thousands(*count))
        }));
        if self.unknown > 0 {
            said.push(format!(
                "Of {} streams nobody could tell how they have ended: they are not counted as lost.",
                thousands(self.unknown)
            ));
        }
        if let Some(failure) = &self.failure {
            said.push(format!("The run ended before its time: {failure}."));
        }
        said.push(match (self.faults, self.without_effect) {
            (0, _) => "Nothing was done to the system: this is how it is if all goes well.".to_owned(),
            (faults, 0) => format!("{faults} faults were injected, and each was seen to have an effect."),
            (faults, vain) => format!("{faults} faults were injected, of which {vain} had no effect that was seen."),
        });
        if let Some(slowest) = self.slowest_recovery_s {
            said.push(format!("The slowest recovery took {slowest:.0} s."));
        }
        if self.forgot > 0 {
            let times = if self.forgot == 1 { "once".to_owned() } else { format!("{} times", self.forgot) };
            said.push(format!(
                "JetStream was found {times} to have forgotten what it had acknowledged; each is listed."
            ));
        }
        if self.differences.as_ref().is_some_and(Vec::is_empty) {
            said.push("At the end, every replica held the same messages.".to_owned());
        }
        if counts.verified > 0 {
            let mut sentence = format!(
                "From when it was due, half of the finals came within {}, and 99 of 100 within {}",
                spoken(latency.p50),
                spoken(latency.p99)
            );
            if baseline.max > 0.0 {
                sentence += &format!(
                    "; a message that no worker touched took {} and {} there and back",
                    spoken(baseline.p50),
                    spoken(baseline.p99)
                );
            }
            said.push(sentence + ".");
        }
        said
    }
}

/// Milliseconds, as they are said.
fn spoken(ms: f64) -> String {
    if ms < 1000.0 { format!("{ms:.1} ms") } else { format!("{:.1} s", ms / 1000.0) }
}

/// As people write large numbers.
pub fn thousands(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Evidence {
        let counts = Counts { streams: 1210, verified: 1200, unfinished: 10, ..Counts::default() };
        let latency = Latency { p50: 3.0, p99: 900.0, max: 3000.0, ..Latency::default() };
        let baseline = Latency { p50: 1.0, p99: 700.0, max: 2000.0, ..Latency::default() };
        Evidence { counts, latency, baseline, has_ended: true, faults: 9, ..Evidence::default() }
    }

    fn with(change: impl FnOnce(&mut Evidence)) -> Judgement {
        let mut evidence = kept();
        change(&mut evidence);
        evidence.judge()
    }

    #[test]
    fn kept_is_only_what_has_ended_with_everything_verified() {
        let judged = kept().judge();
        assert_eq!((judged.word, judged.broken.as_slice()), (Word::Kept, &[][..]));
        assert!(judged.sentences[0].starts_with("Every one of 1,200 streams"), "{judged:?}");
        assert_eq!(with(|evidence| evidence.has_ended = false).word, Word::Running);
        assert_eq!(with(|evidence| evidence.failure = Some("no server".to_owned())).word, Word::Unfinished);
        assert_eq!(with(|evidence| evidence.unknown = 1).word, Word::Unfinished, "unknown is not lost, and not kept");
        assert_eq!(with(|evidence| evidence.counts = Counts::default()).word, Word::Unfinished);
    }

    #[test]
    fn each_broken_guarantee_and_bound_is_named_with_whose_doing_it_is() {
        type Change = fn(&mut Evidence);
        let program = Some(Whose::Program);
        let cluster = Some(Whose::Cluster);
        let cases: [(&str, Option<Whose>, Change); 12] = [
            ("mismatched", program, |evidence| evidence.counts.mismatched = 1),
            ("duplicate", program, |evidence| evidence.counts.duplicate = 1),
            ("missing", program, |evidence| evidence.counts.missing = 1),
            ("missing", cluster, |evidence| (evidence.counts.missing, evidence.forgot) = (1, 1)),
            ("unexpected", None, |evidence| evidence.counts.unexpected = 1),
            ("late", cluster, |evidence| evidence.counts.late = 1),
            ("late", program, |evidence| (evidence.counts.late, evidence.baseline.max) = (1, 10.0)),
            ("violation", program, |evidence| evidence.violations.push("summer-1 ended with exit code 3".to_owned())),
            ("max-p99", cluster, |evidence| evidence.max_p99_ms = Some(500.0)),
            ("max-p99", program, |evidence| evidence.max_p99_ms = Some(800.0)),
            ("replicas differ", cluster, |evidence| evidence.differences = Some(vec!["chunks-3".to_owned()])),
            // What is broken stays so, however the run goes on.
            ("missing", program, |evidence| (evidence.counts.missing, evidence.has_ended) = (1, false)),
        ];
        for (what, whose, change) in cases {
            let judged = with(change);
            assert_eq!(judged.word, Word::Broken, "{what}");
            assert_eq!((judged.broken[0].what, judged.broken[0].whose), (what, whose));
            assert!(judged.sentences[1].starts_with(&format!("BROKEN, {what}: ")), "{judged:?}");
        }
        assert_eq!(with(|evidence| evidence.max_p99_ms = Some(1000.0)).word, Word::Kept);
    }
}
