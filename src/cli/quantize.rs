//! `zimage quantize`: a part of a model becomes a GGUF file.

use super::progress::{line, style};
use super::signals::Interrupt;
use super::{output, pull};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use indicatif::DecimalBytes;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use zimage::pipeline::prompt::Tokenizer;
use zimage::tensor::Format;
use zimage::weights::{GgufExport, ModelFolder, Part, Quantization};
use zimage::{Error, OutputFile, Result};

/// The names of the formats on the command line, the smallest files first.
const TYPES: [(&str, Format); 7] = [
    ("q4_0", Format::Q4_0),
    ("q4_k", Format::Q4K),
    ("q5_k", Format::Q5K),
    ("q6_k", Format::Q6K),
    ("q8_0", Format::Q8_0),
    ("bf16", Format::Bf16),
    ("f16", Format::F16),
];
const PARTS: [(&str, Part); 2] = [("transformer", Part::Transformer), ("text-encoder", Part::TextEncoder)];

/// Write a model's transformer or text encoder as a GGUF file in a smaller type
///
/// ComfyUI-GGUF and stable-diffusion.cpp read the file, and so does --model or --text-encoder.
/// Embedders, modulations, the final layer and vectors are a small part of a model and are not
/// quantised, except the text encoder's table of tokens. LoRA files are not part of the result.
#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Args {
    /// The model: a diffusers folder, the folder of the part, a .safetensors, .sft or .gguf file
    /// with it, or a name on the Hugging Face hub, which is downloaded, such as
    /// Tongyi-MAI/Z-Image-Turbo/transformer
    #[arg(value_name = "MODEL")]
    model: String,

    /// The type of the matrices: about 4.5 bits a weight for q4_0 and the more precise q4_k,
    /// 5.5 for q5_k, 6.6 for q6_k, 8.5 for q8_0, 16 for bf16 and f16
    #[arg(long = "type", value_name = "TYPE", value_parser = named(&TYPES), allow_hyphen_values = true)]
    kind: Format,

    /// The part of the model
    #[arg(long, value_name = "PART", default_value = "transformer", value_parser = named(&PARTS))]
    #[arg(allow_hyphen_values = true)]
    part: Part,

    /// Leave the transformer's refiners in their type too
    #[arg(long)]
    keep_refiners: bool,

    /// The GGUF file to write, over one that is there; - writes to standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Print what was written as one JSON document
    #[arg(long)]
    json: bool,
}

/// A parser of one of these names.
fn named<T: Copy + Send + Sync + 'static>(names: &'static [(&str, T)]) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(names.iter().map(|(name, _)| *name))
        .map(|found| names.iter().find(|(name, _)| *name == found).expect("one of the names").1)
}

/// The document of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    file: String,
    bytes: u64,
    part: &'a str,
    #[serde(rename = "type")]
    kind: String,
    /// The number of tensors in each type.
    tensors: BTreeMap<String, usize>,
    kept: Vec<Kept<'a>>,
    left_out: &'a [String],
    tokenizer: bool,
}

/// A matrix in another type than was asked for.
#[derive(Serialize)]
struct Kept<'a> {
    tensor: &'a str,
    #[serde(rename = "type")]
    kind: String,
    /// Why: `sensitive` to rounding, or `rows` that are not whole blocks.
    reason: &'a str,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let output = open(&args.output)?;
    if args.json && output.is_stdout() {
        return Err(Error::Request("-o - and --json both need standard output: name a file with -o".into()));
    }
    let folder = ModelFolder::of_part(args.part, &pull::resolve(&args.model)?)?;
    let settings = Quantization { part: args.part, format: args.kind, keep_refiners: args.keep_refiners };
    let export = GgufExport::new(&folder, settings)?;
    if export.has_tokenizer() {
        // The file names Qwen's tokenizer, so it has to be that.
        pollster::block_on(Tokenizer::load(&folder))?;
    }
    let file = write(&export, &output)?;
    let report = Report::new(args, &export, if output.is_stdout() { "-".into() } else { file.display().to_string() });
    if args.json {
        return super::print_json(&report);
    }
    report.tell();
    Ok(())
}

/// Opens the value of `-o`.
fn open(path: &Path) -> Result<OutputFile> {
    let is_gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    if !is_gguf && path != Path::new("-") && !OutputFile::is_stream(path) && !path.is_dir() {
        let gguf = path.with_extension("gguf");
        let problem = format!("-o {}: only GGUF is written; try -o {}", path.display(), gguf.display());
        return Err(Error::Request(problem));
    }
    output::open(path)
}

/// Writes the file with a progress line. A signal asks it to stop.
fn write(export: &GgufExport, output: &OutputFile) -> Result<PathBuf> {
    let line = line();
    style(&line, "quantising {bytes} of {total_bytes} {wide_bar} {bytes_per_sec} · {eta} left");
    line.set_length(export.bytes());
    let interrupt = Interrupt::defer_work(line.clone(), "and leaving no file");
    let written = export.write(output, &mut |done, _| {
        line.set_position(done);
        if interrupt.is_pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    line.finish_and_clear();
    interrupt.release()?;
    written
}

impl<'a> Report<'a> {
    fn new(args: &Args, export: &'a GgufExport, file: String) -> Self {
        let kept = |reason| move |(tensor, kind): (&'a str, Format)| Kept { tensor, kind: kind.to_string(), reason };
        Self {
            file,
            bytes: export.bytes(),
            part: args.part.folder(),
            kind: args.kind.to_string(),
            tensors: export.formats().into_iter().map(|(format, count)| (format.to_string(), count)).collect(),
            kept: export.kept().map(kept("sensitive")).chain(export.misfits().map(kept("rows"))).collect(),
            left_out: export.left_out(),
            tokenizer: export.has_tokenizer(),
        }
    }

    /// Says it in words.
    fn tell(&self) {
        for (reason, why) in [("sensitive", "sensitive to rounding"), ("rows", "rows that are not whole blocks")] {
            let kept: Vec<_> = self.kept.iter().filter(|kept| kept.reason == reason).collect();
            let named = kept.iter().map(|kept| format!("{} ({})", kept.tensor, kept.kind));
            note_tensors(&format!("not in {}, {why}", self.kind), named);
        }
        note_tensors("left out, unused", self.left_out.iter().cloned());
        if self.part == Part::TextEncoder.folder() && !self.tokenizer {
            super::note(
                "warning: no tokenizer is with the text encoder, so the file has none: drawing takes --tokenizer",
            );
        }
        let file = if self.file == "-" { "to standard output" } else { &self.file };
        let formats = self.tensors.iter().map(|(format, count)| format!("{count} {format}"));
        let formats = formats.collect::<Vec<_>>().join(", ");
        super::note(&format!("wrote {file} ({}; tensors: {formats})", DecimalBytes(self.bytes)));
    }
}

/// Prints the number of tensors and the names of the first ones.
fn note_tensors(what: &str, mut names: impl ExactSizeIterator<Item = String>) {
    const NAMED: usize = 3;
    let count = names.len();
    let first: Vec<String> = names.by_ref().take(NAMED).collect();
    if count > 0 {
        let more = if count > NAMED { ", …" } else { "" };
        let tensors = if count == 1 { "tensor" } else { "tensors" };
        super::note(&format!("{count} {tensors} {what}: {}{more}", first.join(", ")));
    }
}
