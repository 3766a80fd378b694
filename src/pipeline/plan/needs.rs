//! The bytes that a model and a request need on a backend.

use super::activations::{Sizes, Widths};
use super::{Limits, Needs, Offload, activations};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::model::config::ModelConfig;
use crate::model::text_encoder::TextEncoder;
use crate::model::transformer::{Transformer, padded};
use crate::model::vae::Vae;
use crate::model::vae::tiling::VaeTile;
use crate::model::{NetworkBytes, device_bytes};
use crate::pipeline::prompt::MAX_TOKENS;
use crate::pipeline::request::Job;
use crate::reserve;
use crate::tensor::DType;
use crate::weights::Tensors;

/// The requests that a model is loaded for. Others run too, but their memory is not planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Width and height in pixels.
    pub size: [usize; 2],
    /// Pictures drawn at once.
    pub batch: usize,
    /// True if a step computes a guided prediction.
    pub is_guided: bool,
    /// Distinct prompts that are encoded at once.
    pub prompts: usize,
    /// The most tokens of a prompt.
    pub tokens: usize,
    /// The wish for the decoder's tiles.
    pub vae_tile: VaeTile,
}

impl Expected {
    /// The requests that leave everything to the model, one picture at once.
    pub fn default_of(config: &ModelConfig) -> Self {
        let is_guided = config.defaults.guidance > 0.0;
        Self {
            size: [config.defaults.width, config.defaults.height],
            batch: 1,
            is_guided,
            prompts: 1 + usize::from(is_guided),
            tokens: MAX_TOKENS,
            vae_tile: VaeTile::Auto,
        }
    }

    /// The requests like this one.
    pub fn of(job: &Job) -> Self {
        let is_guided = job.guidance.scale > 0.0;
        let batch = job.batch.min(job.images());
        let prompts = batch.div_ceil(job.count);
        Self {
            size: [job.width, job.height],
            batch,
            is_guided,
            prompts: prompts * (1 + usize::from(is_guided)),
            tokens: MAX_TOKENS,
            vae_tile: job.vae_tile,
        }
    }
}

/// The residency that the user wants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Residency {
    /// The mode.
    pub offload: Offload,
    /// The requests to plan for; `None` for those that leave everything to the model.
    pub expected: Option<Expected>,
    /// The most bytes of device memory to allocate; `None` for all that is free.
    pub max_memory: Option<u64>,
    /// The most bytes of host memory for streamed weights; `None` for all that is free, less a
    /// margin for the system.
    pub max_host_memory: Option<u64>,
}

impl From<Offload> for Residency {
    fn from(offload: Offload) -> Self {
        Self { offload, ..Self::default() }
    }
}

impl Residency {
    /// The limits of a plan on a backend, whose memory is limited from now on.
    ///
    /// # Errors
    /// [`Error::Request`] for a limit on a backend that uses host memory.
    pub(in crate::pipeline) fn limits<B: Backend>(&self, b: &B) -> Result<Limits> {
        if let Some(bytes) = self.max_memory
            && !b.limit_memory(bytes)
        {
            let name = b.name();
            return Err(Error::Request(format!(
                "the {name} backend computes in the host's memory, which has no limit to set"
            )));
        }
        let (offload, is_limited) = (self.offload, self.max_memory.is_some());
        let host = [reserve::available(), self.max_host_memory].into_iter().flatten().min();
        Ok(Limits { device: b.free_memory(), host, offload, is_limited })
    }
}

impl Needs {
    /// The needs of the networks with these tensors.
    pub(in crate::pipeline) fn of<B: Backend>(
        b: &B,
        config: &ModelConfig,
        [text_encoder, transformer, vae]: [&Tensors; 3],
        expected: &Expected,
    ) -> Self {
        let attention_in = transformer.attention_in();
        let text_encoder = TextEncoder::bytes(b, text_encoder, &config.text_encoder);
        let transformer = Transformer::bytes(b, transformer, &config.transformer);
        let sizes = Sizes::new(b);
        let tokens = padded(expected.tokens);
        let items = expected.batch * (1 + usize::from(expected.is_guided));
        let [width, height] = expected.size;
        let rows = [height, width];
        let factor = config.size_multiple();
        let image = padded((width / factor) * (height / factor));
        let overheads = b.overheads();
        let tiles = Vae::<B>::tiles(b, &config.vae, expected.vae_tile, rows);
        let decoder = |tile| (tile, activations::decoding(&config.vae, rows, tile, sizes, &overheads));
        let widest = [
            expected.prompts * tokens * Widths::of_text_encoder(&config.text_encoder).largest(),
            items * (image + tokens) * Widths::of_transformer(&config.transformer, attention_in).largest(),
            tiles.last().map_or(0, |&tile| config.vae.largest_decoded(tile.map_or(rows, |tile| [tile.pixels; 2]))),
        ];
        let scratch =
            |network: &NetworkBytes| (network.quantized() * overheads.dequantized).min(overheads.most_dequantized);
        let buffer = |network: &NetworkBytes| {
            overheads.streamed.map(|largest| (largest * network.largest()).min(overheads.most_streamed))
        };
        Self {
            vae: vae_bytes(b, vae, config),
            text: activations::encoding_text(
                &config.text_encoder,
                expected.prompts * tokens,
                sizes,
                scratch(&text_encoder),
            ),
            captions: activations::step(
                &config.transformer,
                attention_in,
                [expected.prompts, tokens],
                sizes,
                scratch(&transformer),
            ),
            step: activations::step(
                &config.transformer,
                attention_in,
                [items, image + tokens],
                sizes,
                scratch(&transformer),
            ),
            decoder: tiles.into_iter().map(decoder).collect(),
            stream_buffers: buffer(&text_encoder).zip(buffer(&transformer)).map(Into::into),
            small: overheads.small,
            largest_activation: (widest.into_iter().max().unwrap_or(0) * b.activations().size()) as u64,
            text_encoder,
            transformer,
        }
    }
}

/// The bytes of the autoencoder's tensors on a device.
fn vae_bytes<B: Backend>(b: &B, tensors: &Tensors, config: &ModelConfig) -> u64 {
    if tensors.is_empty() {
        // Random tensors are BF16.
        return (config.vae.parameters() * b.weights(DType::Bf16).size()) as u64;
    }
    tensors.names().map(|(name, shape)| device_bytes(b, tensors, name, shape)).sum()
}
