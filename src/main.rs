//! The program: parse, run the command, say in one sentence what went wrong, exit.

mod descriptors;

use std::process::ExitCode;
use stream_sum::cli::{self, Cli, CliError, Exit, Standard};
use stream_sum::{heap, telemetry};

fn main() -> ExitCode {
    heap::tune();
    let standard = descriptors::standard();
    let exit = Cli::read(standard).and_then(|cli| cli.map_or(Ok(Exit::Done), |cli| run(cli, standard)));
    let exit = exit.unwrap_or_else(|error| {
        cli::complain(&error);
        error.exit()
    });
    ExitCode::from(exit as u8)
}

fn run(cli: Cli, standard: Standard) -> Result<Exit, CliError> {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            telemetry::say(&format!("stream-sum: threads can't be started: {error}"));
            return Ok(Exit::Failed);
        }
    };
    let exit = runtime.block_on(cli.run(standard));
    // Not waited for: a thread may be reading a terminal that nobody types at.
    runtime.shutdown_background();
    exit
}
