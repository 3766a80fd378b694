//! `zimage inspect`: the values that made a PNG, the content of a model's folder or of any file
//! with weights, or the devices of this machine.

mod amounts;
mod device;
mod file;
mod model;
mod shape;

use serde::Serialize;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use zimage::weights::hub::{Hub, HubName};
use zimage::weights::is_part_folder;
use zimage::{Error, Foreign, HubCause, Info, LoraInfo, PngText, Result};

/// Show the values that made a picture, the content of a model or of one of its files, or the
/// devices of this machine
///
/// Of a picture: the generation data in its PNG. Of a safetensors or GGUF file: the model that it
/// is of or for (a part of Z-Image, a LoRA, a ControlNet, another model by name), its sizes and
/// element types, and what drawing with it needs. Of a model's folder: its parts with their sizes,
/// element types, parameter counts and shapes, its schedule and its defaults. A name on the hub is
/// looked up in the cache, and nothing is downloaded. Of this machine: each backend with its device
/// and shaders.
#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Args {
    /// A PNG, a file with weights, the folder of a model or of one of its parts, or a name on the
    /// hub that is in the cache [default: the small model inside this program]
    #[arg(value_name = "FILE|FOLDER|NAME")]
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
    let Some(path) = &args.path else { return model::run(None, args.json) };
    if is_picture(path) {
        return inspect_png(path, args.json);
    }
    let path = &located(path)?;
    if has_extension(path, "json") {
        let problem =
            "one file of a model; name the folder of the whole model, the one with model_index.json".to_owned();
        return Err(Error::File { path: path.clone(), problem });
    }
    // The folder of a pipeline may also have weights, those of all parts in one file.
    match path.is_dir() && (path.join("model_index.json").exists() || !is_part_folder(path)) {
        true => model::run(Some(path), args.json),
        false => file::run(path, args.json),
    }
}

/// The path that the argument means: itself, or that of a name on the hub in the cache.
fn located(path: &Path) -> Result<PathBuf> {
    match path.to_str().map(HubName::unless_path).transpose()?.flatten() {
        Some(name) => Hub::from_env()?.resolve_cached(&name).map_err(|error| match error {
            Error::Hub { name, cause: cause @ HubCause::Offline, problem } => {
                let advice = format!("inspect downloads nothing, and zimage pull {name} fetches it");
                Error::Hub { name, cause, problem: format!("{problem}; {advice}") }
            }
            error => error,
        }),
        None => Ok(path.to_owned()),
    }
}

/// True for a PNG by its name or by its first bytes.
fn is_picture(path: &Path) -> bool {
    const SIGNATURE: &[u8; 8] = b"\x89PNG\r\n\x1a\n";
    // A named pipe would wait for its writer.
    let start = || {
        let mut start = [0; SIGNATURE.len()];
        File::open(path).and_then(|mut file| file.read_exact(&mut start)).ok().map(|()| start)
    };
    has_extension(path, "png") || path.is_file() && start().as_ref() == Some(SIGNATURE)
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case(extension))
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
