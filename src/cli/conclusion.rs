//! What a run of the chunker comes to: its verdict, its report file, and the ledger that is printed.

use crate::cli::config::Config;
use crate::cli::ending::{CliError, Exit, complain};
use crate::cli::report_file::ReportFile;
use crate::run::report::{Report, Verdict};
use jetfold::joined;
use std::io::{self, Write};
use std::path::PathBuf;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The report file of a run, being written where one is named.
pub struct Written(Option<JoinHandle<ReportFile>>);

impl Written {
    pub async fn start(
        path: Option<PathBuf>,
        config: &Config,
        reports: &watch::Sender<Report>,
        stop: &CancellationToken,
    ) -> Result<Self, CliError> {
        let Some(path) = path else { return Ok(Self(None)) };
        let config = config.clone();
        let opening = tokio::task::spawn_blocking(move || ReportFile::open(path, &config));
        tokio::select! {
            // Nobody may ever read a pipe.
            () = stop.cancelled() => Ok(Self(None)),
            opened = opening => Ok(Self(Some(tokio::spawn(joined(opened)?.keep(reports.subscribe()))))),
        }
    }

    /// Writes the last report, once nobody sends others.
    async fn finish(self, verdict: Verdict, failure: Option<&CliError>, report: &Report) -> Result<(), CliError> {
        let Some(keeping) = self.0 else { return Ok(()) };
        let failure = failure.map(ToString::to_string);
        joined(keeping.await).close(verdict, failure.as_deref(), report)
    }
}

/// Prints and writes the ledger, and says what the run comes to. `wanted` are the streams that it was to make.
pub async fn conclude(
    ended: Result<(Report, Option<CliError>), CliError>,
    wanted: Option<u64>,
    written: Written,
) -> Result<Exit, CliError> {
    let has_begun = ended.is_ok();
    let (report, failure) = ended.unwrap_or_else(|error| (Report::default(), Some(error)));
    let verdict = match &failure {
        // A summer has found what the ledger has not.
        Some(error) if error.exit() == Exit::Violation => Verdict::Broken,
        _ => Verdict::at_the_end(&report.counts, wanted, failure.is_some()),
    };
    let written = written.finish(verdict, failure.as_ref(), &report).await;
    let printed = match has_begun {
        true => write_ledger(&mut io::stdout(), &report, verdict).map_err(CliError::Output),
        false => Ok(()),
    };
    if verdict == Verdict::Broken {
        // Nothing that went wrong besides may hide this.
        for error in [failure, written.err(), printed.err()].into_iter().flatten() {
            complain(&error);
        }
        return Ok(Exit::Violation);
    }
    failure.map_or(Ok(()), Err).and(written).and(printed)?;
    Ok(Exit::Done)
}

fn write_ledger(out: &mut impl Write, report: &Report, verdict: Verdict) -> io::Result<()> {
    let counts = &report.counts;
    for (name, count) in [
        ("streams", counts.streams),
        ("chunks", counts.chunks),
        ("bytes", counts.bytes),
        ("verified", counts.verified),
        ("resumed", counts.resumed),
        ("missing", counts.missing),
        ("mismatched", counts.mismatched),
        ("duplicate", counts.duplicate),
        ("unexpected", counts.unexpected),
        ("late", counts.late),
        ("republished", counts.republished),
        ("unfinished", counts.unfinished),
    ] {
        writeln!(out, "{name:<12}{count:>14}")?;
    }
    let latency = &report.latency_ms;
    writeln!(out, "{:<12}{:>14.1} s", "elapsed", report.elapsed_s)?;
    writeln!(out, "{:<12}{:>14.1} s", "away", report.away_s)?;
    writeln!(
        out,
        "{:<12}p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms, max {:.1} ms",
        "latency", latency.p50, latency.p90, latency.p99, latency.p999, latency.max
    )?;
    writeln!(out, "{:<12}{:>14}", "verdict", verdict.to_string())
}
