//! The three networks, written against the backend trait. Every size comes from the model's config
//! files.

pub(crate) mod block;
pub mod config;
mod load;
mod rope;
mod stacked;
mod streaming;
pub mod text_encoder;
pub mod transformer;
pub mod vae;

use crate::error::Result;
use crate::future::expect_ready;
use crate::weights::{
    BoundLora, Lora, LoraStack, ModelFolder, Part, Report, Sources, Targets, Tensors, Unused, WeightFormat,
};
use config::ModelConfig;
use std::path::Path;
use std::sync::Arc;
pub use streaming::{BlockBytes, NetworkBytes, Streaming, device_bytes};

/// A model's files, with config files read and checked but without weights: enough to check a
/// request.
#[derive(Debug, Clone)]
pub struct Model {
    folder: ModelFolder,
    config: ModelConfig,
    loras: Vec<AddedLora>,
}

/// A LoRA that was added to a model.
#[derive(Debug, Clone, PartialEq)]
pub struct AddedLora {
    /// The file's name without its extension.
    pub name: String,
    /// The factor of its change.
    pub strength: f32,
    /// The SHA-256 of the file, in hexadecimal digits.
    pub sha256: String,
}

impl Model {
    /// The model at `path`: a diffusers folder, or a file with a transformer, whose other parts lie
    /// next to it.
    ///
    /// # Errors
    /// Errors of [`Model::from_sources`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_sources(&Sources::of(path))
    }

    /// The model whose parts come from these places.
    ///
    /// # Errors
    /// Errors of [`ModelFolder::from_sources`] and [`ModelConfig::read`].
    pub fn from_sources(sources: &Sources) -> Result<Self> {
        expect_ready(Self::new(ModelFolder::from_sources(sources)?))?.with_shift(sources.shift)
    }

    /// The embedded default.
    ///
    /// # Errors
    /// Errors of [`ModelFolder::embedded`] and [`ModelConfig::read`].
    pub fn embedded() -> Result<Self> {
        expect_ready(Self::new(ModelFolder::embedded()?))
    }

    /// This model with another shift of its schedule, in place of a dynamic one too; `None` keeps
    /// its own. Its other defaults stay.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) for a shift that is not positive or out of range.
    pub fn with_shift(mut self, shift: Option<f64>) -> Result<Self> {
        if let Some(shift) = shift {
            self.config.scheduler.set_shift(shift)?;
        }
        Ok(self)
    }

    /// This model with the matrices of its attention and feed-forward layers in another storage on
    /// the device.
    pub fn with_weights(mut self, weights: WeightFormat) -> Self {
        self.folder = self.folder.with_weights(weights);
        self
    }

    /// The networks of [`Model::with_fp8`].
    pub fn fp8(&self) -> &'static [Part] {
        self.folder.fp8()
    }

    /// The storage of [`Model::with_weights`].
    pub fn weights(&self) -> WeightFormat {
        self.folder.weights()
    }

    /// This model with the matrices of the attention and feed-forward layers of these networks as
    /// operands of FP8 gemms, which the backend has to have
    /// ([`Runtime::computes_fp8`](crate::backend::Runtime::computes_fp8)). They are stored in E4M3,
    /// and [`Model::with_weights`] is for the other network. Embedders, modulations, the final
    /// layer, the autoencoder, and matrices whose sizes an FP8 gemm does not have keep their
    /// storage and the backend's own operands.
    pub fn with_fp8(mut self, networks: &'static [Part]) -> Self {
        self.folder = self.folder.with_fp8(networks);
        self
    }

    /// This model with queries, keys and values of the transformer in FP8 where heads are 128 wide:
    /// the operands of attention's products, as its probabilities. The backend has to compute in
    /// FP8.
    pub fn with_fp8_attention(mut self, is_fp8: bool) -> Self {
        self.folder = self.folder.with_fp8_attention(is_fp8);
        self
    }

    /// True after [`Model::with_fp8_attention`].
    pub fn has_fp8_attention(&self) -> bool {
        self.folder.has_fp8_attention()
    }

    /// The model in `folder`, local or remote.
    ///
    /// # Errors
    /// Errors of [`ModelConfig::read`].
    pub async fn new(folder: ModelFolder) -> Result<Self> {
        let config = ModelConfig::read(&folder).await?;
        Ok(Self { folder, config, loras: Vec::new() })
    }

    /// This model with LoRA files added to its weights, each with its strength, in this order. A
    /// report for each says how much of it the model took.
    ///
    /// # Errors
    /// Errors of [`Lora::bind`]; those of the model's files.
    pub async fn with_loras(&self, loras: &[(Lora, f32)], unused: Unused) -> Result<(Self, Vec<Report>)> {
        let transformer = Tensors::of(&self.folder, Part::Transformer).await?;
        let text_encoder = Tensors::of(&self.folder, Part::TextEncoder).await?;
        let targets = Targets::of(&transformer, &text_encoder);
        let bound: Vec<BoundLora> =
            loras.iter().map(|(lora, strength)| lora.bind(&targets, *strength, unused)).collect::<Result<_>>()?;
        loras.iter().try_for_each(|(lora, _)| lora.check_unchanged())?;
        let reports = bound.iter().map(|lora| lora.report().clone()).collect();
        let added = bound.iter().map(|lora| AddedLora {
            name: lora.name().to_owned(),
            strength: lora.strength(),
            sha256: lora.sha256().to_owned(),
        });
        let loras = added.collect();
        let folder = self.folder.with_transform(self.name(), Arc::new(LoraStack::new(bound)));
        Ok((Self { folder, config: self.config.clone(), loras }, reports))
    }

    /// The LoRA files in its weights.
    pub fn loras(&self) -> &[AddedLora] {
        &self.loras
    }

    /// The model's name, for display.
    pub fn name(&self) -> &str {
        self.folder.name()
    }

    /// The folder of its files.
    pub fn folder(&self) -> &ModelFolder {
        &self.folder
    }

    /// The content of its config files.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }
}
