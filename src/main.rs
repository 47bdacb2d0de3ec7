//! The program: parse, run the command, say in one sentence what went wrong, exit.

mod descriptors;

use jetfold::caught;
use jetfold::crash_point;
use std::process::ExitCode;
use stream_sum::cli::heap;
use stream_sum::cli::{self, Cli, CliError, Exit, Standard};
use stream_sum::telemetry;

fn main() -> ExitCode {
    heap::tune();
    crash_point::name("STREAM_SUM_CRASH_AT");
    let standard = descriptors::standard();
    let exit = Cli::read(standard).and_then(|cli| cli.map_or(Ok(Exit::Done), |cli| run(cli, standard)));
    let exit = exit.unwrap_or_else(|error| {
        cli::complain(&error);
        error.exit()
    });
    ExitCode::from(exit as u8)
}

fn run(cli: Cli, standard: Standard) -> Result<Exit, CliError> {
    // Without descriptors for its signals it panics; without others it returns an error.
    let built = caught(|| tokio::runtime::Builder::new_multi_thread().enable_all().build());
    let runtime = match built.and_then(|built| built.map_err(|error| error.to_string())) {
        Ok(runtime) => runtime,
        Err(cause) => {
            // Not where in the library that is.
            let cause = cause.split(" (in ").next().unwrap_or(&cause);
            telemetry::say(&format!(
                "stream-sum: threads can't be started: {cause}; see that `ulimit -n` is not too low"
            ));
            return Ok(Exit::Failed);
        }
    };
    let exit = runtime.block_on(cli.run(standard));
    // Not waited for: a thread may be reading a terminal that nobody types at.
    runtime.shutdown_background();
    exit
}
