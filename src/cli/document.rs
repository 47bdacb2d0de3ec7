//! What `--report` writes: how a run stands, beside what it was told to do. Each field is explained in `docs/report.md`.

use crate::cli::config::Config;
use crate::roles::chunker::ChunkerConfig;
use crate::run::report::{Report, Verdict};
use crate::sum::topology_section;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What stays the same all through a run.
#[derive(Clone, Debug, Serialize)]
pub struct Head {
    /// Of this program.
    version: &'static str,
    started: String,
    config: Settings,
}

/// What of the configuration a run depends on. Secrets are in other sections.
#[derive(Clone, Debug, Serialize)]
struct Settings {
    chunker: ChunkerConfig,
    topology: topology_section::Config,
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    verdict: Verdict,
    failure: Option<&'a str>,
    #[serde(flatten)]
    head: &'a Head,
    written: String,
    #[serde(flatten)]
    report: &'a Report,
}

impl Head {
    /// Of a run that starts now.
    pub fn new(config: &Config) -> Self {
        let config = Settings { chunker: config.chunker.clone(), topology: config.topology.clone() };
        Self { version: crate::VERSION, started: now(), config }
    }

    /// The whole text. `failure` is why the run ended before its time.
    pub fn document(&self, verdict: Verdict, failure: Option<&str>, report: &Report) -> String {
        let document = Document { verdict, failure, head: self, written: now(), report };
        serde_json::to_string_pretty(&document).expect("a report is plain numbers and texts") + "\n"
    }
}

/// To the millisecond.
fn now() -> String {
    let now = OffsetDateTime::now_utc();
    let now = now.replace_millisecond(now.millisecond()).unwrap_or(now);
    now.format(&Rfc3339).expect("a year of four digits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::config::Sources;
    use crate::run::report::{Facts, Reason, Waiting};
    use crate::sum::stream_id::RunPrefix;
    use serde_json::Value;
    use std::collections::BTreeSet;

    const EXPLAINED: &str = include_str!("../../docs/report.md");

    /// A report in which nothing is left out.
    fn full() -> Value {
        let facts = Facts {
            run: RunPrefix([0xaa, 0xbb, 0xcc, 0xdd]),
            seed: 7,
            server_version: "2.15.1".to_owned(),
            replicas: 3,
            partitions: 8,
        };
        let waiting = vec![Waiting { partition: 1, reason: Reason::LogFull, waited_s: 2.5, streams: 37 }];
        let report = Report { facts: Some(facts), waiting, ..Report::default() };
        let head = Head::new(&Config::load(Sources::default()).unwrap());
        serde_json::from_str(&head.document(Verdict::Unfinished, Some("stopped"), &report)).unwrap()
    }

    /// The names of all fields, those of the configuration but for its sections.
    fn names(value: &Value, name: &str, into: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) if !name.starts_with("config.") => {
                let dot = if name.is_empty() { "" } else { "." };
                fields.iter().for_each(|(field, value)| names(value, &format!("{name}{dot}{field}"), into));
            }
            Value::Array(items) if !name.starts_with("config.") => {
                items.iter().for_each(|item| names(item, &format!("{name}[]"), into));
            }
            _ => _ = into.insert(name.to_owned()),
        }
    }

    #[test]
    fn every_field_is_explained_and_nothing_else_is() {
        let mut found = BTreeSet::new();
        names(&full(), "", &mut found);
        let (_, table) = EXPLAINED.split_once("\n## The fields\n").unwrap();
        let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" |"));
        let explained: BTreeSet<String> =
            rows.flat_map(|(names, _)| names.split(',').map(|name| name.trim().replace('`', ""))).collect();
        let lacking: Vec<_> = found.difference(&explained).collect();
        let vain: Vec<_> = explained.difference(&found).collect();
        assert!(lacking.is_empty() && vain.is_empty(), "not explained: {lacking:?}; explained in vain: {vain:?}");
    }

    #[test]
    fn what_is_known_of_a_run_is_there() {
        let report = full();
        assert_eq!((&report["verdict"], &report["failure"]), (&"unfinished".into(), &"stopped".into()));
        assert_eq!((&report["run"], &report["seed"]), (&"aabbccdd".into(), &7.into()));
        assert_eq!(report["waiting"][0]["reason"], "log full");
        assert_eq!((&report["config"]["chunker"]["deadline"], &report["version"]), (&"40s".into(), &"0.1.0".into()));
        for time in ["started", "written"] {
            assert!(OffsetDateTime::parse(report[time].as_str().unwrap(), &Rfc3339).is_ok(), "{report}");
        }
    }
}
