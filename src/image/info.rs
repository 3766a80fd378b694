//! The values that made a picture.

use serde::{Deserialize, Serialize};

/// The values that made a picture: with the same model, they make it again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// The prompt.
    pub prompt: String,
    /// The negative prompt; empty when there was none.
    pub negative: String,
    /// Denoising steps.
    pub steps: usize,
    /// diffusers' `guidance_scale`: 0 is off; what other tools call the CFG scale is one more.
    pub guidance: f32,
    /// The cap on the guided prediction's norm, as a multiple of the unguided one; 0 is off.
    pub cfg_normalization: f32,
    /// Guidance ends once `1 − σ` is past this.
    pub cfg_truncation: f64,
    /// The seed of this picture's noise.
    pub seed: u64,
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// The model's display name.
    pub model: String,
    /// The version of this crate.
    pub version: String,
}

impl Info {
    /// The `parameters` text that AUTOMATIC1111's web UI introduced and most tools read: the
    /// prompt, the negative prompt if there is one, and a line of settings. `CFG scale` is
    /// [`Info::guidance`] + 1, as those tools mean it.
    pub fn parameters(&self) -> String {
        let mut text = format!("{}\n", self.prompt);
        if !self.negative.is_empty() {
            text += &format!("Negative prompt: {}\n", self.negative);
        }
        // The line is split at commas by its readers, which take a JSON string for a value that
        // holds one.
        let model = match self.model.contains([',', ':', '"', '\n']) {
            true => serde_json::Value::from(self.model.as_str()).to_string(),
            false => self.model.clone(),
        };
        text += &format!(
            "Steps: {}, Sampler: Euler, CFG scale: {}, Seed: {}, Size: {}x{}, Model: {model}, Version: zimage {}",
            self.steps,
            self.guidance + 1.0,
            self.seed,
            self.width,
            self.height,
            self.version,
        );
        text
    }
}
