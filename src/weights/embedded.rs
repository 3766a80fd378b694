//! The embedded default: `models/emoji`, compiled into the binary.

use super::ModelFolder;
use crate::error::{Error, Result};

impl ModelFolder {
    /// The embedded default model.
    ///
    /// # Errors
    /// [`Error::NoEmbeddedModel`] if this crate was built without the feature `embedded-model`.
    pub fn embedded() -> Result<Self> {
        if FILES.is_empty() {
            return Err(Error::NoEmbeddedModel);
        }
        Ok(Self::in_memory("emoji", FILES))
    }
}

#[cfg(not(feature = "embedded-model"))]
const FILES: &[(&str, &[u8])] = &[];

/// Lists files of `models/emoji` with their bytes.
#[cfg(feature = "embedded-model")]
macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/emoji/", $path)))),*]
    };
}

#[cfg(feature = "embedded-model")]
const FILES: &[(&str, &[u8])] = files![
    "model_index.json",
    "zimage.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
];
