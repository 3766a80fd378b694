//! The command line: one file a subcommand, and here what they share — how the program starts, prints and fails.
//!
//! Data goes to standard output (`--json`, a PNG with `-o -`, what `inspect` finds), everything for the person at the
//! terminal to standard error. An error is one line and an exit code that a script can act on.

mod bench;
mod generate;
mod inspect;
mod output;
mod parity;
mod progress;
mod stages;
mod streams;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;
use zimage::{BackendChoice, Error, ErrorKind, Result};

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    a fault of this program
  2    the command line or the request must change
  3    a file or folder: a broken or missing model, a place that cannot be written
  4    the device cannot do it
  130  cancelled with Ctrl-C; pictures that were done are kept";

/// Makes pictures from text with Z-Image
#[derive(Debug, Parser)]
#[command(name = "zimage", version, propagate_version = true, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Generate(generate::Args),
    Inspect(inspect::Args),
    Bench(bench::Args),
    Parity(parity::Args),
    Stages(stages::Args),
}

/// Runs the program; `start` is when its process started, as far as it can know.
pub(crate) fn run(start: Instant) -> ExitCode {
    streams::prepare();
    if std::env::var_os("RUST_BACKTRACE").is_none() {
        std::panic::set_hook(Box::new(panicked));
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if is_help(&error) => {
            // Nobody may be reading any more, and that is fine.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
        Err(error) => return fail(&usage(&error), 2),
    };
    let done = match cli.command {
        Command::Generate(args) => generate::run(&args, start).map(|()| ExitCode::SUCCESS),
        Command::Inspect(args) => inspect::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Bench(args) => bench::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Parity(args) => parity::run(&args),
        Command::Stages(args) => stages::run(&args).map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(error) => fail(&error.to_string(), exit_code(error.kind())),
    }
}

/// A fault of this program as an error like the others. Who sets RUST_BACKTRACE gets Rust's own report instead.
fn panicked(fault: &PanicHookInfo<'_>) {
    let message = fault.payload_as_str().unwrap_or("it gave no reason");
    let place = fault.location().map(|place| format!(" at {place}")).unwrap_or_default();
    note(&format!("error: {} (a fault of this program{place}; please report it)", one_line(message)));
    std::process::exit(1);
}

/// Whether this is no error but a text that was asked for, or the one for a command line without a subcommand.
fn is_help(error: &clap::Error) -> bool {
    use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    matches!(error.kind(), DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand)
}

fn fail(message: &str, code: u8) -> ExitCode {
    note(&format!("error: {}", one_line(message)));
    ExitCode::from(code)
}

fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Request => 2,
        ErrorKind::Files => 3,
        ErrorKind::Device => 4,
        ErrorKind::Cancelled => 130,
        _ => 1,
    }
}

/// Reads the value of `--backend`.
fn backends() -> impl TypedValueParser<Value = BackendChoice> {
    PossibleValuesParser::new(BackendChoice::NAMES.iter().map(|(name, _)| *name))
        .try_map(|name| name.parse::<BackendChoice>())
}

/// clap's report of several paragraphs as one line: what is wrong, its tips, and where to read on.
fn usage(error: &clap::Error) -> String {
    let report = error.to_string();
    let mut paragraphs =
        report.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    let first = paragraphs.next().unwrap_or_default();
    let mut line = first.strip_prefix("error: ").unwrap_or(&first).to_owned();
    for tip in paragraphs.filter(|paragraph| paragraph.starts_with("tip: ")) {
        line += &format!(" ({tip})");
    }
    line + "; --help lists what there is"
}

/// A line for the person at the terminal.
fn note(line: &str) {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Prints data to standard output. A reader that has seen enough (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    streams::check_stdout()?;
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(stdout_error(error)),
        _ => Ok(()),
    }
}

/// Prints one JSON document.
fn print_json(document: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(document).map_err(|error| stdout_error(error.into()))?;
    print(&(text + "\n"))
}

fn stdout_error(source: io::Error) -> Error {
    Error::Io { path: Path::new("standard output").to_owned(), source }
}

/// Names and values in two columns.
fn table(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// `text` without line breaks, for a message of one line.
fn one_line(text: &str) -> String {
    harmless(&text.replace(['\r', '\n'], " "))
}

/// `text` without the control characters that would steer a terminal: it may come from a file that somebody sent.
fn harmless(text: &str) -> String {
    let text = text.replace("\r\n", "\n");
    text.chars()
        .map(|c| if c.is_control() && c != '\n' && c != '\t' { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_a_help_text() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
        }
    }

    #[test]
    fn usage_errors_are_one_line() {
        for line in
            [vec!["zimage", "generate"], vec!["zimage", "generate", "a", "--stepz", "3"], vec!["zimage", "paint"]]
        {
            let text = usage(&Cli::try_parse_from(line).unwrap_err());
            assert!(!text.contains('\n') && !text.starts_with("error"), "{text}");
        }
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(harmless("a\u{1b}[31m\r\nb\tc\u{9b}"), "a\u{fffd}[31m\nb\tc\u{fffd}");
        assert_eq!(one_line("a\nb"), "a b");
    }
}
