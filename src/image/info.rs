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
    /// The LoRA files in the model's weights, in the order in which they were added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraInfo>,
    /// The version of this crate.
    pub version: String,
}

/// A LoRA file in a model's weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoraInfo {
    /// The file's name without its extension.
    pub name: String,
    /// The factor of its change.
    pub strength: f32,
    /// The SHA-256 of the file, in hexadecimal digits.
    pub sha256: String,
}

impl LoraInfo {
    /// The first digits of the hash, by which other tools name a file (`AutoV2`).
    fn short_hash(&self) -> &str {
        self.sha256.get(..10).unwrap_or(&self.sha256)
    }
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
        let loras: Vec<String> =
            self.loras.iter().map(|lora| format!("{}: {}", lora.name, lora.short_hash())).collect();
        let loras = match loras.is_empty() {
            true => String::new(),
            false => format!(", Lora hashes: {}", serde_json::Value::from(loras.join(", "))),
        };
        text += &format!(
            "Steps: {}, Sampler: Euler, CFG scale: {}, Seed: {}, Size: {}x{}, Model: {model}{loras}, Version: zimage {}",
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
