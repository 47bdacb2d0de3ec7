//! The command line: what each command takes. [`ending`] says what its end means; `commands` runs it.

mod commands;
pub mod config;
pub mod context;
mod document;
pub mod ending;
pub mod heap;
pub mod progress;
mod report_file;
mod sum;

pub use ending::{CliError, Exit, complain};

use crate::cli::config::{Config, Override, Sources};
use crate::cli::sum::SumArgs;
use crate::local::up::keeper;
use crate::roles::chunker::Choices;
use crate::roles::get;
use crate::roles::summing;
use crate::sum::names::names;
use crate::sum::stream_id::{RunPrefix, StreamId};
use crate::telemetry::{self, Format};
use clap::{Args, Parser, Subcommand};
use jetfold::identity::accept::Acceptance;
use jetfold::nats::admin::Allowed;
use jetfold::nats::connect;
use jetfold::shutdown;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// Stateful, exactly-once stream processing on NATS JetStream: generate, sum and verify content streams.
#[derive(Debug, Parser)]
#[command(name = "stream-sum", version, propagate_version = true, subcommand_required = true)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Which standard descriptors the process was started without: closed, or open for the other direction only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standard {
    pub input_closed: bool,
    pub output_closed: bool,
}

#[derive(Debug, Args)]
struct Common {
    /// Configuration file, TOML; of several, later ones count over earlier ones. `stream-sum config` shows every key
    #[arg(long, global = true, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// NATS servers [nats.servers]
    #[arg(long, short = 's', global = true, value_name = "URL[,URL…]")]
    server: Option<String>,
    /// Credentials file [nats.creds]
    #[arg(long, global = true, value_name = "FILE")]
    creds: Option<String>,
    /// nkey seed file [nats.nkey]
    #[arg(long, global = true, value_name = "FILE")]
    nkey: Option<String>,
    /// Servers and credentials of a context of the nats command line
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
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
    /// Print or check SHA-1 checksums of files, computed by the pipeline, as sha1sum does
    Sum(SumArgs),
    /// Print the final of one stream
    Get {
        /// 32 hex characters
        id: StreamId,
    },
    /// Show how far each partition is, and who works on it
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Print it again every second, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Print the resolved configuration as TOML, secrets redacted
    Config,
    /// Run the local stack: a nats-server of its own, summers and a chunker
    Up(UpArgs),
    /// Run a nats-server for this machine alone, until Ctrl-C
    Server {
        /// Port to listen on; that of nats.servers where it is not given
        #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
        port: Option<u16>,
        /// Folder of its store
        #[arg(long, value_name = "DIR", default_value = "data/nats")]
        data_dir: PathBuf,
        /// Partitions of the account mapping for clients that can't hash [topology.partitions]
        #[arg(long, value_name = "N")]
        partitions: Option<String>,
    },
    /// Clean up behind a process that may die
    #[command(name = keeper::COMMAND, hide = true)]
    Keeper { folder: Option<PathBuf> },
}

#[derive(Debug, Subcommand)]
enum TopologyCommand {
    /// Create what is missing; change what is named of copies and limits
    Apply {
        /// Partition logs [topology.partitions]
        #[arg(long, value_name = "N")]
        partitions: Option<String>,
        /// Copies of everything [topology.replicas]
        #[arg(long, value_name = "R")]
        replicas: Option<String>,
        /// Lower copies, retention or bounds although something is lost by it
        #[arg(long)]
        force: bool,
        /// Put back metadata that a tool has dropped from streams of this system
        #[arg(long)]
        adopt: bool,
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
    data_dir: Option<PathBuf>,
    /// Go on without what a log has lost, which is recorded: diverged, truncated, hole or replaced, and the partition
    #[arg(long, value_name = "LOSS:PARTITION", value_delimiter = ',')]
    accept: Vec<Acceptance>,
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
    /// Write the report as JSON, every 5 seconds and at the end
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct UpArgs {
    /// Summer processes; 2 where it is not given
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u32).range(1..=256))]
    summers: Option<u32>,
    /// Partition logs, where they are not there yet [topology.partitions]
    #[arg(long, value_name = "N")]
    partitions: Option<String>,
    /// Port of the nats-server; any free one where it is not given
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Folder of everything that is stored, kept; a temporary one where it is not given
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    chunker: ChunkerArgs,
}

impl Command {
    /// Whether it has something to end in order when it is asked to stop. A signal just ends the others.
    fn drains(&self) -> bool {
        match self {
            Self::Summer(_) | Self::Chunker(_) | Self::Sum { .. } | Self::Status { .. } | Self::Up(_) => true,
            // The keeper has its own way with signals, and a server becomes another program.
            Self::Topology(_) | Self::Get { .. } | Self::Config | Self::Server { .. } | Self::Keeper { .. } => false,
        }
    }
}

impl ChunkerArgs {
    fn overrides(&self) -> [(&'static str, Option<String>); 5] {
        [
            ("chunker.streams", self.streams.clone()),
            ("chunker.chunks", self.chunks.clone()),
            ("chunker.chunk_bytes", self.chunk_bytes.clone()),
            ("chunker.workers", self.workers.clone()),
            ("chunker.rate", self.rate.clone()),
        ]
    }

    fn choices(&self) -> Choices {
        Choices { seed: self.seed, run: self.run }
    }
}

impl Command {
    /// Whether results are written to standard output.
    fn prints(&self) -> bool {
        match self {
            Self::Summer(_) | Self::Server { .. } | Self::Keeper { .. } => false,
            Self::Sum(args) => args.prints(),
            Self::Topology(_)
            | Self::Chunker(_)
            | Self::Get { .. }
            | Self::Status { .. }
            | Self::Config
            | Self::Up(_) => true,
        }
    }
}

impl Cli {
    /// Reads the command line; `None` where only help was asked for, and given. One that can't be read ends the process.
    pub fn read(standard: Standard) -> Result<Option<Self>, CliError> {
        match Self::try_parse() {
            Ok(cli) => Ok(Some(cli)),
            Err(error) if error.use_stderr() => error.exit(),
            Err(_) if standard.output_closed => Err(CliError::OutputClosed),
            Err(help) => {
                help.print().and_then(|()| io::stdout().flush()).map_err(CliError::Output)?;
                Ok(None)
            }
        }
    }

    /// The flags that stand for configuration keys.
    fn overrides(&self) -> Vec<Override> {
        let common = &self.common;
        let mut flags = vec![
            ("nats.servers", common.server.clone()),
            ("nats.creds", common.creds.clone()),
            ("nats.nkey", common.nkey.clone()),
        ];
        match &self.command {
            Command::Topology(TopologyCommand::Apply { partitions, replicas, .. }) => {
                flags.extend([("topology.partitions", partitions.clone()), ("topology.replicas", replicas.clone())])
            }
            Command::Summer(args) => {
                flags.extend([("summer.worker", args.worker.clone()), ("summer.partitions", args.partitions.clone())])
            }
            Command::Chunker(args) => flags.extend(args.overrides()),
            Command::Up(args) => {
                flags.push(("topology.partitions", args.partitions.clone()));
                flags.extend(args.chunker.overrides());
            }
            Command::Server { partitions, .. } => flags.push(("topology.partitions", partitions.clone())),
            Command::Topology(TopologyCommand::Show)
            | Command::Sum(_)
            | Command::Get { .. }
            | Command::Status { .. }
            | Command::Config
            | Command::Keeper { .. } => {}
        }
        flags.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }

    /// Reads the configuration, starts logging, and runs the command.
    pub async fn run(self, standard: Standard) -> Result<Exit, CliError> {
        // Before anything is done: a run of hours must not end with results that have nowhere to go.
        if standard.output_closed && self.command.prints() {
            return Err(CliError::OutputClosed);
        }
        if let Command::Keeper { folder } = &self.command {
            let ignored = keeper::go_unnoticed();
            keeper::keep(io::stdin().lock(), folder.as_deref());
            drop(ignored);
            return Ok(Exit::Done);
        }
        // Before anything that takes its time: until then, a signal ends the process without a word.
        let stop = match self.command.drains() {
            true => shutdown::on_signals().map_err(CliError::Signals)?,
            false => CancellationToken::new(),
        };
        let overrides = self.overrides();
        let mut config = Config::load(Sources {
            files: self.common.config.clone(),
            environment: std::env::vars_os().collect(),
            context: self.common.context.clone(),
            flags: overrides.clone(),
        })?;
        // The stack is watched by somebody, and its lines are among its summers'.
        let text = matches!(self.command, Command::Up(_));
        telemetry::start(&config.log, if text { Format::Text } else { Format::Json });
        let mut out = io::stdout();
        match self.command {
            Command::Topology(TopologyCommand::Apply { force, adopt, .. }) => {
                let connection = connect::connect(&config.nats, "stream-sum topology").await?;
                let admin = config.topology.admin(&connection, config.nats.shown_addresses());
                let changes = connection.unless_denied(admin.apply(Allowed { force, adopt })).await??;
                changes.iter().try_for_each(|change| writeln!(out, "{change}")).map_err(CliError::Output)?;
                Ok(Exit::Done)
            }
            Command::Topology(TopologyCommand::Show) => {
                let connection = connect::connect(&config.nats, "stream-sum topology").await?;
                let admin = config.topology.admin(&connection, config.nats.shown_addresses());
                let text = connection.unless_denied(commands::show(&admin)).await??;
                out.write_all(text.as_bytes()).map_err(CliError::Output)?;
                Ok(Exit::Done)
            }
            Command::Summer(args) => {
                // The name of a folder need not be text, as values of the configuration are.
                config.summer.data_dir = args.data_dir.unwrap_or(config.summer.data_dir);
                summing::run(&config.summer, &config.nats, &config.topology, &args.accept, stop).await?;
                Ok(Exit::Done)
            }
            Command::Chunker(args) => commands::chunk(&config, args, stop).await,
            Command::Up(args) => {
                let Common { config: files, creds, nkey, context, .. } = self.common;
                let files = files.into_iter().map(|file| ("--config", Some(OsString::from(file))));
                let keys = [("--creds", creds), ("--nkey", nkey), ("--context", context)];
                let keys = keys.map(|(flag, value)| (flag, value.map(OsString::from)));
                let given = files.chain(keys).filter_map(|(flag, value)| Some([OsString::from(flag), value?]));
                commands::up(&config, args, given.flatten().collect(), &overrides, stop).await
            }
            Command::Server { port, data_dir, .. } => Err(commands::serve(&config, port, &data_dir)),
            Command::Sum(args) => sum::sum(&config, args, standard.input_closed, stop).await,
            Command::Get { id } => {
                let line = get::run(id, &config.nats, &names(&config.topology.prefix)).await?;
                writeln!(out, "{line}").map_err(CliError::Output)?;
                Ok(Exit::Done)
            }
            Command::Status { json, watch } => commands::status(&config, json, watch, stop).await,
            Command::Config => {
                out.write_all(config.to_toml().as_bytes()).map_err(CliError::Output)?;
                Ok(Exit::Done)
            }
            Command::Keeper { .. } => unreachable!("it needs no configuration"),
        }
    }
}
