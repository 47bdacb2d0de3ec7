//! `sum`: the checksums of files, with the options of GNU `sha1sum`.

use crate::cli::config::Config;
use crate::cli::ending::{self, CliError, Exit, complain};
use crate::cli::progress;
use crate::roles::sum_files::checksum_line::{Form, Style};
use crate::roles::sum_files::quote::Charset;
use crate::roles::sum_files::task::{Checking, Task, Told};
use crate::roles::sum_files::{self, Limits, Request, SumError};
use crate::run::RunError;
use crate::telemetry::BesideBars;
use clap::Args;
use std::ffi::OsString;
use std::io;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Default, Args)]
// As often as one likes, as sha1sum takes them.
#[command(args_override_self = true)]
pub struct SumArgs {
    /// Mark files as read in binary mode, which is how all are read
    #[arg(long, short = 'b', overrides_with = "text")]
    binary: bool,
    /// Read checksums from the FILEs, sum the files that they name, and compare
    #[arg(long, short = 'c')]
    check: bool,
    /// Print checksums in the BSD style
    #[arg(long)]
    tag: bool,
    /// Mark files as read in text mode (default)
    #[arg(long, short = 't', overrides_with = "binary")]
    text: bool,
    /// End each line with NUL and escape no names
    #[arg(long, short = 'z')]
    zero: bool,
    /// With --check: pass over files that are missing
    #[arg(long)]
    ignore_missing: bool,
    /// With --check: print no OK for files that are as they should be
    #[arg(long, overrides_with_all = ["status", "warn"])]
    quiet: bool,
    /// With --check: print nothing; the exit code tells
    #[arg(long, overrides_with_all = ["quiet", "warn"])]
    status: bool,
    /// With --check: fail on lines that are improperly formatted
    #[arg(long)]
    strict: bool,
    /// With --check: name each line that is improperly formatted
    #[arg(long, short = 'w', overrides_with_all = ["quiet", "status"])]
    warn: bool,
    /// Files to sum, or lists of checksums to check; - is standard input, as it is without a FILE
    #[arg(value_name = "FILE")]
    files: Vec<OsString>,
}

impl SumArgs {
    /// Whether anything may be written to standard output.
    pub fn prints(&self) -> bool {
        !(self.check && self.status)
    }

    /// What the options ask for together, or why they can't.
    fn task(&self) -> Result<Task, &'static str> {
        let when_checking = [
            (self.zero, "the --zero option is not supported when verifying checksums"),
            (self.tag, "the --tag option is meaningless when verifying checksums"),
            (self.binary || self.text, "the --binary and --text options are meaningless when verifying checksums"),
        ];
        let when_printing = [
            (self.ignore_missing, "the --ignore-missing option is meaningful only when verifying checksums"),
            (self.status, "the --status option is meaningful only when verifying checksums"),
            (self.warn, "the --warn option is meaningful only when verifying checksums"),
            (self.quiet, "the --quiet option is meaningful only when verifying checksums"),
            (self.strict, "the --strict option is meaningful only when verifying checksums"),
        ];
        let both_forms = (self.tag && self.text, "--tag does not support --text mode");
        let misuses = if self.check { &when_checking[..] } else { &when_printing[..] };
        if let Some((_, why)) = [both_forms].iter().chain(misuses).find(|(is_given, _)| *is_given) {
            return Err(why);
        }
        if self.check {
            let told = match self {
                Self { status: true, .. } => Told::Nothing,
                Self { quiet: true, .. } => Told::Failures,
                Self { warn: true, .. } => Told::Misformatted,
                _ => Told::All,
            };
            return Ok(Task::Check(Checking { ignore_missing: self.ignore_missing, strict: self.strict, told }));
        }
        let form = match self {
            Self { tag: true, .. } => Form::Tagged,
            Self { binary: true, .. } => Form::Binary,
            _ => Form::Text,
        };
        Ok(Task::Print(Style { form, zero: self.zero }))
    }

    pub async fn run(self, config: &Config, stdin_closed: bool, stop: CancellationToken) -> Result<Exit, CliError> {
        let task = self.task().map_err(CliError::SumOptions)?;
        let names = if self.files.is_empty() { vec!["-".into()] } else { self.files };
        let charset = Charset::of_locale(|name| std::env::var_os(name));
        let request = Request { task, names, stdin_closed, charset };
        let limits = Limits { deadline: config.chunker.deadline, batch_bytes: config.chunker.batch_bytes };
        let bar = progress::bytes(request.total_bytes());
        let mut out = BesideBars(io::stdout());
        let outcome = sum_files::run(request, limits, &config.nats, &config.topology, &bar, &mut out, stop).await;
        bar.finish_and_clear();
        let sum_files::Outcome { failed, violated, failure } = outcome?;
        match failure {
            Some(failure) if violated => complain(&failure.into()),
            Some(failure) => return Err(failure.into()),
            None => {}
        }
        Ok(match failed {
            _ if violated => Exit::Violation,
            true => Exit::Failed,
            false => Exit::Done,
        })
    }
}

pub fn exit(error: &SumError) -> Exit {
    match error {
        SumError::Connect(error) => ending::of_connect(error),
        SumError::Topology(error) => ending::of_topology(error),
        SumError::Run(RunError::Denied(_)) => Exit::Usage,
        SumError::Run(_) | SumError::NoFinal { .. } | SumError::Output(_) | SumError::Interrupted => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SumArgs,
    }

    fn task(options: &str) -> Result<Task, &'static str> {
        Line::parse_from(["sum"].into_iter().chain(options.split_whitespace())).args.task()
    }

    #[test]
    fn options_ask_for_one_task_and_the_last_of_those_that_contradict_counts() {
        let style = |form, zero| Ok(Task::Print(Style { form, zero }));
        let told = |told| Ok(Task::Check(Checking { told, ..Checking::default() }));
        for (options, expected) in [
            ("", style(Form::Text, false)),
            ("-t", style(Form::Text, false)),
            ("-b", style(Form::Binary, false)),
            ("-b -t", style(Form::Text, false)),
            ("-t -b", style(Form::Binary, false)),
            ("-z -z", style(Form::Text, true)),
            ("--tag", style(Form::Tagged, false)),
            ("--tag -bz", style(Form::Tagged, true)),
            ("-c -c", told(Told::All)),
            ("-cw", told(Told::Misformatted)),
            ("-c --quiet", told(Told::Failures)),
            ("-c --status", told(Told::Nothing)),
            ("-c --quiet -w --status", told(Told::Nothing)),
            ("-c --status --quiet -w", told(Told::Misformatted)),
            ("-c -w --status --quiet", told(Told::Failures)),
            (
                "--check --strict --ignore-missing",
                Ok(Task::Check(Checking { strict: true, ignore_missing: true, told: Told::All })),
            ),
        ] {
            assert_eq!(task(options), expected, "{options}");
        }
    }

    #[test]
    fn options_that_make_no_sense_together_are_refused_in_the_words_of_sha1sum() {
        for (options, words) in [
            ("--tag -t", "--tag does not support --text mode"),
            ("-c -z --tag -b", "the --zero option is not supported when verifying checksums"),
            ("-c -b --tag", "the --tag option is meaningless when verifying checksums"),
            ("-c -b", "the --binary and --text options are meaningless when verifying checksums"),
            ("-c -t", "the --binary and --text options are meaningless when verifying checksums"),
            ("--strict --ignore-missing", "the --ignore-missing option is meaningful only when verifying checksums"),
            ("--status", "the --status option is meaningful only when verifying checksums"),
            ("-w", "the --warn option is meaningful only when verifying checksums"),
            ("--quiet --strict", "the --quiet option is meaningful only when verifying checksums"),
            ("--strict", "the --strict option is meaningful only when verifying checksums"),
        ] {
            assert_eq!(task(options), Err(words), "{options}");
        }
    }

    #[test]
    fn only_the_exit_code_needs_no_standard_output() {
        for (options, prints) in [("", true), ("-c", true), ("-c --quiet", true), ("-c --status", false)] {
            let args = Line::parse_from(["sum"].into_iter().chain(options.split_whitespace())).args;
            assert_eq!(args.prints(), prints, "{options}");
        }
    }
}
