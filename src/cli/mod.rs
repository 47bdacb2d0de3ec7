//! The command line: the list of commands, and what is common to them. Each has a file for its arguments, the
//! configuration keys that its flags stand for, its run and its exit codes; [`ending`] has what all may end with.

mod accept;
mod chunker;
mod conclusion;
pub mod config;
pub mod context;
mod document;
pub mod ending;
mod get;
pub mod heap;
mod manual;
pub mod progress;
mod rejects;
mod report_file;
mod server;
mod soak;
mod status;
mod sum;
mod summer;
mod topology;
mod up;

pub use ending::{CliError, Exit, complain};

use crate::cli::accept::AcceptArgs;
use crate::cli::chunker::ChunkerArgs;
use crate::cli::config::{Config, Override, Sources};
use crate::cli::get::GetArgs;
use crate::cli::rejects::RejectsCommand;
use crate::cli::server::ServerArgs;
use crate::cli::soak::SoakArgs;
use crate::cli::status::StatusArgs;
use crate::cli::sum::SumArgs;
use crate::cli::summer::SummerArgs;
use crate::cli::topology::TopologyCommand;
use crate::cli::up::UpArgs;
use crate::local::up::keeper;
use crate::telemetry::{self, Format};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use jetfold::signals;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// Stateful, exactly-once stream processing on NATS JetStream: generate, sum and verify content streams.
#[derive(Debug, Parser)]
#[command(name = "stream-sum", version = crate::VERSION, propagate_version = true, subcommand_required = true)]
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
    Get(GetArgs),
    /// Show how far each partition is, and who works on it
    Status(StatusArgs),
    /// List, explain, retry and drop what could not be folded
    #[command(subcommand)]
    Rejects(RejectsCommand),
    /// Have the summers that run go on without what a log has lost, which is recorded
    Accept(AcceptArgs),
    /// Print the resolved configuration as TOML, secrets redacted
    Config,
    /// Run the local stack: a nats-server of its own, summers and a chunker
    Up(UpArgs),
    /// Run a system under faults, and say whether it kept what it promises
    Soak(Box<SoakArgs>),
    /// Run a nats-server for this machine alone, until Ctrl-C
    Server(ServerArgs),
    /// Print what a shell completes words by
    Completions { shell: Shell },
    /// Print the manual page of the program, or of one of its commands
    Man { command: Option<String> },
    /// Clean up behind a process that may die
    #[command(name = keeper::COMMAND, hide = true)]
    Keeper { folder: Option<PathBuf> },
}

impl Common {
    fn settings(&self) -> Vec<Override> {
        given([("nats.servers", &self.server), ("nats.creds", &self.creds), ("nats.nkey", &self.nkey)])
    }

    /// The arguments by which a process that is started here finds the configuration and the secrets of this one.
    fn arguments(self) -> Vec<OsString> {
        let files = self.config.into_iter().map(|file| ("--config", Some(OsString::from(file))));
        let keys = [("--creds", self.creds), ("--nkey", self.nkey), ("--context", self.context)];
        let keys = keys.map(|(flag, value)| (flag, value.map(OsString::from)));
        let given = files.chain(keys).filter_map(|(flag, value)| Some([OsString::from(flag), value?]));
        given.flatten().collect()
    }
}

impl Command {
    /// Whether it has something to end in order when it is asked to stop. A signal just ends the others.
    fn drains(&self) -> bool {
        match self {
            Self::Summer(_) | Self::Chunker(_) | Self::Sum(_) | Self::Status(_) | Self::Up(_) | Self::Soak(_) => true,
            // The keeper has its own way with signals, and a server becomes another program.
            Self::Topology(_)
            | Self::Get(_)
            | Self::Rejects(_)
            | Self::Accept(_)
            | Self::Config
            | Self::Completions { .. }
            | Self::Man { .. }
            | Self::Server(_)
            | Self::Keeper { .. } => false,
        }
    }

    /// Whether results are written to standard output.
    fn prints(&self) -> bool {
        match self {
            Self::Summer(_) | Self::Server(_) | Self::Keeper { .. } => false,
            Self::Sum(args) => args.prints(),
            Self::Topology(_)
            | Self::Chunker(_)
            | Self::Get(_)
            | Self::Rejects(_)
            | Self::Accept(_)
            | Self::Status(_)
            | Self::Config
            | Self::Completions { .. }
            | Self::Man { .. }
            | Self::Up(_)
            | Self::Soak(_) => true,
        }
    }

    /// The configuration keys that its flags stand for.
    fn settings(&self) -> Vec<Override> {
        match self {
            Self::Topology(command) => command.settings(),
            Self::Summer(args) => args.settings(),
            Self::Chunker(args) => args.settings(),
            Self::Up(args) => args.settings(),
            Self::Server(args) => args.settings(),
            Self::Soak(args) => args.settings(),
            Self::Sum(_)
            | Self::Get(_)
            | Self::Rejects(_)
            | Self::Accept(_)
            | Self::Status(_)
            | Self::Config
            | Self::Completions { .. }
            | Self::Man { .. }
            | Self::Keeper { .. } => Vec::new(),
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

    /// The configuration keys that the flags stand for.
    fn settings(&self) -> Vec<Override> {
        [self.common.settings(), self.command.settings()].concat()
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
        // These need no configuration, and must not fail for one.
        match &self.command {
            Command::Completions { shell } => return manual::completions(*shell),
            Command::Man { command } => return manual::man(command.as_deref()),
            _ => {}
        }
        // Before anything that takes its time: until then, a signal ends the process without a word.
        let stop = match self.command.drains() {
            true => signals().map_err(CliError::Signals)?,
            false => CancellationToken::new(),
        };
        let flags = self.settings();
        let config = Config::load(Sources {
            files: self.common.config.clone(),
            environment: std::env::vars_os().collect(),
            context: self.common.context.clone(),
            flags: flags.clone(),
        })?;
        // The stack is watched by somebody, and its lines are among its summers'.
        let text = matches!(self.command, Command::Up(_) | Command::Soak(_));
        telemetry::start(&config.log, if text { Format::Text } else { Format::Json });
        match self.command {
            Command::Topology(command) => command.run(&config).await,
            Command::Summer(args) => args.run(&config, stop).await,
            Command::Chunker(args) => args.run(&config, stop).await,
            Command::Sum(args) => args.run(&config, standard.input_closed, stop).await,
            Command::Get(args) => args.run(&config).await,
            Command::Status(args) => args.run(&config, stop).await,
            Command::Rejects(command) => command.run(&config).await,
            Command::Accept(args) => args.run(&config).await,
            Command::Config => print(config.to_toml()).map(|()| Exit::Done),
            Command::Up(args) => args.run(&config, self.common.arguments(), &flags, stop).await,
            Command::Server(args) => args.run(&config),
            Command::Soak(args) => args.run(&config, self.common.arguments(), &flags, stop).await,
            Command::Keeper { .. } | Command::Completions { .. } | Command::Man { .. } => {
                unreachable!("it needs no configuration")
            }
        }
    }
}

/// The keys of those flags that are given, with their values.
fn given<const N: usize>(flags: [(&'static str, &Option<String>); N]) -> Vec<Override> {
    flags.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect()
}

fn print(text: impl Display) -> Result<(), CliError> {
    write!(io::stdout(), "{text}").map_err(CliError::Output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// The commands that do something, by the words that call them.
    fn commands(command: &clap::Command, words: &[String], into: &mut Vec<(Vec<String>, clap::Command)>) {
        let words = [words, &[command.get_name().to_owned()]].concat();
        match command.has_subcommands() {
            true => command.get_subcommands().for_each(|command| commands(command, &words, into)),
            false => into.push((words, command.clone())),
        }
    }

    #[test]
    fn a_flag_that_names_a_key_in_its_help_stands_for_that_key_and_no_other() {
        let mut cli = Cli::command();
        cli.build();
        let mut found = Vec::new();
        commands(&cli, &[], &mut found);
        let mut seen = 0;
        for (mut words, command) in found.into_iter().filter(|(words, _)| !words.contains(&"help".to_owned())) {
            match command.get_name() {
                "get" => words.push("0".repeat(32)),
                "show" | "explain" | "retry" if words.contains(&"rejects".to_owned()) => words.push("7".to_owned()),
                "drop" => words.extend(["7", "--reason", "why"].map(str::to_owned)),
                "compare" => words.extend(["a", "b"].map(str::to_owned)),
                "accept" => words.push("hole:0".to_owned()),
                "completions" => words.push("bash".to_owned()),
                _ => {}
            }
            for flag in command.get_arguments() {
                let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
                let Some(key) = help.split_once(" [").and_then(|(_, key)| key.strip_suffix(']')) else { continue };
                let line = [&words[..], &[format!("--{}=7", flag.get_long().unwrap())]].concat();
                let settings = Cli::try_parse_from(&line).unwrap().settings();
                // The name of a folder need not be text, and is set where it is used.
                let expected = if key == "summer.data_dir" { vec![] } else { vec![(key, "7".to_owned())] };
                assert_eq!(settings, expected, "{line:?}");
                seen += 1;
            }
        }
        assert!(seen > 40, "only {seen} such flags were found");
    }
}
