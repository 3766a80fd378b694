//! The sizes of the three networks.

use super::amounts::{grouped, plural};
use serde::Serialize;
use zimage::model::config::{TextEncoderConfig, TransformerConfig, VaeConfig};

#[derive(Serialize)]
pub(super) struct TransformerShape {
    dim: usize,
    layers: usize,
    refiner_layers: usize,
    heads: usize,
    head_dim: usize,
    feed_forward_dim: usize,
    caption_dim: usize,
    latent_channels: usize,
    patch_size: usize,
}

#[derive(Serialize)]
pub(super) struct TextEncoderShape {
    dim: usize,
    layers: usize,
    heads: usize,
    key_value_heads: usize,
    head_dim: usize,
    feed_forward_dim: usize,
    vocabulary: usize,
}

#[derive(Serialize)]
pub(super) struct VaeShape {
    channels: Vec<usize>,
    layers_per_block: usize,
    latent_channels: usize,
    /// Pixels along each side of a latent pixel.
    scale_factor: usize,
}

impl TransformerShape {
    /// The sizes in a line.
    pub(super) fn describe(&self) -> String {
        format!(
            "{} and {} + {} refiners, width {}, {} heads of {}, feed-forward {}",
            plural(self.layers, "layer"),
            self.refiner_layers,
            self.refiner_layers,
            self.dim,
            self.heads,
            self.head_dim,
            self.feed_forward_dim,
        )
    }
}

impl TextEncoderShape {
    /// The sizes in a line.
    pub(super) fn describe(&self) -> String {
        format!(
            "{}, width {}, {} query and {} key-value heads of {}, feed-forward {}, vocabulary {}",
            plural(self.layers, "layer"),
            self.dim,
            self.heads,
            self.key_value_heads,
            self.head_dim,
            self.feed_forward_dim,
            grouped(self.vocabulary as u64),
        )
    }
}

impl VaeShape {
    /// The sizes in a line.
    pub(super) fn describe(&self) -> String {
        let channels: Vec<_> = self.channels.iter().map(usize::to_string).collect();
        format!(
            "blocks of {} channels, {} each, {} latent channels at 1/{} of the size",
            channels.join(", "),
            plural(self.layers_per_block, "layer"),
            self.latent_channels,
            self.scale_factor,
        )
    }
}

impl From<&TransformerConfig> for TransformerShape {
    fn from(config: &TransformerConfig) -> Self {
        Self {
            dim: config.dim,
            layers: config.n_layers,
            refiner_layers: config.n_refiner_layers,
            heads: config.n_heads,
            head_dim: config.head_dim(),
            feed_forward_dim: config.ffn_dim(),
            caption_dim: config.cap_feat_dim,
            latent_channels: config.in_channels,
            patch_size: config.patch_size,
        }
    }
}

impl From<&TextEncoderConfig> for TextEncoderShape {
    fn from(config: &TextEncoderConfig) -> Self {
        Self {
            dim: config.hidden_size,
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            feed_forward_dim: config.intermediate_size,
            vocabulary: config.vocab_size,
        }
    }
}

impl From<&VaeConfig> for VaeShape {
    fn from(config: &VaeConfig) -> Self {
        Self {
            channels: config.block_out_channels.clone(),
            layers_per_block: config.layers_per_block,
            latent_channels: config.latent_channels,
            scale_factor: config.scale_factor(),
        }
    }
}
