//! The exports of `tools/single_file`: one model in the files that people have, and the diffusers
//! folders with their numbers.

#[path = "folder.rs"]
mod folder;

use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The shard of the diffusers folder whose numbers the exports of the transformer change.
const REST: &str = "transformer/diffusion_pytorch_model-00002-of-00002.safetensors";

/// The folder of the exports.
pub(crate) fn exports() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/single_files")
}

/// The diffusers folder with the numbers of an export of the transformer and of one of the text
/// encoder. `None` keeps the numbers of the model that all exports were made from.
pub(crate) fn expected(transformer: Option<&str>, text_encoder: Option<&str>) -> TempDir {
    let copy = folder::copy_of("single_files/model");
    for (export, file) in [(transformer, REST), (text_encoder, "text_encoder/model.safetensors")] {
        if let Some(export) = export {
            fs::copy(exports().join(format!("{export}.expected.safetensors")), copy.path().join(file)).unwrap();
        }
    }
    copy
}
