//! `zimage pull`: a model from the hub into the cache, without a picture.

use super::download::with_line;
use serde::Serialize;
use std::path::PathBuf;
use zimage::Result;
use zimage::weights::hub::{Hub, HubName};

/// Download a model from the Hugging Face hub, and print its path
///
/// Only the files that this program reads are fetched: for a pipeline of diffusers its five parts
/// without variants, for a file the file and the config.json next to it. They go to the cache that
/// Python's tools use, ~/.cache/huggingface/hub, and each is checked against its hash. A download
/// that was cancelled goes on where it ended.
///
/// HF_HUB_CACHE or HF_HOME moves the cache, HF_TOKEN is for private and gated models, HF_ENDPOINT
/// names another hub, and HF_HUB_OFFLINE=1 forbids requests.
#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Args {
    /// org/name[@revision][/path], such as Tongyi-MAI/Z-Image-Turbo: a repository, or a file or
    /// folder in it; also its address at huggingface.co
    #[arg(value_name = "NAME")]
    name: String,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The document of `--json`.
#[derive(Serialize)]
struct Document {
    name: String,
    path: String,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let name = HubName::parse(&args.name)?;
    let hub = Hub::from_env()?;
    let path = with_line(|progress| hub.pull(&name, progress))?;
    if args.json {
        return super::print_json(&Document { name: name.to_string(), path: path.display().to_string() });
    }
    super::print(&format!("{}\n", path.display()))
}

/// The path that the value of a flag means: the value itself, or, for a name on the hub, the file
/// or folder in the cache, which is downloaded if the cache lacks it.
///
/// # Errors
/// As [`Hub::resolve`].
pub(super) fn resolve(value: &str) -> Result<PathBuf> {
    match HubName::unless_path(value)? {
        Some(name) => {
            let hub = Hub::from_env()?;
            with_line(|progress| hub.resolve(&name, progress))
        }
        None => Ok(PathBuf::from(value)),
    }
}
