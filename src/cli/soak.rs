//! `soak`: a system under faults, and whether it kept what it promises.

use crate::cli::config::{Config, Override, variable};
use crate::cli::ending::{self, CliError, Exit};
use crate::cli::{given, print, progress};
use crate::run::report::Report;
use crate::soak::document::Document;
use crate::soak::fault::{Fault, Ground};
use crate::soak::judgement::Word;
use crate::soak::plan::{Plan, PlanError};
use crate::soak::{self, NEVER_TESTED, Soak, SoakError, page};
use crate::telemetry;
use clap::{Args, Subcommand};
use jetfold::joined;
use jetfold::values::{Span, redact_url};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the page is made anew while the run goes on.
const PAGES: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct SoakArgs {
    #[command(subcommand)]
    command: Option<SoakCommand>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
pub enum SoakCommand {
    /// Show two runs side by side, as a page
    Compare {
        /// Reports of two runs
        a: PathBuf,
        b: PathBuf,
        /// Where the page goes
        #[arg(long, value_name = "FILE", default_value = "compare.html")]
        output: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// How long chunks are sent and faults come
    #[arg(long, value_name = "TIME", default_value = "2m")]
    duration: Span,
    /// Servers of the run's own; they are not used where --server names others
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = nodes)]
    nodes: usize,
    /// Summer processes
    #[arg(long, value_name = "M", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    summers: u32,
    /// Partition logs [topology.partitions]
    #[arg(long, value_name = "N")]
    partitions: Option<String>,
    /// Faults to inject: all that are possible here, none, or a list of their names
    #[arg(long, value_name = "LIST", default_value = "all")]
    faults: Faults,
    /// What JetStream's API may be asked for on servers that are not the run's own: leader-step-down, consumer-delete, peer-remove, purge
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = fault)]
    allow: Vec<Fault>,
    /// Chunks a second, by a schedule that waits for nobody
    #[arg(long, value_name = "CHUNKS_PER_S", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// Chunks of data a stream
    #[arg(long, value_name = "N", default_value_t = 10)]
    chunks: u64,
    /// Bytes of data a chunk
    #[arg(long, value_name = "B", default_value_t = 32)]
    chunk_bytes: usize,
    /// How long after its closing chunk a final may be stored
    #[arg(long, value_name = "TIME", default_value = "20s")]
    deadline: Span,
    /// The 99th percentile of latency must not be more than this
    #[arg(long, value_name = "TIME")]
    max_p99: Option<Span>,
    /// What the plan of faults and the content are drawn from; drawn itself where it is not given
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// The faults of an earlier run once more: its report, or a plan out of it
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// How often servers of the run's own sync to disk: a time, or always
    #[arg(long, value_name = "TIME", value_parser = sync_interval)]
    sync_interval: Option<String>,
    /// Where the report goes, as JSON; the page lies beside it, as .html
    #[arg(long, value_name = "FILE", default_value = "soak.json")]
    report: PathBuf,
    /// Folder of everything that is stored and logged, kept; a temporary one where it is not given
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Which faults are wanted.
#[derive(Clone, Debug)]
struct Faults(Vec<Fault>);

impl std::str::FromStr for Faults {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self(Fault::ALL.to_vec())),
            "none" => Ok(Self(Vec::new())),
            list => list.split(',').map(fault).collect::<Result<_, _>>().map(Self),
        }
    }
}

fn fault(name: &str) -> Result<Fault, String> {
    name.trim().parse()
}

fn nodes(text: &str) -> Result<usize, &'static str> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("1 or 3"),
    }
}

fn sync_interval(text: &str) -> Result<String, &'static str> {
    let is_time = text.parse::<Span>().is_ok_and(|time| time.0 > Duration::ZERO);
    if text == "always" || is_time { Ok(text.to_owned()) } else { Err("a time as 2m, or always") }
}

#[derive(Debug, thiserror::Error)]
pub enum SoakUsage {
    #[error("the plan {} can't be read: {cause}", path.display())]
    NoPlan { path: PathBuf, cause: io::Error },
    #[error("the plan {} is not taken: {cause}", path.display())]
    BadPlan { path: PathBuf, cause: PlanError },
    #[error("{fault} can't be injected here: {why}")]
    Impossible { fault: Fault, why: String },
    #[error("the report {} can't be read as one of `stream-sum soak`: {cause}", path.display())]
    NoReport { path: PathBuf, cause: String },
}

impl SoakArgs {
    pub fn settings(&self) -> Vec<Override> {
        given([("topology.partitions", &self.run.partitions)])
    }

    /// `arguments` and `flags` are what each summer is told besides: on its command line, and in its environment.
    pub async fn run(
        self,
        config: &Config,
        arguments: Vec<OsString>,
        flags: &[Override],
        stop: CancellationToken,
    ) -> Result<Exit, CliError> {
        match self.command {
            Some(SoakCommand::Compare { a, b, output }) => compare(&a, &b, &output),
            None => self.run.run(config, arguments, flags, stop).await,
        }
    }
}

fn compare(a: &Path, b: &Path, output: &Path) -> Result<Exit, CliError> {
    let read = |path: &Path| {
        let refuse = |cause: String| SoakUsage::NoReport { path: path.to_owned(), cause };
        let text = fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
        let report: serde_json::Value = serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))?;
        match report["verdict"]["word"].is_string() {
            true => Ok(text),
            false => Err(refuse("it has no verdict".to_owned())),
        }
    };
    let page = page::compare(&read(a)?, &read(b)?);
    fs::write(output, page).map_err(|cause| CliError::Report { path: output.to_owned(), cause })?;
    print(format_args!("{}\n", output.display()))?;
    Ok(Exit::Done)
}

impl RunArgs {
    async fn run(
        self,
        config: &Config,
        arguments: Vec<OsString>,
        flags: &[Override],
        stop: CancellationToken,
    ) -> Result<Exit, CliError> {
        let mut nats = config.nats.clone();
        if nats.of_every_client {
            // What every client uses is not meant to be soaked unless somebody says so.
            nats.servers.clear();
        }
        let ground = if nats.servers.is_empty() { Ground::Private { nodes: self.nodes } } else { Ground::Given };
        let seed = self.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
        let (plan, not_tested) = self.plan(ground, seed)?;
        let mut chunker = config.chunker.clone();
        (chunker.streams, chunker.chunks, chunker.chunk_bytes) = (-1, self.chunks, self.chunk_bytes);
        (chunker.rate, chunker.deadline, chunker.workers) = (self.rate, self.deadline, chunker.workers.min(2));
        let mut environment: Vec<_> = flags.iter().map(|(key, value)| (variable(key), value.clone())).collect();
        environment.extend([(variable("log.format"), "json".to_owned()), (variable("http.listen"), String::new())]);
        let shown: toml::Value = toml::from_str(&config.to_toml()).unwrap_or(toml::Value::Boolean(false));
        let soak = Soak {
            ground,
            summers: self.summers,
            arguments,
            environment,
            nats,
            topology: config.topology.clone(),
            chunker,
            duration: self.duration.0,
            plan,
            not_tested,
            seed,
            max_p99: self.max_p99.map(|most| most.0),
            sync_interval: self.sync_interval.clone(),
            data_dir: self.data_dir.clone(),
            command: command(seed, self.seed.is_some()),
            config: serde_json::to_value(shown).unwrap_or_default(),
        };
        let page = self.report.with_extension("html");
        telemetry::say(&format!(
            "soaking for {} with seed {seed}: {} faults are planned; the report goes to {} and {}",
            humantime::format_duration(self.duration.0),
            soak.plan.faults.len(),
            self.report.display(),
            page.display()
        ));
        // Before anything is done: a run of hours must not end with a report that has nowhere to go.
        write_file(&self.report, b"{}\n")?;
        let (reports, watched) = watch::channel(Report::default());
        let shown = tokio::spawn(progress::line(watched));
        let (to_write, written) = (self.report.clone(), watch::channel(None::<std::sync::Arc<Document>>));
        let (sender, mut receiver) = written;
        let writing = tokio::spawn({
            let (path, page) = (to_write, page.clone());
            async move {
                let mut paged = Instant::now();
                while receiver.changed().await.is_ok() {
                    let Some(document) = receiver.borrow_and_update().clone() else { continue };
                    let with_page = paged.elapsed() >= PAGES;
                    if with_page {
                        paged = Instant::now();
                    }
                    let (path, page) = (path.clone(), with_page.then(|| page.clone()));
                    let wrote =
                        joined(tokio::task::spawn_blocking(move || write(&document, &path, page.as_deref())).await);
                    if let Err(error) = wrote {
                        tracing::warn!(%error, "the report is not written for now");
                    }
                }
            }
        });
        let tell = move |document| _ = sender.send_replace(Some(std::sync::Arc::new(document)));
        let ended = soak::run(soak, reports, telemetry::say, tell, stop).await;
        shown.await.ok();
        writing.await.ok();
        let document = ended?;
        write(&document, &self.report, Some(&page))?;
        print(summary(&document))?;
        Ok(match document.verdict.word {
            Word::Kept => Exit::Done,
            Word::Broken => Exit::Violation,
            Word::Unfinished | Word::Running => Exit::Failed,
        })
    }

    /// What comes when, and what is not tested, with why.
    fn plan(&self, ground: Ground, seed: u64) -> Result<(Plan, Vec<String>), SoakUsage> {
        // Whoever names a fault asks for it.
        let named = self.faults.0.len() < Fault::ALL.len();
        let asked: Vec<Fault> = match (named, ground) {
            (true, Ground::Private { .. }) => [&self.allow[..], &self.faults.0].concat(),
            _ => self.allow.clone(),
        };
        let (kinds, mut not_tested) = soak::possible(ground, &self.faults.0, &asked);
        let impossible = |fault: Fault| {
            let why = fault.impossible(ground, &asked.iter().copied().collect())?;
            Some(SoakUsage::Impossible { fault, why })
        };
        if named && let Some(error) = self.faults.0.iter().find_map(|fault| impossible(*fault)) {
            return Err(error);
        }
        not_tested.extend(NEVER_TESTED.map(str::to_owned));
        let Some(path) = &self.plan else {
            return Ok((Plan::drawn(&kinds, seed, self.duration.0), not_tested));
        };
        let text = fs::read_to_string(path).map_err(|cause| SoakUsage::NoPlan { path: path.clone(), cause })?;
        let plan = Plan::read(&text).map_err(|cause| SoakUsage::BadPlan { path: path.clone(), cause })?;
        let asked: Vec<Fault> = [&asked[..], &[Fault::ServerForgets]].concat();
        let of_plan = plan.faults.iter().map(|planned| planned.fault);
        let refused = of_plan.into_iter().find_map(|fault| {
            let why = fault.impossible(ground, &asked.iter().copied().collect())?;
            Some(SoakUsage::Impossible { fault, why })
        });
        refused.map_or(Ok((plan, not_tested)), Err)
    }
}

/// The command line, with the seed that was drawn.
fn command(seed: u64, is_given: bool) -> String {
    let shown = |word: OsString| {
        let word = word.to_string_lossy().into_owned();
        // A URL may hold a password.
        let parts = word.split(',').map(|part| if part.contains('@') { redact_url(part) } else { part.to_owned() });
        let word = parts.collect::<Vec<_>>().join(",");
        if word.contains(char::is_whitespace) { format!("'{word}'") } else { word }
    };
    let words = std::env::args_os().skip(1).map(shown).collect::<Vec<_>>().join(" ");
    if is_given { format!("stream-sum {words}") } else { format!("stream-sum {words} --seed {seed}") }
}

fn write(document: &Document, path: &Path, page: Option<&Path>) -> Result<(), CliError> {
    let json = serde_json::to_string(document).expect("a report is plain numbers and texts");
    write_file(path, json.as_bytes())?;
    page.map_or(Ok(()), |page| write_file(page, page::report(&json).as_bytes()))
}

/// Puts a whole file in the place of the one that is there.
fn write_file(path: &Path, content: &[u8]) -> Result<(), CliError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || {
        let mut file = tempfile::Builder::new()
            .prefix(".soak-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(folder)?;
        file.write_all(content)?;
        file.persist(path).map(drop).map_err(|error| error.error)
    };
    write().map_err(|cause| CliError::Report { path: path.to_owned(), cause })
}

/// What is read aloud.
fn summary(document: &Document) -> String {
    let word = match document.verdict.word {
        Word::Kept => "KEPT",
        Word::Broken => "BROKEN",
        Word::Unfinished => "UNFINISHED",
        Word::Running => "RUNNING",
    };
    let sentences = document.verdict.sentences.iter().map(|sentence| format!("  {sentence}\n"));
    format!("{word}\n{}", sentences.collect::<String>())
}

pub fn exit(error: &SoakError) -> Exit {
    match error {
        SoakError::Connect(error) => ending::of_connect(error),
        SoakError::Topology(error) => ending::of_topology(error),
        SoakError::Stack(_)
        | SoakError::Nodes(_)
        | SoakError::Server(_)
        | SoakError::CannotAsk(_)
        | SoakError::Child(_)
        | SoakError::Chunker(_)
        | SoakError::NoCluster(_) => Exit::Failed,
    }
}
