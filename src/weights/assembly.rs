//! A model that is put together from the parts of single files, wherever these are read from.
//! [`Sources`](super::Sources) finds the files on disk; [`ModelFolder::from_files`] is given them.

use super::folder::ModelFolder;
use super::names::Part;
use super::single::SingleFile;
use crate::error::Result;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The scheduler's file in a diffusers folder.
pub(super) const SCHEDULER: &str = "scheduler/scheduler_config.json";
/// The class of the scheduler.
pub(super) const SCHEDULER_CLASS: &str = "FlowMatchEulerDiscreteScheduler";
/// The shift of a model without a scheduler's file: that of Z-Image-Turbo.
const SHIFT: f64 = 3.0;

impl ModelFolder {
    /// Reads a part from a single file. `config` is the `config.json` that belongs to the file, if
    /// it has one; the rest of the configuration comes from the file.
    ///
    /// # Errors
    /// Errors of [`SingleFile::spelling`] and [`SingleFile::config`].
    pub(super) fn add_part(
        &mut self,
        part: Part,
        file: &Arc<SingleFile>,
        config: Option<Map<String, Value>>,
    ) -> Result<()> {
        let spelling = file.spelling(part)?;
        let config = file.config(&spelling, config)?.to_string();
        self.mount_file(part.folder(), file.clone(), spelling, config.into());
        Ok(())
    }

    /// Reads the tokenizer from the GGUF file of the text encoder. Returns false if the text
    /// encoder's file has none.
    pub(super) fn add_tokenizer_of_text_encoder(&mut self) -> bool {
        let file = self.single_file(Part::TextEncoder.folder()).map(|(file, _)| file.clone());
        match file.filter(|file| file.has_tokenizer()) {
            Some(file) => self.mount_tokenizer_file(file),
            None => return false,
        }
        true
    }

    /// Adds a scheduler's file to a model without one, with `shift` or that of Z-Image-Turbo.
    pub(super) async fn add_scheduler(&mut self, shift: Option<f64>) -> Result<()> {
        if !self.exists(SCHEDULER).await? {
            let config = json!({"_class_name": SCHEDULER_CLASS, "shift": shift.unwrap_or(SHIFT)});
            self.replace(SCHEDULER, Bytes::from(config.to_string()));
        }
        Ok(())
    }
}

/// The class of a `config.json` or `scheduler_config.json`.
pub(super) fn class(config: &Value) -> Option<&str> {
    let architecture = || config.get("architectures").and_then(|classes| classes.get(0));
    config.get("_class_name").or_else(architecture).and_then(Value::as_str)
}

/// The class of a part's `config.json`.
pub(super) fn class_of(part: Part) -> &'static str {
    match part {
        Part::Transformer => "ZImageTransformer2DModel",
        Part::TextEncoder => "Qwen3ForCausalLM",
        Part::Vae => "AutoencoderKL",
    }
}
