//! The program: parse, run the command, say in one sentence what went wrong, exit.

use clap::Parser;
use std::process::ExitCode;
use stream_sum::cli::{self, Cli, Exit};
use stream_sum::{heap, telemetry};

fn main() -> ExitCode {
    heap::tune();
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            telemetry::say(&format!("stream-sum: threads can't be started: {error}"));
            return ExitCode::from(Exit::Failed as u8);
        }
    };
    let exit = runtime.block_on(cli.run()).unwrap_or_else(|error| {
        cli::complain(&error);
        error.exit()
    });
    // Not waited for: a thread may be reading a terminal that nobody types at.
    runtime.shutdown_background();
    ExitCode::from(exit as u8)
}
