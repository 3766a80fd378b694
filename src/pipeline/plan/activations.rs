//! The most bytes of activations that live at once, by the order of the ops in `model`.

use crate::backend::{Backend, Overheads};
use crate::model::config::{TextEncoderConfig, TransformerConfig, VaeConfig};
use crate::model::vae::tiling::{Home, Tile};
use crate::tensor::{Compute, FP8_BLOCK};

/// Bytes of an element.
#[derive(Debug, Clone, Copy)]
pub(in crate::pipeline) struct Sizes {
    /// Of an activation.
    activation: usize,
    /// Of the copy that a gemm makes of its activations: see [`Overheads::operand`].
    operand: usize,
}

impl Sizes {
    pub(in crate::pipeline) fn new<B: Backend>(b: &B) -> Self {
        Self { activation: b.activations().size(), operand: b.overheads().operand as usize }
    }

    /// Bytes of so many elements of activations, and of the copies of others.
    fn of(self, elements: usize, copied: usize) -> usize {
        elements * self.activation + copied * self.operand
    }
}

/// The sizes of a token in a block, in elements.
pub(super) struct Widths {
    residual: usize,
    qkv: usize,
    attention: usize,
    hidden: usize,
    /// Queries, keys and values in FP8, in bytes. A backend may write them beside those in its own
    /// type.
    fp8_qkv: usize,
}

impl Widths {
    /// `attention_in`: the type of queries, keys and values.
    pub(super) fn of_transformer(config: &TransformerConfig, attention_in: Compute) -> Self {
        let dim = config.dim;
        let is_fp8 = attention_in == Compute::Fp8 && config.head_dim() == FP8_BLOCK;
        let fp8_qkv = if is_fp8 { 3 * dim } else { 0 };
        Self { residual: dim, qkv: 3 * dim, attention: dim, hidden: config.ffn_dim(), fp8_qkv }
    }

    pub(super) fn of_text_encoder(config: &TextEncoderConfig) -> Self {
        let heads = config.num_attention_heads * config.head_dim;
        Self {
            residual: config.hidden_size,
            qkv: heads + 2 * config.num_key_value_heads * config.head_dim,
            attention: heads,
            hidden: config.intermediate_size,
            fp8_qkv: 0,
        }
    }

    /// The elements of a token in the largest activation.
    pub(super) fn largest(&self) -> usize {
        let Self { residual, qkv, attention, hidden, .. } = self;
        *residual.max(qkv).max(attention).max(hidden)
    }

    /// The most bytes of a token that live at once: the residual stream and its norm with queries,
    /// keys, values and the attention's result, or with the feed-forward's hidden values and its
    /// result.
    fn at_once(&self, sizes: Sizes) -> usize {
        let Self { residual, qkv, attention, hidden, fp8_qkv } = *self;
        let queries = sizes.of(qkv + attention, residual).max(sizes.of(qkv, residual) + fp8_qkv);
        sizes.of(2 * residual, 0) + queries.max(sizes.of(hidden + residual, hidden))
    }
}

/// Activations of a denoising step for items of so many tokens each. `scratch`: bytes of the
/// largest matrix that is dequantised before its gemm; `attention_in`: the type of queries, keys
/// and values.
pub(super) fn step(
    config: &TransformerConfig,
    attention_in: Compute,
    [items, tokens]: [usize; 2],
    sizes: Sizes,
    scratch: u64,
) -> u64 {
    let modulation = 4 * config.dim * (config.n_layers + config.n_refiner_layers);
    let blocks = items * tokens * Widths::of_transformer(config, attention_in).at_once(sizes);
    (blocks + sizes.of(modulation, 0)) as u64 + scratch
}

/// Activations of the text encoder for prompts of so many tokens in all, as in [`step`].
pub(super) fn encoding_text(config: &TextEncoderConfig, tokens: usize, sizes: Sizes, scratch: u64) -> u64 {
    (tokens * Widths::of_text_encoder(config).at_once(sizes)) as u64 + scratch
}

/// Activations of the decoder for a picture of `[height, width]` pixels, whole or in tiles. A whole
/// picture takes the memory of the largest level, or of all with [`Overheads::pools_buffers`].
pub(in crate::pipeline) fn decoding(
    config: &VaeConfig,
    picture: [usize; 2],
    tile: Option<Tile>,
    sizes: Sizes,
    overheads: &Overheads,
) -> u64 {
    let Some(Tile { pixels, home }) = tile else {
        return whole(config, picture, sizes, overheads.pools_buffers) as u64;
    };
    let largest = config.largest_decoded([pixels; 2]);
    // A band's input, its norm, the output, and the rows of it that are kept.
    let band = sizes.of(4 * largest, largest);
    let waiting = match home {
        Home::Device => sizes.of(waiting(config, picture), 0),
        Home::Host => 0,
    };
    (waiting + band).max(middle(config, picture, sizes)) as u64
}

/// The widths of the decoder's levels, and the pixels of each.
fn levels(config: &VaeConfig, [height, width]: [usize; 2]) -> Vec<(usize, usize)> {
    let widths = config.block_out_channels.iter().rev().copied();
    let shift = config.block_out_channels.len() - 1;
    widths
        .enumerate()
        .map(|(level, width_of)| (width_of, (height >> (shift - level)) * (width >> (shift - level))))
        .collect()
}

/// Bytes of the attention in the middle: its input, norm, queries, keys, values, and the result.
fn middle(config: &VaeConfig, picture: [usize; 2], sizes: Sizes) -> usize {
    let (width, pixels) = levels(config, picture)[0];
    if config.mid_block_add_attention { pixels * sizes.of(6 * width, width) } else { 0 }
}

/// Bytes of a picture that is decoded whole: those of the largest level, or of `all`.
fn whole(config: &VaeConfig, picture: [usize; 2], sizes: Sizes, all: bool) -> usize {
    let levels = levels(config, picture);
    let (mut most, mut sum) = (0, 0);
    let mut input = levels[0].0;
    for (level, &(out, pixels)) in levels.iter().enumerate() {
        // A resnet's input, its norm and the first convolution; then input, norm, shortcut and
        // result.
        let shortcut = if input == out { 0 } else { out };
        let resnet = sizes.of(2 * input + out, input).max(sizes.of(input + 2 * out + shortcut, out));
        let attention = if level == 0 { middle(config, picture, sizes) } else { 0 };
        let live = attention.max(pixels * resnet);
        sum += live;
        most = most.max(live);
        if let Some(&(_, upsampled)) = levels.get(level + 1) {
            most = most.max(sizes.of((pixels + upsampled) * out, pixels * out));
        }
        input = out;
    }
    if all { sum } else { most }
}

/// Elements of the activations that wait between two convolutions of tiles: a resnet's input, or
/// its shortcut and its hidden activation, or the output of an upsampling. Rows are freed as the
/// next convolution proceeds.
fn waiting(config: &VaeConfig, picture: [usize; 2]) -> usize {
    let levels = levels(config, picture);
    let mut most = 0;
    let mut input = levels[0].0;
    for (level, &(out, pixels)) in levels.iter().enumerate() {
        most = most.max(pixels * input.max(2 * out));
        if let Some(&(_, upsampled)) = levels.get(level + 1) {
            most = most.max(upsampled * out);
        }
        input = out;
    }
    most
}
