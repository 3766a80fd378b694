//! The command line: one file a subcommand, and here the code they share: how the program starts,
//! prints and fails.
//!
//! Data goes to standard output (`--json`, a PNG with `-o -`, the findings of `inspect`), all words
//! for the person at the terminal to standard error. An error is one line and an exit code that a
//! script can act on.

mod advice;
mod backend;
mod bench;
mod download;
mod generate;
mod inspect;
mod kinds;
mod manual;
pub(crate) mod memory;
mod model;
mod models;
mod output;
mod parity;
mod peers;
mod phases;
mod plan;
mod precision;
mod progress;
mod prompts;
mod pull;
mod quantize;
mod residency;
mod signals;
mod stages;
mod streams;
mod terminal;
mod text;
mod threads;
mod usage;

use clap::{CommandFactory, Parser, Subcommand};
use std::backtrace::Backtrace;
use std::panic::PanicHookInfo;
use std::process::ExitCode;
use std::time::Instant;
use terminal::{Failure, note, print, print_json, stdout_error, table};
use text::harmless;
use zimage::weights::explain_sigbus;
use zimage::{Error, ErrorKind, Result};

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    a fault of this program
  2    the command line or the request must change
  3    a file or folder: a broken or missing model, a hub that does not deliver it, a place that
       cannot be written
  4    the device cannot do it
  129, 130, 143
       cancelled by a hang-up, by Ctrl-C, by SIGTERM; pictures that were done are kept

With --json an error is a document as well: {\"error\": {\"kind\", \"message\", \"exit_code\"}}";

/// Makes pictures from text with Z-Image
#[derive(Debug, Parser)]
#[command(name = "zimage", version, propagate_version = true, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Print nothing but errors to standard error: no progress, no warnings, no report
    #[arg(short, long, global = true, display_order = 1000)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Generate(Box<generate::Args>),
    Inspect(inspect::Args),
    Pull(pull::Args),
    Models(models::Args),
    Quantize(quantize::Args),
    Plan(plan::Args),
    Bench(bench::Args),
    Parity(parity::Args),
    Stages(stages::Args),
    Completions(manual::Completions),
    Man(manual::Man),
}

/// Runs the program; `start` is when its process started, as far as it can know.
pub(crate) fn run(start: Instant) -> ExitCode {
    signals::take_over();
    streams::prepare();
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    // Known before the command line is parsed, so that an error of parsing can be a document
    // too.
    let json = arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json");
    std::panic::set_hook(Box::new(move |fault| panicked(fault, json)));
    if let Some(answer) = single_dash(&arguments) {
        return usage_failure(answer).print(json);
    }
    explain_sigbus(class(ErrorKind::Files).1);
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if is_help(&error) => {
            // Nobody may be reading any more, and that is fine.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
        Err(error) => return usage_failure(usage::sentence(&error, &arguments)).print(json),
    };
    if cli.quiet {
        terminal::be_quiet();
    }
    threads::start();
    let done = match cli.command {
        Command::Generate(args) => generate::run(&args, start),
        Command::Inspect(args) => inspect::run(&args).map_err(Failure::from),
        Command::Pull(args) => pull::run(&args).map_err(Failure::from),
        Command::Models(args) => models::run(&args).map_err(Failure::from),
        Command::Quantize(args) => quantize::run(&args).map_err(Failure::from),
        Command::Plan(args) => plan::run(&args).map_err(Failure::from),
        Command::Bench(args) => bench::run(&args).map_err(Failure::from),
        Command::Parity(args) => return parity::run(&args).unwrap_or_else(|error| Failure::from(error).print(json)),
        Command::Stages(args) => stages::run(&args).map_err(Failure::from),
        Command::Completions(args) => manual::completions(&args).map_err(Failure::from),
        Command::Man(args) => manual::man(&args).map_err(Failure::from),
    };
    done.map_or_else(|failure| failure.print(json), |()| ExitCode::SUCCESS)
}

/// Texts of panics in the standard library and in dependencies where the system refuses memory or a
/// thread.
const LITTLE_LEFT: [&str; 3] = [
    "failed to spawn thread",
    "failed to allocate an alternative stack",
    "failed to set up alternative stack guard page",
];

/// A fault of this program as an error like the others; RUST_BACKTRACE adds where it came from.
fn panicked(fault: &PanicHookInfo<'_>, json: bool) {
    let message = fault.payload_as_str().unwrap_or("it gave no reason");
    if let Some(said) = LITTLE_LEFT.iter().find(|said| message.contains(*said)) {
        let (kind, exit_code) = class(ErrorKind::Device);
        let message = format!("the system has no memory or no thread left ({said})");
        Failure { kind, message, exit_code, kept: Vec::new() }.print(json);
        std::process::exit(exit_code.into());
    }
    let place = fault.location().map(|place| format!(" at {place}")).unwrap_or_default();
    if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
        for line in Backtrace::force_capture().to_string().lines() {
            note(line);
        }
    }
    let message = format!("{message} (a fault of this program{place}; please report it)");
    Failure { kind: "internal", message, exit_code: 1, kept: Vec::new() }.print(json);
    std::process::exit(1);
}

/// True for a text that was asked for, which is no error, and for the one for a command line
/// without a subcommand.
fn is_help(error: &clap::Error) -> bool {
    use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    matches!(error.kind(), DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand)
}

/// The answer of `generate` to `-steps`.
fn single_dash(arguments: &[String]) -> Option<String> {
    let (_, rest) = arguments.split_first().filter(|(name, _)| *name == "generate")?;
    let command = Cli::command();
    let ours = command.find_subcommand("generate")?.get_arguments().filter_map(clap::Arg::get_long);
    peers::single_dash(rest, &ours.collect::<Vec<_>>())
}

fn usage_failure(message: String) -> Failure {
    Failure { kind: "request", message, exit_code: 2, kept: Vec::new() }
}

/// The name of a class of errors in JSON, and its exit code.
fn class(kind: ErrorKind) -> (&'static str, u8) {
    match kind {
        ErrorKind::Request => ("request", 2),
        ErrorKind::Files => ("files", 3),
        ErrorKind::Device => ("device", 4),
        ErrorKind::Cancelled => ("cancelled", signals::exit_code()),
        _ => ("internal", 1),
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (kind, exit_code) = class(error.kind());
        Self { kind, message: advice::sentence(&error), exit_code, kept: Vec::new() }
    }
}

/// A count or a size. The request's own check, which knows the model, refuses what is out of range.
fn whole(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "expected a whole number from 1 up".to_owned())
}

/// A number with a fraction. The request's own check says which are possible.
fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "expected a number such as 1.5".to_owned())
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
    fn every_value_may_begin_with_a_dash() {
        // Paths are left out: a flag in the place of a file's name is a file's name that was
        // forgotten.
        let paths = ["model", "text-encoder", "vae", "tokenizer", "lora", "models-dir", "output", "inputs"];
        for command in Cli::command().get_subcommands() {
            let options = command.get_arguments().filter(|argument| argument.get_action().takes_values());
            for argument in options.filter(|argument| argument.get_long().is_some_and(|name| !paths.contains(&name))) {
                assert!(argument.is_allow_hyphen_values_set(), "{} {}", command.get_name(), argument.get_id());
            }
        }
    }

    /// The program's reaction to a panic ends its process, so that this test starts itself again.
    #[test]
    fn a_panic_is_one_line_and_exit_code_1() {
        const ASKED: &str = "PANIC_IN_THIS_TEST";
        if std::env::var_os(ASKED).is_some() {
            std::panic::set_hook(Box::new(|fault| panicked(fault, false)));
            panic!("a reason\u{202e}");
        }
        let name = "cli::tests::a_panic_is_one_line_and_exit_code_1";
        for (backtrace, lines) in
            [(None, 1..2), (Some("0"), 1..2), (Some("1"), 2..usize::MAX), (Some("full"), 2..usize::MAX)]
        {
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            command.args([name, "--exact", "--nocapture"]).env(ASKED, "1").env_remove("RUST_BACKTRACE");
            if let Some(value) = backtrace {
                command.env("RUST_BACKTRACE", value);
            }
            let output = command.output().unwrap();
            let errors = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{backtrace:?}: {errors}");
            assert!(lines.contains(&errors.lines().count()), "{backtrace:?}: {errors}");
            let last = errors.lines().last().unwrap();
            assert!(last.starts_with("error: a reason\\u{202e} (a fault of this program at "), "{errors}");
        }
    }
}
