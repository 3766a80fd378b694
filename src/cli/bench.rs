//! `zimage bench`: the speed of a backend, op by op, stage by stage and in whole pictures.

use super::model;
use super::phases::Phases;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use zimage::bench::{Options, Published, Seen};
use zimage::tensor::Format;
use zimage::weights::RANDOM_FORMATS;
use zimage::{BackendChoice, LoadOptions, Model, Result};

/// Measure the speed of a backend, in ops, stages and whole pictures, without any model files
///
/// Ops run on random inputs at the sizes of the model and the picture, `picture` draws with the
/// model's own steps and guidance, and rows of milliseconds are medians. TFLOP/s count the
/// operations of matrix products as the ops are defined (an upsampling convolution can do with four
/// ninths of them), GB/s the fewest bytes that have to be moved. The idle share of the denoising
/// loop is 1 − steps · step / loop: a step's time is the median of replays queued back to back, the
/// loop's is the host's while a picture is drawn.
#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Args {
    /// The backend: auto is the best that this machine has; webgpu:N, webgpu:NAME and cuda:N choose
    /// a device that inspect --device lists
    #[arg(long, default_value = "auto", value_parser = super::backend::ANY, allow_hyphen_values = true)]
    backend: BackendChoice,

    /// A published model at its real sizes, with random weights made on the spot
    #[arg(long, value_name = "turbo|base", value_parser = published(), allow_hyphen_values = true)]
    random: Option<Published>,

    /// The format of the random matrices of attention and feed-forward layers; --precision fp8
    /// converts it [default: bf16]
    #[arg(long, value_name = "FORMAT", value_parser = format(), requires = "random", allow_hyphen_values = true)]
    weights: Option<Format>,

    /// The model: a diffusers folder, a file with a transformer, or a name on the Hugging Face hub
    /// [default: the small model inside this program]
    #[arg(long, value_name = "PATH|NAME", conflicts_with = "random")]
    model: Option<String>,

    /// Width of the picture in pixels, a multiple of 16 [default: the model's, 1024 for the
    /// published ones]
    #[arg(short = 'W', long, value_name = "N", value_parser = super::whole, allow_hyphen_values = true)]
    width: Option<usize>,

    /// Height of the picture in pixels, a multiple of 16 [default: the model's, 1024 for the
    /// published ones]
    #[arg(short = 'H', long, value_name = "N", value_parser = super::whole, allow_hyphen_values = true)]
    height: Option<usize>,

    /// Tokens of the caption, those of the chat template included
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = super::whole, allow_hyphen_values = true)]
    tokens: usize,

    #[command(flatten)]
    precision: super::precision::Args,

    #[command(flatten)]
    residency: super::residency::Args,

    /// The most measurements of a row; rows that take long are measured less often
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = super::whole, allow_hyphen_values = true)]
    runs: usize,

    /// Only rows whose name holds this text, such as op/attention, stage/vae or picture; loads
    /// only what they need
    #[arg(long, value_name = "PATTERN", default_value = "", allow_hyphen_values = true)]
    filter: String,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn published() -> impl TypedValueParser<Value = Published> {
    PossibleValuesParser::new([Published::Turbo, Published::Base].map(Published::name))
        .try_map(|name| name.parse::<Published>())
}

fn format() -> impl TypedValueParser<Value = Format> {
    let format = |name: String| RANDOM_FORMATS.into_iter().find(|(other, _)| *other == name);
    PossibleValuesParser::new(RANDOM_FORMATS.map(|(name, _)| name))
        .map(move |name| format(name).expect("one of the possible values").1)
}

pub(super) fn run(args: &Args) -> Result<()> {
    let model = match (args.random, &args.model) {
        (Some(published), _) => published.with_random_weights(args.weights)?,
        (None, Some(name)) => model::named(name)?,
        (None, None) => Model::embedded()?,
    };
    let options = Options {
        width: args.width,
        height: args.height,
        caption_tokens: args.tokens,
        runs: args.runs,
        weights: args.weights,
        filter: args.filter.clone(),
    };
    let load = LoadOptions {
        backend: args.backend.clone(),
        residency: args.residency.residency(None),
        precision: args.precision.precision()?,
    };
    let mut phases = Phases::new();
    let mut see = |seen: Seen<'_>| {
        match seen {
            Seen::Phase(name) => phases.begin(name),
            Seen::Stage(stage) => phases.stage(stage),
            Seen::Header(header) if !args.json => phases.suspend(|| super::print(&format!("{header}\n")))?,
            Seen::Row(row) if !args.json => phases.suspend(|| super::print(&format!("{row}\n")))?,
            _ => {}
        }
        Ok(())
    };
    let report = pollster::block_on(zimage::bench(load, &model, &options, &mut see));
    phases.clear();
    let report = report?;
    if args.json { super::print_json(&report) } else { super::print(&report.summary()) }
}
