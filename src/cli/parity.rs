//! `zimage parity`: holds a backend against another and says in its exit code whether they agree.

use super::backend::EXPLICIT;
use super::model;
use super::phases::Phases;
use serde::Serialize;
use std::process::ExitCode;
use zimage::conformance::{Options, Report};
use zimage::{BackendChoice, Error, ErrorKind, Model, Result};

const EXIT_CODES: &str = "\
Exit codes:
  0    every case passed
  1    a case failed, or a fault of this program
  2    the command line must change
  3    a model is broken or missing
  4    a device is missing or cannot do it
  129, 130, 143
       cancelled by a hang-up, by Ctrl-C, by SIGTERM";

/// Compare backends with each other, op by op, stage by stage, and in whole pictures
///
/// The first backend counts as right and every other one is held against it; a single one is held
/// against itself, which shows whether it computes the same every time. Every backend must also
/// reject wrong arguments with the same message. The pictures are those of a small model, and of
/// the same model with activations past the range of F16.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Args {
    /// Backends, the reference first [default: every one that this machine has]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', allow_hyphen_values = true)]
    backends: Vec<String>,

    /// The model: a diffusers folder, a file with a transformer, or a name on the Hugging Face hub
    /// [default: the small model inside this program]
    #[arg(long, value_name = "PATH|NAME")]
    model: Option<String>,

    /// Only cases whose name holds this text, such as attention or linear/odd
    #[arg(long, value_name = "PATTERN", default_value = "", allow_hyphen_values = true)]
    filter: String,

    /// The seed of the inputs
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = seed, allow_hyphen_values = true)]
    seed: u64,

    /// Add the cases of real size, those of a 1024×1024 picture: for GPUs
    #[arg(long)]
    full: bool,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A seed, which is never drawn at random here.
fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("expected a whole number from 0 to {}", u64::MAX))
}

/// The document of `--json`.
#[derive(Serialize)]
struct Document {
    passed: bool,
    reports: Vec<Report>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let models = match &args.model {
        Some(name) => vec![model::named(name)?],
        None => match Model::embedded() {
            // A program built without the small model still compares the ops.
            Err(error) if error.kind() == ErrorKind::Request => {
                super::note(&format!("skipped: stages and pictures: {}", super::advice::sentence(&error)));
                Vec::new()
            }
            model => vec![model?],
        },
    };
    let named = !args.backends.is_empty();
    let backends: Vec<BackendChoice> = match named {
        true => args.backends.iter().map(|name| EXPLICIT.parse(name)).collect::<Result<_>>()?,
        false => BackendChoice::built_in().collect(),
    };
    let (reference, others) = match backends.split_first() {
        Some((first, [])) => (first, std::slice::from_ref(first)),
        Some((first, others)) => (first, others),
        None => return Err(Error::Request("--backends names no backend".into())),
    };

    let mut reports: Vec<Report> = Vec::new();
    for candidate in others {
        match compared(reference, candidate, &models, args) {
            // Only a backend that the user named has to be there.
            Err(error) if !named && error.kind() == ErrorKind::Device => super::note(&format!("skipped: {error}")),
            report => reports.push(report?),
        }
    }
    if reports.is_empty() {
        // No other device is here: the one that is must at least agree with itself.
        reports.push(compared(reference, reference, &models, args)?);
    }
    let passed = reports.iter().all(Report::passed);
    if args.json {
        super::print_json(&Document { passed, reports })?;
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Compares two backends, and prints the table.
fn compared(reference: &BackendChoice, candidate: &BackendChoice, models: &[Model], args: &Args) -> Result<Report> {
    let options = Options { seed: args.seed, filter: args.filter.clone(), full: args.full, ..Options::default() };
    let mut phases = Phases::new();
    phases.begin(&format!("comparing {candidate} with {reference}"));
    let report = pollster::block_on(zimage::parity(reference.clone(), candidate.clone(), models, &options));
    phases.clear();
    let report = report?;
    if report.cases() == 0 {
        return Err(Error::Request(format!("--filter {:?}: no case has this in its name", args.filter)));
    }
    if !args.json {
        super::print(&format!("{report}\n\n"))?;
    }
    Ok(report)
}
