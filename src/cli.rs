//! The command line: what each command takes, and what each ending means.

use crate::bus::connect::{self, ConnectError};
use crate::bus::names::Names;
use crate::bus::topology::{Admin, TopologyError};
use crate::chunker::{self, ChunkerError};
use crate::config::{Config, ConfigError, Override};
use crate::get::{self, GetError};
use crate::run::RunError;
use crate::shutdown;
use crate::store::StoreError;
use crate::stream_id::{RunPrefix, StreamId};
use crate::sum_files::{self, SumError};
use crate::summer::{self, SummerError};
use crate::telemetry;
use crate::values::Size;
use crate::verify::Report;
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

/// Stateful, exactly-once stream processing on NATS JetStream: generate, sum and verify content streams.
#[derive(Debug, Parser)]
#[command(name = "stream-sum", version, propagate_version = true, subcommand_required = true)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Common {
    /// Configuration file, TOML. `stream-sum config` shows every key
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// NATS servers [nats.servers]
    #[arg(long, short = 's', global = true, value_name = "URL[,URL…]")]
    server: Option<String>,
    /// Credentials file [nats.creds]
    #[arg(long, global = true, value_name = "FILE")]
    creds: Option<String>,
    /// nkey seed file [nats.nkey]
    #[arg(long, global = true, value_name = "FILE")]
    nkey: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create, check or show the JetStream objects
    #[command(subcommand)]
    Topology(TopologyCommand),
    /// Fold partitions until told to stop
    Summer(SummerArgs),
    /// Generate streams, publish them, and verify their finals
    Chunker(ChunkerArgs),
    /// Print SHA-1 checksums of files, computed by the pipeline, as sha1sum does
    Sum {
        /// Files to sum; - is standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<OsString>,
    },
    /// Print the final of one stream
    Get {
        /// 32 hex characters
        id: StreamId,
    },
    /// Print the resolved configuration as TOML, secrets redacted
    Config,
}

#[derive(Debug, Subcommand)]
enum TopologyCommand {
    /// Create what is missing; update replicas and limits
    Apply {
        /// Partition logs [topology.partitions]
        #[arg(long, value_name = "N")]
        partitions: Option<String>,
        /// Copies of everything [topology.replicas]
        #[arg(long, value_name = "R")]
        replicas: Option<String>,
    },
    /// Show every stream with its limits and what it holds
    Show,
}

#[derive(Debug, Args)]
struct SummerArgs {
    /// Name of this worker [summer.worker]
    #[arg(long, value_name = "NAME")]
    worker: Option<String>,
    /// Partitions to fold, as in 0-3,6 [summer.partitions]
    #[arg(long, value_name = "LIST")]
    partitions: Option<String>,
    /// Folder of the stores [summer.data_dir]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
}

#[derive(Debug, Args)]
struct ChunkerArgs {
    /// Streams to make; below 0: without end [chunker.streams]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    streams: Option<String>,
    /// Chunks of data a stream [chunker.chunks]
    #[arg(long, value_name = "N")]
    chunks: Option<String>,
    /// Bytes of data a chunk [chunker.chunk_bytes]
    #[arg(long, value_name = "B")]
    chunk_bytes: Option<String>,
    /// Threads that generate [chunker.workers]
    #[arg(long, value_name = "W")]
    workers: Option<String>,
    /// Chunks a second over all workers; 0: as fast as it goes [chunker.rate]
    #[arg(long, value_name = "CHUNKS_PER_S")]
    rate: Option<String>,
    /// Makes content repeatable; drawn where it is not given
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// The 4-byte prefix of the run's stream IDs, as 8 hex characters; drawn where it is not given
    #[arg(long, value_name = "HEX")]
    run: Option<RunPrefix>,
    /// Write the ledger as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// How a command ended, as the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    /// It could not be done: network, disk, a log that is not what it was.
    Failed = 1,
    /// Usage, configuration, or a topology that disagrees.
    Usage = 2,
    /// A guarantee was broken.
    Violation = 3,
}

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error(transparent)]
    Summer(#[from] SummerError),
    #[error(transparent)]
    Chunker(#[from] ChunkerError),
    #[error(transparent)]
    Sum(#[from] SumError),
    #[error(transparent)]
    Get(#[from] GetError),
    #[error("the report {} can't be written: {cause}", path.display())]
    Report { path: PathBuf, cause: io::Error },
    #[error("standard output can't be written: {0}")]
    Output(io::Error),
    #[error("signals can't be watched: {0}")]
    Signals(io::Error),
}

impl CliError {
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(_) => Exit::Usage,
            Self::Connect(error)
            | Self::Summer(SummerError::Connect(error))
            | Self::Chunker(ChunkerError::Connect(error))
            | Self::Sum(SumError::Connect(error))
            | Self::Get(GetError::Connect(error)) => match error {
                ConnectError::NoServer { .. } => Exit::Failed,
                _ => Exit::Usage,
            },
            Self::Topology(error)
            | Self::Summer(SummerError::Topology(error))
            | Self::Chunker(ChunkerError::Topology(error))
            | Self::Sum(SumError::Topology(error)) => match error {
                TopologyError::NoRoom { .. } | TopologyError::Refused { .. } | TopologyError::NoAnswer { .. } => {
                    Exit::Failed
                }
                _ => Exit::Usage,
            },
            Self::Summer(SummerError::NotOnceOnly { .. } | SummerError::NoSuchPartition { .. }) => Exit::Usage,
            Self::Summer(SummerError::Store(StoreError::Foreign { .. })) => Exit::Usage,
            Self::Summer(SummerError::Partition(error)) if error.is_violation() => Exit::Violation,
            Self::Get(GetError::NoSums { .. }) => Exit::Usage,
            Self::Chunker(ChunkerError::ChunkTooLarge { .. } | ChunkerError::Run(RunError::RunTaken(_))) => Exit::Usage,
            _ => Exit::Failed,
        }
    }
}

impl Cli {
    /// The flags that stand for configuration keys.
    fn overrides(&self) -> Vec<Override> {
        let common = &self.common;
        let mut flags = vec![
            ("nats.servers", common.server.clone()),
            ("nats.creds", common.creds.clone()),
            ("nats.nkey", common.nkey.clone()),
        ];
        match &self.command {
            Command::Topology(TopologyCommand::Apply { partitions, replicas }) => {
                flags.extend([("topology.partitions", partitions.clone()), ("topology.replicas", replicas.clone())])
            }
            Command::Summer(args) => flags.extend([
                ("summer.worker", args.worker.clone()),
                ("summer.partitions", args.partitions.clone()),
                ("summer.data_dir", args.data_dir.clone()),
            ]),
            Command::Chunker(args) => flags.extend([
                ("chunker.streams", args.streams.clone()),
                ("chunker.chunks", args.chunks.clone()),
                ("chunker.chunk_bytes", args.chunk_bytes.clone()),
                ("chunker.workers", args.workers.clone()),
                ("chunker.rate", args.rate.clone()),
            ]),
            Command::Topology(TopologyCommand::Show) | Command::Sum { .. } | Command::Get { .. } | Command::Config => {}
        }
        flags.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }

    /// Reads the configuration, starts logging, and runs the command.
    pub async fn run(self) -> Result<Exit, CliError> {
        let config = Config::load(self.common.config.as_deref(), std::env::vars_os(), &self.overrides())?;
        telemetry::start(&config.log);
        let mut out = io::stdout();
        match self.command {
            Command::Topology(TopologyCommand::Apply { .. }) => {
                let connection = connect::connect(&config.nats, "topology").await?;
                let admin = Admin::new(&connection, &config.topology, config.nats.shown_addresses());
                let changes = admin.apply().await?;
                changes.iter().try_for_each(|change| writeln!(out, "{change}")).map_err(CliError::Output)?;
                Ok(Exit::Done)
            }
            Command::Topology(TopologyCommand::Show) => {
                let connection = connect::connect(&config.nats, "topology").await?;
                let admin = Admin::new(&connection, &config.topology, config.nats.shown_addresses());
                let text = show(&admin).await?;
                out.write_all(text.as_bytes()).map_err(CliError::Output)?;
                Ok(Exit::Done)
            }
            Command::Summer(_) => {
                let stop = shutdown::on_signals().map_err(CliError::Signals)?;
                summer::run(&config.summer, &config.nats, &config.topology, stop).await?;
                Ok(Exit::Done)
            }
            Command::Chunker(args) => {
                let stop = shutdown::on_signals().map_err(CliError::Signals)?;
                let choices = chunker::Choices { seed: args.seed, run: args.run };
                // Opened first: a run of hours must not end with a report that can't be written.
                let file = args.report.map(Destination::open).transpose()?;
                let chunker::Outcome { report, failure } =
                    chunker::run(&config.chunker, choices, &config.nats, &config.topology, stop).await?;
                let written = file.map_or(Ok(()), |file| file.write(&report));
                let printed = write_ledger(&mut out, &report).map_err(CliError::Output);
                if report.counts.is_broken() {
                    // Nothing that went wrong besides may hide this.
                    for error in [failure.map(CliError::from), written.err(), printed.err()].into_iter().flatten() {
                        complain(&error);
                    }
                    return Ok(Exit::Violation);
                }
                failure.map_or(Ok(()), |failure| Err(failure.into())).and(written).and(printed)?;
                Ok(Exit::Done)
            }
            Command::Sum { files } => {
                let stop = shutdown::on_signals().map_err(CliError::Signals)?;
                let (deadline, batch_bytes) = (config.chunker.deadline, config.chunker.batch_bytes);
                let sum_files::Outcome { unreadable, violated, failure } =
                    sum_files::run(&files, deadline, batch_bytes, &config.nats, &config.topology, &mut out, stop)
                        .await?;
                match failure {
                    Some(failure) if violated => complain(&failure.into()),
                    Some(failure) => return Err(failure.into()),
                    None => {}
                }
                Ok(match unreadable {
                    _ if violated => Exit::Violation,
                    0 => Exit::Done,
                    _ => Exit::Failed,
                })
            }
            Command::Get { id } => {
                let line = get::run(id, &config.nats, &Names::new(&config.topology.prefix)).await?;
                writeln!(out, "{line}").map_err(CliError::Output)?;
                Ok(Exit::Done)
            }
            Command::Config => {
                out.write_all(config.to_toml().as_bytes()).map_err(CliError::Output)?;
                Ok(Exit::Done)
            }
        }
    }
}

/// Says what went wrong, in one sentence. Where nobody listens, the exit code has to do.
pub fn complain(error: &CliError) {
    writeln!(io::stderr(), "stream-sum: {error}").ok();
}

struct Destination {
    path: PathBuf,
    file: File,
}

impl Destination {
    fn open(path: PathBuf) -> Result<Self, CliError> {
        match File::create(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(cause) => Err(CliError::Report { path, cause }),
        }
    }

    fn write(mut self, report: &Report) -> Result<(), CliError> {
        let json = serde_json::to_string_pretty(report).expect("a report is plain numbers");
        writeln!(self.file, "{json}").map_err(|cause| CliError::Report { path: self.path, cause })
    }
}

async fn show(admin: &Admin<'_>) -> Result<String, TopologyError> {
    let (topology, streams) = admin.show().await?;
    let seconds = |nanos: i64| humantime::format_duration(std::time::Duration::from_nanos(nanos.unsigned_abs()));
    let mut text = format!(
        "partitions {}, max_chunk_bytes {}, idle_expiry {}, completed_expiry {}\n{:<32} {:>8} {:>12} {:>10} {:>10} {:>12} {:>12}\n",
        topology.partitions,
        Size(topology.max_chunk_bytes as u64),
        seconds(topology.expiry.idle),
        seconds(topology.expiry.completed),
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

fn write_ledger(out: &mut impl Write, report: &Report) -> io::Result<()> {
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
    writeln!(
        out,
        "{:<12}p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms, max {:.1} ms",
        "latency", latency.p50, latency.p90, latency.p99, latency.p999, latency.max
    )
}
