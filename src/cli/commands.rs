//! Running a command: its parts put together, and its result written.

use crate::cli::config::{Config, Override, variable};
use crate::cli::progress;
use crate::local::nats_server;
use crate::local::server::LocalServer;
use crate::local::up::{self, Stack};
use crate::roles::chunker::{self, generate_and_verify_streams};
use crate::roles::status;
use crate::run::report::{Report, Verdict};
use crate::sum::Summer;
use crate::sum::names::{FinalNames, names};
use crate::telemetry;
use futures_util::future::FutureExt;
use jetfold::joined::joined;
use jetfold::nats::admin::Admin;
use jetfold::nats::connect;
use jetfold::nats::topology::TopologyError;
use jetfold::values::Size;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cli::ending::{CliError, Exit, complain};
use crate::cli::report_file::ReportFile;
use crate::cli::{ChunkerArgs, UpArgs};

/// How often a watched status is asked for again.
const WATCH: Duration = Duration::from_secs(1);

/// To the top of a terminal, and all below it cleared.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(super) async fn chunk(config: &Config, args: ChunkerArgs, stop: CancellationToken) -> Result<Exit, CliError> {
    let choices = args.choices();
    let (reports, watched) = watch::channel(Report::default());
    let written = Written::start(args.report, config, &reports, &stop).await?;
    let shown = match u64::try_from(config.chunker.streams) {
        Ok(streams) if !telemetry::bars().is_hidden() => progress::bar(watched, streams).boxed(),
        _ => progress::log(watched).boxed(),
    };
    let shown = tokio::spawn(shown);
    let outcome =
        generate_and_verify_streams(&config.chunker, choices, &config.nats, &config.topology, &reports, stop).await;
    drop(reports);
    shown.await.ok();
    let ended = outcome.map(|chunker::Outcome { report, failure }| (report, failure.map(CliError::from)));
    finish(ended.map_err(CliError::from), config.chunker.wanted(), written).await
}

pub(super) async fn up(
    config: &Config,
    args: UpArgs,
    arguments: Vec<OsString>,
    overrides: &[Override],
    stop: CancellationToken,
) -> Result<Exit, CliError> {
    let choices = args.chunker.choices();
    let (reports, watched) = watch::channel(Report::default());
    let written = Written::start(args.chunker.report, config, &reports, &stop).await?;
    let mut environment: Vec<_> = overrides.iter().map(|(key, value)| (variable(key), value.clone())).collect();
    environment.push((variable("log.format"), "text".to_owned()));
    if config.log.level == telemetry::Filter::default() {
        // What runs as it should is told by the lines of this process.
        environment.push((variable("log.level"), "warn".to_owned()));
    }
    let mut nats = config.nats.clone();
    if nats.of_every_client {
        // A local stack starts a server of its own unless somebody names one for it.
        nats.servers.clear();
    }
    let stack = Stack {
        summers: args.summers,
        port: args.port,
        data_dir: args.data_dir,
        arguments,
        environment,
        nats,
        topology: config.topology.clone(),
        chunker: config.chunker.clone(),
        choices,
    };
    let shown = tokio::spawn(progress::line(watched));
    let outcome = up::run(stack, reports, stop).await;
    shown.await.ok();
    let ended = outcome.map(|up::Outcome { chunking: chunker::Outcome { report, failure }, failure: of_stack }| {
        // What ended the stack has ended the chunker.
        (report, of_stack.map(CliError::from).or(failure.map(CliError::from)))
    });
    finish(ended.map_err(CliError::from), config.chunker.wanted(), written).await
}

/// The report file of a run, being written where one is named.
struct Written(Option<JoinHandle<ReportFile>>);

impl Written {
    async fn start(
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
async fn finish(
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

pub(super) async fn status(
    config: &Config,
    json: bool,
    watch: bool,
    stop: CancellationToken,
) -> Result<Exit, CliError> {
    let connection = connect::connect(&config.nats, "stream-sum status").await?;
    let names = names(&config.topology.prefix);
    let admin = config.topology.admin(&connection, config.nats.shown_addresses());
    let (partitions, missing) = match connection.unless_denied(admin.check()).await? {
        Ok(topology) => (topology.partitions, false),
        // What is there is shown, and what is missing is named beside it.
        Err(
            error @ (TopologyError::LogGone { .. } | TopologyError::Missing { .. } | TopologyError::NoAnswer { .. }),
        ) => {
            let found = connection.unless_denied(status::partitions(&connection, &config.topology)).await?;
            let Some(partitions) = found else { return Err(error.into()) };
            // The table says so of a log.
            if !matches!(error, TopologyError::LogGone { .. }) {
                complain(&error.into());
            }
            (partitions, true)
        }
        Err(error) => return Err(error.into()),
    };
    let mut out = io::stdout();
    let rewritten = watch && !json && out.is_terminal();
    loop {
        let asked = tokio::select! {
            () = stop.cancelled() => return Ok(Exit::Done),
            asked = connection.unless_denied(status::ask(&connection, &names, partitions)) => asked?,
        };
        let is_well = !missing && asked.as_ref().is_ok_and(|status| status.is_well());
        let text = match asked {
            Ok(status) if json => serde_json::to_string(&status).expect("a status has a JSON form") + "\n",
            Ok(status) => status.to_string(),
            // Who watches wants to see it come back.
            Err(error) if watch => {
                complain(&error.into());
                String::new()
            }
            Err(error) => return Err(error.into()),
        };
        // An error stays to be read until there is something else to see.
        let clear = if rewritten && !text.is_empty() { CLEAR } else { "" };
        out.write_all(format!("{clear}{text}").as_bytes()).and_then(|()| out.flush()).map_err(CliError::Output)?;
        if !watch {
            return Ok(if is_well { Exit::Done } else { Exit::Failed });
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(Exit::Done),
            () = tokio::time::sleep(WATCH) => {}
        }
    }
}

/// Becomes a nats-server. Returns only where that can't be done.
pub(super) fn serve(config: &Config, port: Option<u16>, data_dir: &Path) -> CliError {
    let start = || {
        let elsewhere = || CliError::NotHere { servers: config.nats.shown_addresses() };
        let address = match (config.nats.address_here(), port) {
            (here, Some(port)) => SocketAddr::new(here.map_or(Ipv4Addr::LOCALHOST.into(), |here| here.ip()), port),
            (here, None) => here.ok_or_else(elsewhere)?,
        };
        let program = nats_server::find(&nats_server::tools())?;
        let mapping = names(&config.topology.prefix).mapping(config.topology.partitions);
        let server = LocalServer::new(program.clone(), data_dir, Some(address), Some(&mapping), "")?;
        Ok(CliError::NotStarted { program, cause: server.exec() })
    };
    start().unwrap_or_else(|error| error)
}

pub(super) async fn show(admin: &Admin<'_, Summer>) -> Result<String, TopologyError> {
    let (topology, streams) = admin.show().await?;
    let rules = topology.application.rules();
    let seconds = |nanos: i64| humantime::format_duration(std::time::Duration::from_nanos(nanos.unsigned_abs()));
    let mut text = format!(
        "partitions {}, max_chunk_bytes {}, idle_expiry {}, completed_expiry {}\n{:<32} {:>8} {:>12} {:>10} {:>10} {:>12} {:>12}\n",
        topology.partitions,
        Size(rules.max_chunk_bytes as u64),
        seconds(rules.expiry.idle),
        seconds(rules.expiry.completed),
        "stream",
        "replicas",
        "messages",
        "bytes",
        "max_bytes",
        "first",
        "last",
    );
    for info in streams {
        let (config, state) = (&info.config, &info.state);
        let limit = u64::try_from(config.max_bytes).map_or("none".to_owned(), |bytes| Size(bytes).to_string());
        text.push_str(&format!(
            "{:<32} {:>8} {:>12} {:>10} {:>10} {:>12} {:>12}\n",
            config.name,
            config.num_replicas,
            state.messages,
            bytesize::ByteSize(state.bytes).to_string().replace(' ', ""),
            limit,
            state.first_sequence,
            state.last_sequence
        ));
    }
    Ok(text)
}

fn write_ledger(out: &mut impl Write, report: &Report, verdict: Verdict) -> io::Result<()> {
    let counts = &report.counts;
    for (name, count) in [
        ("streams", counts.streams),
        ("chunks", counts.chunks),
        ("bytes", counts.bytes),
        ("verified", counts.verified),
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
