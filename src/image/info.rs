//! Generation data of a picture.

use serde::{Deserialize, Serialize};

/// Generation data: with the same model, it reproduces the picture.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// The prompt.
    pub prompt: String,
    /// The negative prompt; empty if there was none.
    pub negative: String,
    /// Denoising steps.
    pub steps: usize,
    /// Guidance as diffusers' `guidance_scale`: 0 is off. The CFG scale of other tools is one more.
    pub guidance: f32,
    /// The cap on the guided prediction's norm, as a multiple of the unguided one; 0 is off.
    pub cfg_normalization: f32,
    /// Guidance ends when `1 − σ` exceeds this.
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
    /// The `parameters` text of AUTOMATIC1111's web UI, which most tools read: the prompt, the
    /// negative prompt if there is one, and a line of settings. `CFG scale` is [`Info::guidance`] +
    /// 1, as those tools define it.
    pub fn parameters(&self) -> String {
        let mut text = format!("{}\n", self.prompt);
        if !self.negative.is_empty() {
            text += &format!("Negative prompt: {}\n", self.negative);
        }
        // Readers split the line at commas, and accept a JSON string for a value that contains one.
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
