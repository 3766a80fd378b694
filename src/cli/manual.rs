//! `zimage completions` and `zimage man`: the files that a package of this program installs beside
//! it, on standard output.

use clap::{Command, CommandFactory};
use zimage::{Error, Result};

/// Print the completions of a shell
///
/// For bash, for example: zimage completions bash >
/// ~/.local/share/bash-completion/completions/zimage
#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Completions {
    /// The shell that completes
    #[arg(value_name = "SHELL")]
    shell: clap_complete::Shell,
}

/// Print a man page
///
/// For example: zimage man generate | man -l -
#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Man {
    /// The command that the page is about [default: the program as a whole]
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

pub(super) fn completions(args: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "zimage", &mut script);
    super::print(&String::from_utf8_lossy(&script))
}

pub(super) fn man(args: &Man) -> Result<()> {
    let mut program = super::Cli::command();
    program.build();
    let command = match &args.command {
        None => program,
        Some(name) => named(&program, name)?,
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).map_err(super::stdout_error)?;
    super::print(&String::from_utf8_lossy(&page))
}

fn named(program: &Command, name: &str) -> Result<Command> {
    program.find_subcommand(name).cloned().ok_or_else(|| {
        let known: Vec<&str> = program.get_subcommands().map(Command::get_name).collect();
        Error::Request(format!("there is no command {name:?}; there are: {}", known.join(", ")))
    })
}
