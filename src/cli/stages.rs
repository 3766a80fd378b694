//! `zimage stages`: single networks on given inputs, for comparing them with other programs.

use super::model;
use super::output;
use super::progress::Bar;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError};
use std::path::{Path, PathBuf};
use zimage::conformance::stages::Inputs;
use zimage::tensor::HostTensor;
use zimage::{BackendChoice, Error, LoadOptions, OutputFile, Result};

const TENSORS: &str = "\
Inputs, in floating types of 16 or 32 bits where no other is named; NAME is whatever you choose:
  text.NAME.ids               [n]           token ids of a prompt, template included (U32, I32, I64)
  transformer.NAME.latents    [P, C, h, w]
  transformer.NAME.times      [1], or [N] where N = P: 0 is noise, 1 the picture
  transformer.NAME.caption.i  [n, D]        text features for item i of N, which draws latents i mod P
  vae.NAME.latents            [B, C, h, w]  scaled as the transformer reads them

Outputs, all F32:
  text.NAME.features          [n, D]
  transformer.NAME.velocity   [N, C, h, w]  a prediction of (image - noise)
  vae.NAME.image              [B, H, W, 3]  between about -1 and 1, not clamped
";

/// Run single stages of a model on given inputs and write what they return
///
/// For comparing each network with another program. Only the networks that the inputs ask for are
/// loaded. All prompts are encoded in one ragged batch; all items of a NAME go through the
/// transformer in one.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{TENSORS}\n{}", super::EXIT_CODES))]
pub(super) struct Args {
    #[command(flatten)]
    model: model::Args,

    /// The backend; webgpu:N, webgpu:NAME and cuda:N choose a device that inspect --device lists
    #[arg(long, default_value = "cpu", value_parser = super::backend::EXPLICIT, allow_hyphen_values = true)]
    backend: BackendChoice,

    #[command(flatten)]
    precision: super::precision::Args,

    /// The safetensors file with the inputs
    #[arg(short, long, value_name = "FILE")]
    inputs: PathBuf,

    /// The safetensors file to write, over one that is there; - writes to standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let output = output::open(&args.output)?;
    let model::Opened { model, reports, warnings } = args.model.open()?;
    reports.iter().for_each(|report| super::note(report));
    warnings.iter().for_each(|warning| super::note(&format!("warning: {warning}")));
    let inputs = pollster::block_on(Inputs::read(&args.inputs, model.config()))?;
    let mut bar = Bar::new();
    let precision = args.precision.precision()?;
    let options = LoadOptions { backend: args.backend.clone(), precision, ..LoadOptions::default() };
    let results = pollster::block_on(zimage::stages(options, &model, &inputs, &mut bar));
    bar.clear();
    let results = results?;
    write(&output, &args.output, &results)?;
    let bytes: usize = results.iter().map(|(_, tensor)| tensor.bytes().len()).sum();
    let tensors = if results.len() == 1 { "tensor" } else { "tensors" };
    let file = if args.output == Path::new("-") { "to standard output".into() } else { args.output.to_string_lossy() };
    super::note(&format!("wrote {file} ({} {tensors}, {bytes} bytes)", results.len()));
    Ok(())
}

fn write(output: &OutputFile, path: &Path, results: &[(String, HostTensor)]) -> Result<()> {
    let unwritten = |error: SafeTensorError| Error::File { path: path.to_owned(), problem: error.to_string() };
    let mut views = Vec::with_capacity(results.len());
    for (name, tensor) in results {
        let view = TensorView::new(Dtype::F32, tensor.shape().to_vec(), tensor.bytes());
        views.push((name, view.map_err(unwritten)?));
    }
    let bytes = safetensors::serialize(views, None).map_err(unwritten)?;
    output.write(&bytes).map(drop)
}
