//! S3-DiT, the image transformer: latents, captions and a time to a prediction of (image − noise).
//!
//! Image tokens go through the noise refiner and caption tokens through the context refiner, which
//! does not depend on the time and so runs once per prompt. Both then go through the main layers as
//! one sequence `[image, caption]`. Each part is padded to a multiple of [`MULTIPLE`] with learned
//! tokens that take part in attention; only the padding between captions of unequal length is
//! masked.

use super::block::{self, Block, Names, Sizes, Stack, Wanted};
use super::config::TransformerConfig;
use super::load::Loader;
use super::rope::AxesTable;
use super::streaming::{NetworkBytes, Streaming, device_bytes};
use crate::backend::{Backend, DeviceTensor, Heads, Modulation, RmsNorm, RopePairs, Runtime};
use crate::error::{Error, Result};
use crate::tensor::{Compute, HostTensor};
use crate::weights::{OnRead, Tensors};
use futures_util::future::{try_join, try_join_all};

/// Image and caption tokens are padded to a multiple of this.
pub const MULTIPLE: usize = 32;
/// The network's name in messages.
const NAME: &str = "transformer";
const NOISE_REFINER: &str = "noise_refiner";
const CONTEXT_REFINER: &str = "context_refiner";
const LAYERS: &str = "layers";
const NAMES: Names = Names {
    q: "attention.to_q",
    k: "attention.to_k",
    v: "attention.to_v",
    out: "attention.to_out.0",
    q_norm: "attention.norm_q",
    k_norm: "attention.norm_k",
    gate: "feed_forward.w1",
    up: "feed_forward.w3",
    down: "feed_forward.w2",
    attention_norm: "attention_norm1",
    ffn_norm: "ffn_norm1",
    post_norms: Some(["attention_norm2", "ffn_norm2"]),
};

/// Number of tokens after padding.
pub fn padded(tokens: usize) -> usize {
    tokens.next_multiple_of(MULTIPLE)
}

/// A point inside the network where a test may read the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbePoint {
    /// The embedded timestep, `[1, A]`.
    Timestep,
    /// Image tokens after the patch embedding.
    EmbedPatches,
    /// Caption tokens after the caption embedding.
    EmbedCaption,
    /// The residual stream after a block of the noise refiner.
    NoiseRefiner(usize),
    /// The residual stream after a block of the context refiner.
    ContextRefiner(usize),
    /// The residual stream after a main layer.
    Layer(usize),
}

/// Receives the value of every [`ProbePoint`] as it is computed.
pub type Probe<'a, B> = &'a mut dyn FnMut(ProbePoint, &<B as Runtime>::Tensor) -> Result<()>;

/// The transformer on a device.
#[derive(Debug)]
pub struct Transformer<B: Backend> {
    config: TransformerConfig,
    time_in: B::Linear,
    time_out: B::Linear,
    patches: B::Linear,
    patch_pad: B::Tensor,
    caption_norm: B::Tensor,
    caption: B::Linear,
    caption_pad: B::Tensor,
    /// The adaLN linears of the noise refiner and the main layers, stacked in this order.
    modulation: B::Linear,
    final_modulation: B::Linear,
    final_linear: B::Linear,
    noise_refiner: Vec<Block<B>>,
    context_refiner: Vec<Block<B>>,
    layers: Vec<Block<B>>,
    /// The type of queries, keys and values.
    attention_in: Compute,
}

/// Captions after the context refiner, reused in every step.
#[derive(Debug)]
pub struct Captions<B: Backend> {
    tokens: B::Tensor,
    /// Padded length of each caption.
    lengths: Vec<usize>,
}

/// Inputs of a run of steps, besides latents and time: the caption of each item, and its token
/// positions.
#[derive(Debug)]
pub struct Sequence<B: Backend> {
    captions: B::Tensor,
    lengths: Option<B::Tensor>,
    image_tokens: usize,
    /// Number of copies of the picture's tokens in the noise refiner.
    copies: usize,
    image_rotation: B::Tensor,
    rotation: B::Tensor,
    /// Height and width of the latents.
    size: [usize; 2],
}

/// The device-side time: `times` F32 `[N, R]`, already multiplied by `t_scale`, read at `step` U32
/// `[1]`.
#[derive(Debug, Clone, Copy)]
pub struct Clock<'a, T> {
    /// One row per step; `R` is 1, or the number of items if each has its own time.
    pub times: &'a T,
    /// The current row.
    pub step: &'a T,
}

impl<B: Backend> Transformer<B> {
    /// Reads and uploads every tensor.
    ///
    /// # Errors
    /// Errors of the files, naming file and tensor, of the backend, and of `on_read`.
    pub async fn load(b: &B, tensors: &Tensors, config: &TransformerConfig, on_read: OnRead<'_>) -> Result<Self> {
        Self::load_streamed(b, tensors, config, Streaming::None, on_read).await
    }

    /// As [`Transformer::load`], with blocks that are streamed.
    ///
    /// # Errors
    /// As there.
    pub async fn load_streamed(
        b: &B,
        tensors: &Tensors,
        config: &TransformerConfig,
        streaming: Streaming,
        on_read: OnRead<'_>,
    ) -> Result<Self> {
        let load = &Loader { b, tensors, on_read, streamed: None };
        let sizes = sizes(config);
        let (refiners, count) = (config.n_refiner_layers, config.n_refiner_layers + config.n_layers);
        let streamed = |first: usize| move |i: usize| streaming.streams(first + i, count);
        let (d, adaln, key) = (config.dim, config.adaln_dim(), config.patch_key());
        let (frequencies, middle) = (TransformerConfig::FREQUENCIES, TransformerConfig::TIMESTEP_HIDDEN);
        let token = async |name: &str| {
            let stored = load.take(name, &[1, d]).await?;
            b.upload(&stored.reshaped(&[d]).unwrap_or(stored))
        };

        let modulated = (0..config.n_refiner_layers).map(|i| format!("{NOISE_REFINER}.{i}"));
        let modulated: Vec<String> = modulated.chain((0..config.n_layers).map(|i| format!("{LAYERS}.{i}"))).collect();
        let of = |block: &String, what: &str| format!("{block}.adaLN_modulation.0.{what}");
        // The blocks apply tanh to these outputs, which would turn an infinite value into a finite
        // one.
        let weight = async |block| load.finite_weight(NAME, &of(block, "weight"), &[4 * d, adaln]).await;
        let bias = async |block| load.finite_weight(NAME, &of(block, "bias"), &[4 * d]).await?.whole().await;
        let weights = try_join_all(modulated.iter().map(weight));
        let (weights, biases) = try_join(weights, try_join_all(modulated.iter().map(bias))).await?;
        let modulation = b.upload_linear(&weights, &biases).await?;
        drop((weights, biases));
        let last = format!("all_final_layer.{key}");
        Ok(Self {
            time_in: load.linear("t_embedder.mlp.0", middle, frequencies).await?,
            time_out: load.linear("t_embedder.mlp.2", adaln, middle).await?,
            patches: load.linear(&format!("all_x_embedder.{key}"), d, config.patch_dim()).await?,
            patch_pad: token("x_pad_token").await?,
            caption_norm: load.vector("cap_embedder.0.weight", config.cap_feat_dim).await?,
            caption: load.linear("cap_embedder.1", d, config.cap_feat_dim).await?,
            caption_pad: token("cap_pad_token").await?,
            modulation,
            final_modulation: load.linear(&format!("{last}.adaLN_modulation.1"), d, adaln).await?,
            final_linear: load.linear(&format!("{last}.linear"), config.patch_dim(), d).await?,
            noise_refiner: Block::load_all(load, NOISE_REFINER, refiners, &NAMES, sizes, streamed(0)).await?,
            context_refiner: Block::load_all(load, CONTEXT_REFINER, refiners, &NAMES, sizes, |_| streaming.source())
                .await?,
            layers: Block::load_all(load, LAYERS, config.n_layers, &NAMES, sizes, streamed(refiners)).await?,
            attention_in: sizes.computes(Wanted::of(tensors)).attention_in,
            config: config.clone(),
        })
    }

    /// The bytes of its tensors on a device, without the vectors.
    pub fn bytes(b: &B, tensors: &Tensors, config: &TransformerConfig) -> NetworkBytes {
        let block = |stack: &str, i| {
            let prefix = format!("{stack}.{i}.");
            NetworkBytes::of_block(b, tensors, &block::matrices(&prefix, &NAMES, sizes(config), tensors))
        };
        let refiners = |stack| (0..config.n_refiner_layers).map(move |i| block(stack, i));
        let (d, adaln) = (config.dim, config.adaln_dim());
        let modulated = config.n_refiner_layers + config.n_layers;
        let (frequencies, middle) = (TransformerConfig::FREQUENCIES, TransformerConfig::TIMESTEP_HIDDEN);
        let linear = |name: &str, n, k| device_bytes(b, tensors, &format!("{name}.weight"), &[n, k]);
        let last = format!("all_final_layer.{}", config.patch_key());
        NetworkBytes {
            blocks: refiners(NOISE_REFINER).chain((0..config.n_layers).map(|i| block(LAYERS, i))).collect(),
            once: refiners(CONTEXT_REFINER).collect(),
            table: 0,
            rest: linear("t_embedder.mlp.0", middle, frequencies)
                + linear("t_embedder.mlp.2", adaln, middle)
                + linear(&format!("all_x_embedder.{}", config.patch_key()), d, config.patch_dim())
                + linear("cap_embedder.1", d, config.cap_feat_dim)
                + modulated as u64 * linear("layers.0.adaLN_modulation.0", 4 * d, adaln)
                + linear(&format!("{last}.adaLN_modulation.1"), d, adaln)
                + linear(&format!("{last}.linear"), config.patch_dim(), d),
        }
    }

    /// Embeds and refines captions, once per prompt. `features` `[P, T, C]` come from the text
    /// encoder, with `T` a multiple of [`MULTIPLE`]. Rows past each of `lengths` are ignored.
    ///
    /// # Errors
    /// Errors of the backend.
    pub fn captions(&self, b: &B, features: &B::Tensor, lengths: &[usize], probe: Probe<'_, B>) -> Result<Captions<B>> {
        let tokens = features.shape().get(1).copied().unwrap_or(0);
        let upload = |lengths: &[usize]| upload_u32(b, lengths.iter().copied());
        let norm =
            RmsNorm { weight: &self.caption_norm, scale: None, eps: self.config.norm_eps, output: Compute::Native };
        let mut x = b.linear(&b.rms_norm(features, norm)?, &self.caption)?;
        b.pad_rows(&mut x, &self.caption_pad, &upload(lengths)?)?;
        probe(ProbePoint::EmbedCaption, &x)?;

        let padded_lengths: Vec<usize> = lengths.iter().map(|&length| padded(length)).collect();
        let mut axes = self.axes();
        push_caption(&mut axes, tokens);
        let rotation = self.upload_rotation(b, 1, tokens, &axes.take())?;
        let ragged = padded_lengths.iter().any(|&length| length != tokens);
        let key_lengths = ragged.then(|| upload(&padded_lengths)).transpose()?;
        let stack = self.stack(&rotation, key_lengths.as_ref(), None);
        block::run(b, &self.context_refiner, &mut x, &stack, &mut |i, x| probe(ProbePoint::ContextRefiner(i), x))?;
        Ok(Captions { tokens: x, lengths: padded_lengths })
    }

    /// Prepares a run for `pictures` latents of `size` (height, width). Item `n` draws picture `n
    /// mod pictures` with caption `items[n]`.
    ///
    /// # Errors
    /// `Error::Request` when a picture or caption is longer than the model's positions reach.
    pub fn sequence(
        &self,
        b: &B,
        captions: &Captions<B>,
        pictures: usize,
        items: &[usize],
        size: [usize; 2],
    ) -> Result<Sequence<B>> {
        let grid = size.map(|side| side / self.config.patch_size);
        let patches = grid[0] * grid[1];
        let image_tokens = padded(patches);
        let caption_tokens = captions.tokens.shape()[1];
        let longest = captions.lengths.iter().copied().max().unwrap_or(0);
        let lens = self.config.axes_lens;
        if longest + 1 >= lens[0] || grid[0] > lens[1] || grid[1] > lens[2] {
            let problem = format!(
                "{}×{} patches with {longest} caption tokens are past the positions {lens:?} that this model was made for",
                grid[0], grid[1]
            );
            return Err(Error::Request(problem));
        }

        // A picture's positions start after its caption's. This offset rotates all its tokens alike
        // and cancels among them, except against padding, which is at position 0. Without padding
        // all items share one noise refiner.
        let share = image_tokens == patches || items.iter().all(|&item| captions.lengths[item] == longest);
        let copies = if share { 1 } else { items.len() / pictures };
        let mut axes = self.axes();
        for &item in items.iter().take(copies * pictures) {
            push_image(&mut axes, captions.lengths[item], grid, image_tokens);
        }
        let image_rotation = self.upload_rotation(b, copies * pictures, image_tokens, &axes.take())?;
        for &item in items {
            push_image(&mut axes, captions.lengths[item], grid, image_tokens);
            push_caption(&mut axes, caption_tokens);
        }
        let tokens = image_tokens + caption_tokens;
        let lengths: Vec<usize> = items.iter().map(|&item| image_tokens + captions.lengths[item]).collect();
        let ragged = lengths.iter().any(|&length| length != tokens);
        Ok(Sequence {
            captions: upload_u32(b, items.iter().copied())?,
            lengths: ragged.then(|| upload_u32(b, lengths.into_iter())).transpose()?,
            image_tokens,
            copies,
            image_rotation,
            rotation: self.upload_rotation(b, items.len(), tokens, &axes.take())?,
            size,
        })
    }

    /// One call: `latents` F32 `[B, C, H, W]` at the clock's time to a prediction F32 `[N, C, H,
    /// W]` of (image − noise) for the `N` items of `sequence`.
    ///
    /// # Errors
    /// Errors of the backend.
    pub fn forward(
        &self,
        b: &B,
        latents: &B::Tensor,
        clock: Clock<'_, B::Tensor>,
        captions: &Captions<B>,
        sequence: &Sequence<B>,
        probe: Probe<'_, B>,
    ) -> Result<B::Tensor> {
        let t = b.timestep_embedding(clock.times, clock.step, &self.time_in, &self.time_out)?;
        probe(ProbePoint::Timestep, &t)?;
        let modulation = b.modulation(&t, &self.modulation, false, self.config.dim)?;
        let final_modulation = b.modulation(&t, &self.final_modulation, true, self.config.dim)?;

        let patch = self.config.patch_size;
        let (pad, tokens) = (&self.patch_pad, sequence.image_tokens);
        let mut image = b.embed_patches(latents, patch, &self.patches, pad, tokens, sequence.copies)?;
        probe(ProbePoint::EmbedPatches, &image)?;
        let stack = self.stack(&sequence.image_rotation, None, Some((&modulation, 0)));
        block::run(b, &self.noise_refiner, &mut image, &stack, &mut |i, x| probe(ProbePoint::NoiseRefiner(i), x))?;

        let mut x = b.join_sequence(&image, &captions.tokens, &sequence.captions)?;
        drop(image);
        let first = 4 * self.noise_refiner.len();
        let stack = self.stack(&sequence.rotation, sequence.lengths.as_ref(), Some((&modulation, first)));
        block::run(b, &self.layers, &mut x, &stack, &mut |i, x| probe(ProbePoint::Layer(i), x))?;

        let scale = Modulation { table: &final_modulation, row: 0 };
        b.final_layer(&x, scale, TransformerConfig::FINAL_NORM_EPS, &self.final_linear, patch, sequence.size)
    }

    fn stack<'a>(
        &self,
        rotation: &'a B::Tensor,
        lengths: Option<&'a B::Tensor>,
        modulation: Option<(&'a B::Tensor, usize)>,
    ) -> Stack<'a, B> {
        Stack {
            heads: heads(&self.config),
            eps: self.config.norm_eps,
            head_eps: TransformerConfig::QK_NORM_EPS,
            rotation,
            pairs: RopePairs::Interleaved,
            causal: false,
            attention_in: self.attention_in,
            lengths,
            modulation,
        }
    }

    fn axes(&self) -> AxesTable {
        AxesTable::new(self.config.axes_dims, self.config.rope_theta)
    }

    fn upload_rotation(&self, b: &B, items: usize, tokens: usize, table: &[f32]) -> Result<B::Tensor> {
        b.upload(&HostTensor::from_f32(&[items, tokens, heads(&self.config).dim / 2, 2], table))
    }
}

fn sizes(config: &TransformerConfig) -> Sizes {
    Sizes { width: config.dim, hidden: config.ffn_dim(), heads: heads(config) }
}

/// The reference's attention has as many key heads as query heads, independent of `n_kv_heads`.
fn heads(config: &TransformerConfig) -> Heads {
    Heads { query: config.n_heads, key_value: config.n_heads, dim: config.head_dim() }
}

fn upload_u32<B: Backend>(b: &B, values: impl Iterator<Item = usize>) -> Result<B::Tensor> {
    let values: Vec<u32> = values.map(|value| value as u32).collect();
    b.upload(&HostTensor::from_u32(&[values.len()], &values))
}

/// Caption token `j`, including padding, has position `(1 + j, 0, 0)`.
fn push_caption(axes: &mut AxesTable, tokens: usize) {
    (0..tokens).for_each(|j| axes.push([1 + j, 0, 0]));
}

/// Image token `(y, x)` has position `(caption + 1, y, x)`; padding is at the origin.
fn push_image(axes: &mut AxesTable, caption: usize, [height, width]: [usize; 2], tokens: usize) {
    for y in 0..height {
        (0..width).for_each(|x| axes.push([caption + 1, y, x]));
    }
    (height * width..tokens).for_each(|_| axes.push([0, 0, 0]));
}
