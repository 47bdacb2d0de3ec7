//! `completions` and `man`: what shells and `man` know of the command line, made from it.

use crate::cli::Cli;
use crate::cli::ending::{CliError, Exit};
use clap::CommandFactory;
use clap_complete::{Shell, generate};
use std::io::{self, Write};

/// Prints what a shell completes words by.
pub fn completions(shell: Shell) -> Result<Exit, CliError> {
    let mut text = Vec::new();
    generate(shell, &mut Cli::command(), env!("CARGO_PKG_NAME"), &mut text);
    print(&text)
}

/// Prints the manual page of the program, or of one of its commands.
pub fn man(of: Option<&str>) -> Result<Exit, CliError> {
    let mut cli = Cli::command();
    cli.build();
    let command = match of {
        None => cli,
        Some(name) => {
            let found = cli.get_subcommands().find(|command| command.get_name() == name && !command.is_hide_set());
            found.cloned().ok_or_else(|| CliError::NoCommand(name.to_owned()))?
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(command).render(&mut text).map_err(CliError::Output)?;
    print(&text)
}

fn print(text: &[u8]) -> Result<Exit, CliError> {
    let mut out = io::stdout();
    out.write_all(text).and_then(|()| out.flush()).map_err(CliError::Output)?;
    Ok(Exit::Done)
}
