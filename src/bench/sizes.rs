//! Sizes derived from a model's configuration, the picture and the caption, and the floating-point
//! operations of the stages. Only gemms count, with two operations per multiply-add.

use crate::backend::{Conv2d, Heads};
use crate::catalogue::{Conv2dCase, GroupNormCase, OpCase, attention_flop, gemm_flop};
use crate::model::config::{ModelConfig, VaeConfig};
use crate::model::transformer::padded;
use crate::tensor::DType;

/// √3: uniform numbers of this scale have a standard deviation of 1, like normed activations.
pub(super) const UNIT: f32 = 1.732_050_8;

/// A model's sizes for one picture.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes<'a> {
    pub config: &'a ModelConfig,
    /// Height and width of the picture in pixels.
    pub picture: [usize; 2],
    /// Tokens of the caption without its padding.
    pub caption: usize,
}

/// The sizes of a block of either transformer.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockSizes {
    pub tokens: usize,
    pub width: usize,
    pub hidden: usize,
    pub heads: Heads,
    pub causal: bool,
}

/// The convolutions and group norms of a decoder, in order.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    pub convs: Vec<Conv2dCase>,
    pub norms: Vec<GroupNormCase>,
}

impl Sizes<'_> {
    /// Height and width of the latents.
    pub(super) fn latents(&self) -> [usize; 2] {
        self.picture.map(|side| side / self.config.vae.scale_factor())
    }

    /// Tokens of the picture, with their padding.
    pub(super) fn image_tokens(&self) -> usize {
        padded(self.latents().map(|side| side / self.config.transformer.patch_size).iter().product())
    }

    /// Tokens of the caption, with their padding.
    pub(super) fn caption_tokens(&self) -> usize {
        padded(self.caption)
    }

    /// A main layer of the image transformer, for one picture.
    pub(super) fn layer(&self) -> BlockSizes {
        let config = &self.config.transformer;
        BlockSizes {
            tokens: self.image_tokens() + self.caption_tokens(),
            width: config.dim,
            hidden: config.ffn_dim(),
            heads: Heads { query: config.n_heads, key_value: config.n_heads, dim: config.head_dim() },
            causal: false,
        }
    }

    /// A block of the text encoder.
    pub(super) fn text_block(&self) -> BlockSizes {
        let config = &self.config.text_encoder;
        BlockSizes {
            tokens: self.caption_tokens(),
            width: config.hidden_size,
            hidden: config.intermediate_size,
            heads: Heads {
                query: config.num_attention_heads,
                key_value: config.num_key_value_heads,
                dim: config.head_dim,
            },
            causal: true,
        }
    }

    /// The operations of the text encoder.
    pub(super) fn text_flop(&self) -> f64 {
        (self.config.text_encoder.num_hidden_layers - 1) as f64 * self.text_block().flop()
    }

    /// The operations of the caption's embedding and refiner.
    pub(super) fn caption_flop(&self) -> f64 {
        let config = &self.config.transformer;
        let tokens = self.caption_tokens();
        let block = BlockSizes { tokens, ..self.layer() };
        gemm_flop(tokens, config.dim, config.cap_feat_dim) + config.n_refiner_layers as f64 * block.flop()
    }

    /// The operations of a denoising step of one picture with `captions` captions of this length.
    pub(super) fn step_flop(&self, captions: usize) -> f64 {
        let config = &self.config.transformer;
        let image = BlockSizes { tokens: self.image_tokens(), ..self.layer() };
        let patches = gemm_flop(self.image_tokens(), config.dim, config.patch_dim());
        let refiner = config.n_refiner_layers as f64 * image.flop();
        patches + refiner + captions as f64 * (config.n_layers as f64 * self.layer().flop() + patches)
    }

    /// The decoder for this picture.
    pub(super) fn decoder(&self) -> Decoder {
        Decoder::new(&self.config.vae, self.latents())
    }

    /// The operations of decoding.
    pub(super) fn decoder_flop(&self) -> f64 {
        let pixels = self.latents().iter().product();
        let c = self.decoder_width();
        let attention = gemm_flop(pixels, 4 * c, c) + attention_flop(pixels, c, false);
        let convs: f64 = self.decoder().convs.iter().filter_map(OpCase::flop).sum();
        convs + if self.config.vae.mid_block_add_attention { attention } else { 0.0 }
    }

    /// The channels in the middle of the decoder.
    pub(super) fn decoder_width(&self) -> usize {
        self.config.vae.block_out_channels.last().copied().unwrap_or(0)
    }
}

impl BlockSizes {
    fn flop(&self) -> f64 {
        let Self { tokens, width, hidden, heads, causal } = *self;
        let out = heads.query * heads.dim;
        gemm_flop(tokens, heads.fused_width() + out + 3 * hidden, width) + attention_flop(tokens, out, causal)
    }
}

impl Decoder {
    fn new(config: &VaeConfig, latents: [usize; 2]) -> Self {
        let mut decoder = Self::default();
        let mut size = latents;
        let widths: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let mut width = widths.first().copied().unwrap_or(0);
        if config.use_post_quant_conv {
            decoder.conv(config.latent_channels, config.latent_channels, 1, size);
        }
        decoder.conv(config.latent_channels, width, 3, size);
        decoder.resnet(config, width, width, size);
        if config.mid_block_add_attention {
            decoder.norms.push(norm(config, width, size, false));
        }
        decoder.resnet(config, width, width, size);
        for (level, &wide) in widths.iter().enumerate() {
            for _ in 0..=config.layers_per_block {
                decoder.resnet(config, width, wide, size);
                width = wide;
            }
            if level + 1 < widths.len() {
                let conv = plain(width, width, 3, size);
                decoder.convs.push(Conv2dCase { geometry: Conv2d { upsample: true, ..conv.geometry }, ..conv });
                size = size.map(|side| 2 * side);
            }
        }
        decoder.norms.push(norm(config, width, size, true));
        decoder.conv(width, 3, 3, size);
        decoder
    }

    fn conv(&mut self, input: usize, output: usize, side: usize, size: [usize; 2]) {
        self.convs.push(plain(input, output, side, size));
    }

    fn resnet(&mut self, config: &VaeConfig, input: usize, output: usize, size: [usize; 2]) {
        self.norms.push(norm(config, input, size, true));
        self.conv(input, output, 3, size);
        self.norms.push(norm(config, output, size, true));
        if input != output {
            self.conv(input, output, 1, size);
        }
        self.convs.push(Conv2dCase { residual: true, ..plain(output, output, 3, size) });
    }
}

/// A size-preserving convolution with a square BF16 kernel.
fn plain(input: usize, output: usize, side: usize, size: [usize; 2]) -> Conv2dCase {
    let geometry = Conv2d { stride: 1, pad: [side / 2; 4], upsample: false };
    Conv2dCase {
        input,
        output,
        kernel: [side, side],
        size,
        geometry,
        dtype: DType::Bf16,
        scale: UNIT,
        ..Conv2dCase::PLAIN
    }
}

fn norm(config: &VaeConfig, channels: usize, size: [usize; 2], silu: bool) -> GroupNormCase {
    let groups = config.norm_num_groups;
    GroupNormCase { channels, size, groups, silu, bias: DType::Bf16, scale: UNIT, ..GroupNormCase::PLAIN }
}

/// Each distinct item of `all`, in order, with its count.
pub(super) fn distinct<T: PartialEq + Copy>(all: &[T]) -> Vec<(T, usize)> {
    let mut found: Vec<(T, usize)> = Vec::new();
    for &item in all {
        match found.iter_mut().find(|(known, _)| *known == item) {
            Some((_, count)) => *count += 1,
            None => found.push((item, 1)),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::Published;
    use super::*;

    /// The expected figures were computed independently of this code.
    #[test]
    fn flop_are_those_of_z_image() {
        let model = Published::Turbo.with_random_weights(None).unwrap();
        let sizes = Sizes { config: model.config(), picture: [1024, 1024], caption: 20 };
        let near = |flop: f64, tera: f64| assert!((flop / 1e12 / tera - 1.0).abs() < 0.02, "{flop:e} is not {tera}e12");
        assert_eq!((sizes.image_tokens(), sizes.layer().tokens), (4096, 4128));
        near(sizes.step_flop(1), 55.1);
        near(sizes.step_flop(2), 2.0 * 55.1 - 2.0 * 1.71);
        near(sizes.text_flop(), 0.226);
        near(sizes.decoder_flop(), 10.5);
    }

    #[test]
    fn the_decoder_doubles_the_size_three_times() {
        let model = Published::Turbo.with_random_weights(None).unwrap();
        let decoder = Sizes { config: model.config(), picture: [512, 256], caption: 20 }.decoder();
        assert_eq!(decoder.convs.first(), Some(&plain(16, 512, 3, [64, 32])));
        assert_eq!(decoder.convs.last(), Some(&plain(128, 3, 3, [512, 256])));
        // Three resnets per level and two in the middle, two shortcuts, three upsamplings, and both
        // ends.
        assert_eq!(decoder.convs.len(), 2 * (4 * 3 + 2) + 2 + 3 + 2);
        assert_eq!(decoder.norms.len(), 2 * (4 * 3 + 2) + 1 + 1);
        let wide = Conv2dCase { residual: true, ..plain(512, 512, 3, [64, 32]) };
        assert!(distinct(&decoder.convs).contains(&(wide, 5)));
    }
}
