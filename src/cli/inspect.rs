//! `zimage inspect`: the values that made a PNG, the content of a model's folder, or the devices of
//! this machine.

mod device;
mod model;

use serde::Serialize;
use std::path::{Path, PathBuf};
use zimage::{Error, Foreign, Info, LoraInfo, PngText, Result};

/// Show the values that made a picture, the parts of a model, or the devices of this machine
///
/// Of a picture: the generation data in its PNG. Of a model: its parts with their sizes, element
/// types, parameter counts and shapes, its schedule and its defaults. Of this machine: each backend
/// with its device and shaders.
#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Args {
    /// A PNG, or a model's folder in the diffusers layout [default: the small model inside this
    /// program]
    #[arg(value_name = "FILE.png|MODEL_DIR")]
    path: Option<PathBuf>,

    /// Every backend in all its variants, with its device or the reason why it has none
    #[arg(long, conflicts_with = "path")]
    device: bool,

    /// Print one JSON document; sizes are in bytes
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    if args.device {
        return device::run(args.json);
    }
    match &args.path {
        Some(path) if path.extension().is_some_and(|end| end == "safetensors" || end == "json") => {
            let problem = "one file of a model; name the folder of the whole model, the one with model_index.json";
            Err(Error::File { path: path.clone(), problem: problem.into() })
        }
        Some(path) if !path.is_dir() => inspect_png(path, args.json),
        folder => model::run(folder.as_deref(), args.json),
    }
}

/// The document of `--json`.
#[derive(Serialize)]
struct Document<'a> {
    file: String,
    #[serde(flatten)]
    text: &'a PngText,
}

fn inspect_png(path: &Path, json: bool) -> Result<()> {
    let text = PngText::open(path)?;
    if !text.tells() {
        let mut problem = "no text in it tells how it was made".to_owned();
        if !text.keys.is_empty() {
            problem += &format!(" (it has: {})", text.keys.join(", "));
        }
        return Err(Error::File { path: path.to_owned(), problem });
    }
    if json {
        return super::print_json(&Document { file: path.display().to_string(), text: &text });
    }
    // Some programs put JSON where others put text for people.
    let parameters =
        text.parameters.as_ref().filter(|parameters| text.foreign.is_none() || !parameters.starts_with('{'));
    let lines = match (&text.info, parameters, &text.foreign) {
        (Some(info), ..) => describe(info),
        (None, Some(parameters), _) => parameters.clone() + "\n",
        (None, None, Some(foreign)) => describe_foreign(foreign, &text),
        (None, None, None) => String::new(),
    };
    super::print(&lines)
}

/// Another program's data, with its own names of settings.
fn describe_foreign(foreign: &Foreign, text: &PngText) -> String {
    let mut rows = Vec::new();
    if !foreign.program.is_empty() {
        rows.push(("made by", foreign.program.clone()));
    }
    let texts = [("prompt", &foreign.prompt), ("negative", &foreign.negative)];
    rows.extend(texts.into_iter().filter_map(|(name, text)| Some((name, text.clone()?))));
    rows.push(("size", format!("{}×{}", text.width, text.height)));
    rows.extend(foreign.settings.iter().map(|(name, value)| (name.as_str(), value.clone())));
    super::table(&rows)
}

/// Our own data, one line a value, long prompts as they are.
fn describe(info: &Info) -> String {
    let mut rows = vec![("prompt", info.prompt.clone())];
    if !info.negative.is_empty() {
        rows.push(("negative", info.negative.clone()));
    }
    rows.extend([
        ("size", format!("{}×{}", info.width, info.height)),
        ("steps", info.steps.to_string()),
        ("guidance", info.guidance.to_string()),
        ("cfg normalization", info.cfg_normalization.to_string()),
        ("cfg truncation", info.cfg_truncation.to_string()),
        ("seed", info.seed.to_string()),
        ("model", info.model.clone()),
    ]);
    let lora = |lora: &LoraInfo| format!("{}, strength {}, SHA-256 {}", lora.name, lora.strength, lora.sha256);
    rows.extend(info.loras.iter().map(|added| ("lora", lora(added))));
    rows.push(("version", format!("zimage {}", info.version)));
    super::table(&rows)
}
