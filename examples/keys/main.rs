//! Makes what `nats/secure.conf` takes: a seed for each role, a test authority, and the server's certificate. Takes a folder, and the
//! names and addresses by which the server is reached, of this machine where there are none. What is there already is never
//! replaced, since somebody may be using it.

mod made;

use std::path::Path;
use std::process::ExitCode;

const HERE: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| "data/keys".to_owned());
    let names: Vec<String> = arguments.collect();
    let names = if names.is_empty() { HERE.map(str::to_owned).to_vec() } else { names };
    match made::make(Path::new(&folder), names) {
        Ok(()) => {
            println!("keys for admin, chunker, summer and reader, and certificates for a year, are in {folder}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("keys: {error}");
            ExitCode::FAILURE
        }
    }
}
