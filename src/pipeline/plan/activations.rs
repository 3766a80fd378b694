//! The most bytes of activations that live at once, by the order of the ops in `model`.

use crate::backend::Overheads;
use crate::model::config::{TextEncoderConfig, TransformerConfig, VaeConfig};

/// The sizes of a token in a block, in elements.
struct Widths {
    residual: usize,
    qkv: usize,
    attention: usize,
    hidden: usize,
}

impl Widths {
    /// The most elements of a token that live at once: the residual stream and its norm with
    /// queries, keys, values and the attention's result, or with the feed-forward's hidden values
    /// and its result.
    fn largest(&self) -> usize {
        let Self { residual, qkv, attention, hidden } = self;
        2 * residual + (qkv + attention).max(hidden + residual)
    }
}

/// Activations of a denoising step for items of so many tokens each, at `size` bytes an element.
/// `scratch`: bytes of the largest matrix that is dequantised before its gemm.
pub(super) fn step(config: &TransformerConfig, items: usize, tokens: usize, size: usize, scratch: u64) -> u64 {
    let dim = config.dim;
    let widths = Widths { residual: dim, qkv: 3 * dim, attention: dim, hidden: config.ffn_dim() };
    let modulation = 4 * dim * (config.n_layers + config.n_refiner_layers);
    ((items * tokens * widths.largest() + modulation) * size) as u64 + scratch
}

/// Activations of the text encoder for prompts of so many tokens in all, as in [`step`].
pub(super) fn encoding_text(config: &TextEncoderConfig, tokens: usize, size: usize, scratch: u64) -> u64 {
    let heads = config.num_attention_heads * config.head_dim;
    let widths = Widths {
        residual: config.hidden_size,
        qkv: heads + 2 * config.num_key_value_heads * config.head_dim,
        attention: heads,
        hidden: config.intermediate_size,
    };
    (tokens * widths.largest() * size) as u64 + scratch
}

/// Activations of the decoder for a picture of `[height, width]` pixels at `size` bytes an element:
/// of its largest level, or of all with [`Overheads::pools_buffers`].
pub(super) fn decoding(config: &VaeConfig, [height, width]: [usize; 2], size: usize, overheads: &Overheads) -> u64 {
    let widths: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
    let pixels = |level: usize| {
        let shift = widths.len() - 1 - level;
        (height >> shift) * (width >> shift)
    };
    let mut most = 0;
    let mut all = 0;
    // The attention in the middle: its input, norm, queries, keys, values, and the result.
    let mut attention = if config.mid_block_add_attention { 6 * widths[0] } else { 0 };
    let mut input = widths[0];
    for (level, &out) in widths.iter().enumerate() {
        // A resnet's input, its norm and the first convolution; then input, norm, shortcut and
        // result.
        let shortcut = if input == out { 0 } else { out };
        let resnet = (2 * input + out).max(input + 2 * out + shortcut);
        let live = pixels(level) * resnet.max(attention);
        attention = 0;
        most = most.max(live);
        all += live;
        if level + 1 < widths.len() {
            most = most.max(pixels(level) * out + pixels(level + 1) * out);
        }
        input = out;
    }
    (if overheads.pools_buffers { all } else { most } * size) as u64
}

/// Elements of the largest activation of a decoder whose activations together take `room` bytes.
pub(in crate::pipeline) fn largest_activation(
    config: &VaeConfig,
    picture: [usize; 2],
    size: usize,
    overheads: &Overheads,
    room: u64,
) -> usize {
    let all = decoding(config, picture, size, overheads);
    let largest = config.largest_decoded(picture) as u64;
    usize::try_from(u128::from(room) * u128::from(largest) / u128::from(all.max(1))).unwrap_or(usize::MAX)
}
