//! The config file of each part.

use super::keys::Keys;
use crate::error::Result;

/// The maximum width of the adaLN input, for any model width.
const ADALN_WIDTH: usize = 256;
/// Maximum patch size, and maximum number of blocks in an autoencoder. With the bound on every size
/// these limit products of sizes to 32 bits, the address space of a browser.
const LARGEST_PATCH: usize = 16;
const MOST_VAE_BLOCKS: usize = 8;
const WIDEST_ATTENTION: usize = 1 << 20;

/// The image transformer (`ZImageTransformer2DModel`).
#[derive(Debug, Clone, PartialEq)]
pub struct TransformerConfig {
    /// Latent pixels along each side of a patch: the one entry of `all_patch_size`. The one entry
    /// of `all_f_patch_size`, frames per patch, must be 1.
    pub patch_size: usize,
    /// Latent channels.
    pub in_channels: usize,
    /// The width of a token.
    pub dim: usize,
    /// Main layers.
    pub n_layers: usize,
    /// Layers of the noise refiner. The context refiner has the same number.
    pub n_refiner_layers: usize,
    /// Attention heads. The reference gives each head its own keys and values, so `n_kv_heads` must
    /// be equal.
    pub n_heads: usize,
    /// Added to the mean square in the RMSNorms of the blocks and of the caption.
    pub norm_eps: f32,
    /// The width of the text features.
    pub cap_feat_dim: usize,
    /// θ of the rotary embedding.
    pub rope_theta: f64,
    /// Factor of the model time, which runs from 0 to 1.
    pub t_scale: f64,
    /// Head dimensions rotated by the frame, the row and the column; all even.
    pub axes_dims: [usize; 3],
    /// Number of positions along each axis.
    pub axes_lens: [usize; 3],
}

impl TransformerConfig {
    /// Added to the mean square in the RMSNorms of queries and keys. The reference does not use
    /// `norm_eps` for them.
    pub const QK_NORM_EPS: f32 = 1e-5;
    /// Added to the variance in the final LayerNorm.
    pub const FINAL_NORM_EPS: f32 = 1e-6;
    /// Number of cosines and sines that encode the timestep.
    pub const FREQUENCIES: usize = 256;
    /// The width inside the timestep's MLP.
    pub const TIMESTEP_HIDDEN: usize = 1024;

    pub(super) fn read(keys: &Keys) -> Result<Self> {
        keys.one_of("_class_name", &["ZImageTransformer2DModel"])?;
        keys.refuse("quantization_config")?;
        keys.refuse("siglip_feat_dim")?;
        keys.not_null(&[
            "all_patch_size",
            "all_f_patch_size",
            "in_channels",
            "dim",
            "n_layers",
            "n_refiner_layers",
            "n_heads",
            "norm_eps",
            "cap_feat_dim",
            "rope_theta",
            "t_scale",
            "axes_dims",
            "axes_lens",
        ])?;
        if !keys.flag("qk_norm", true)? {
            return Err(keys.wrong("qk_norm", "true, because attention without it is not supported"));
        }
        let [patch_size] = array(keys, "all_patch_size", [2])?;
        if patch_size > LARGEST_PATCH {
            return Err(keys.wrong("all_patch_size", &format!("one size of at most {LARGEST_PATCH}")));
        }
        if array(keys, "all_f_patch_size", [1])? != [1] {
            return Err(keys.wrong("all_f_patch_size", "[1], because pictures have one frame"));
        }
        let n_heads = keys.size("n_heads", Some(30))?;
        if keys.size("n_kv_heads", Some(n_heads))? != n_heads {
            return Err(keys.wrong("n_kv_heads", &format!("{n_heads}, as n_heads")));
        }
        let config = Self {
            patch_size,
            in_channels: keys.size("in_channels", Some(16))?,
            dim: keys.size("dim", Some(3840))?,
            n_layers: keys.layers("n_layers", Some(30), 1)?,
            n_refiner_layers: keys.layers("n_refiner_layers", Some(2), 0)?,
            n_heads,
            norm_eps: eps(keys, "norm_eps", 1e-5)?,
            cap_feat_dim: keys.size("cap_feat_dim", Some(2560))?,
            rope_theta: theta(keys, 256.0)?,
            t_scale: keys.real("t_scale", Some(1000.0), 1e-3..=1e6)?,
            axes_dims: array(keys, "axes_dims", [32, 48, 48])?,
            axes_lens: array(keys, "axes_lens", [1024, 512, 512])?,
        };
        if !config.dim.is_multiple_of(n_heads) {
            return Err(keys.wrong("dim", &format!("a multiple of the {n_heads} of n_heads")));
        }
        let head = config.head_dim();
        if config.axes_dims.iter().sum::<usize>() != head || config.axes_dims.iter().any(|n| n % 2 == 1) {
            let expected = format!("even numbers that make {head}, dim / n_heads, together");
            return Err(keys.wrong("axes_dims", &expected));
        }
        Ok(config)
    }

    /// The width of a head.
    pub fn head_dim(&self) -> usize {
        self.dim / self.n_heads
    }

    /// The width inside the SwiGLU: the reference's `int(dim / 3 * 8)`, in the same floating-point
    /// arithmetic.
    pub fn ffn_dim(&self) -> usize {
        (self.dim as f64 / 3.0 * 8.0) as usize
    }

    /// The width of the timestep's embedding, which the adaLN linears read.
    pub fn adaln_dim(&self) -> usize {
        self.dim.min(ADALN_WIDTH)
    }

    /// The values of one patch.
    pub fn patch_dim(&self) -> usize {
        self.patch_size * self.patch_size * self.in_channels
    }

    /// The suffix of the embedder and the final layer for this patch in tensor names: `2-1`.
    pub fn patch_key(&self) -> String {
        format!("{}-1", self.patch_size)
    }
}

/// The text encoder (`Qwen3Model`, alone or inside `Qwen3ForCausalLM`).
#[derive(Debug, Clone, PartialEq)]
pub struct TextEncoderConfig {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// The width of a token.
    pub hidden_size: usize,
    /// Layers. The features do not need the last one.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key heads, and as many value heads.
    pub num_key_value_heads: usize,
    /// The width of a head; even.
    pub head_dim: usize,
    /// The width inside the SwiGLU.
    pub intermediate_size: usize,
    /// Added to the mean square in every RMSNorm.
    pub rms_norm_eps: f32,
    /// θ of the rotary embedding.
    pub rope_theta: f64,
}

impl TextEncoderConfig {
    pub(super) fn read(keys: &Keys) -> Result<Self> {
        keys.one_of("model_type", &["qwen3"])?;
        keys.one_of("hidden_act", &["silu", "swish"])?;
        for key in ["attention_bias", "use_sliding_window", "quantization_config"] {
            keys.refuse(key)?;
        }
        keys.all_are("layer_types", "full_attention")?;
        let num_attention_heads = keys.size("num_attention_heads", None)?;
        let config = Self {
            vocab_size: keys.size("vocab_size", None)?,
            hidden_size: keys.size("hidden_size", None)?,
            num_hidden_layers: keys.layers("num_hidden_layers", None, 1)?,
            num_attention_heads,
            num_key_value_heads: keys.size("num_key_value_heads", Some(num_attention_heads))?,
            head_dim: keys.size("head_dim", Some(128))?,
            intermediate_size: keys.size("intermediate_size", None)?,
            rms_norm_eps: eps(keys, "rms_norm_eps", 1e-6)?,
            rope_theta: qwen_theta(keys)?,
        };
        if !num_attention_heads.is_multiple_of(config.num_key_value_heads) {
            let expected = format!("a divisor of the {num_attention_heads} of num_attention_heads");
            return Err(keys.wrong("num_key_value_heads", &expected));
        }
        if config.head_dim % 2 == 1 || config.head_dim > WIDEST_ATTENTION / num_attention_heads {
            let expected = format!("an even number that makes at most {WIDEST_ATTENTION} in all heads");
            return Err(keys.wrong("head_dim", &expected));
        }
        Ok(config)
    }
}

/// θ: transformers 4 writes it next to the other keys and transformers 5 into `rope_parameters`.
/// `rope_scaling` is the older name of that object.
fn qwen_theta(keys: &Keys) -> Result<f64> {
    let mut value = theta(keys, 10_000.0)?;
    for object in ["rope_scaling", "rope_parameters"] {
        if let Some(rope) = keys.inner(object)? {
            rope.one_of("rope_type", &["default"])?;
            rope.one_of("type", &["default"])?;
            // Transformers 5 allows one object per kind of layer if the kinds differ. Here they are
            // equal.
            rope.refuse("full_attention")?;
            value = theta(&rope, value)?;
        }
    }
    Ok(value)
}

/// The autoencoder (`AutoencoderKL`), pictures with three channels.
#[derive(Debug, Clone, PartialEq)]
pub struct VaeConfig {
    /// Latent channels.
    pub latent_channels: usize,
    /// Channels of each block, from the picture's side.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks in each block of the encoder. The decoder has one more per block.
    pub layers_per_block: usize,
    /// Groups of every GroupNorm.
    pub norm_num_groups: usize,
    /// Latents are multiplied by this after shifting.
    pub scaling_factor: f32,
    /// Subtracted from latents before scaling.
    pub shift_factor: f32,
    /// True if a 1×1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// True if a 1×1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// True if the middle blocks have attention.
    pub mid_block_add_attention: bool,
}

impl VaeConfig {
    /// Added to the variance in every GroupNorm.
    pub const NORM_EPS: f32 = 1e-6;

    pub(super) fn read(keys: &Keys) -> Result<Self> {
        keys.one_of("_class_name", &["AutoencoderKL"])?;
        keys.one_of("act_fn", &["silu", "swish"])?;
        keys.refuse("quantization_config")?;
        keys.not_null(&[
            "act_fn",
            "block_out_channels",
            "down_block_types",
            "up_block_types",
            "in_channels",
            "out_channels",
            "latent_channels",
            "layers_per_block",
            "norm_num_groups",
            "scaling_factor",
        ])?;
        for key in ["in_channels", "out_channels"] {
            if keys.size(key, Some(3))? != 3 {
                return Err(keys.wrong(key, "3: red, green and blue"));
            }
        }
        let block_out_channels = keys.sizes("block_out_channels", &[64], 1..=MOST_VAE_BLOCKS)?;
        for (key, kind) in [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")] {
            if keys.all_are(key, kind)?.unwrap_or(1) != block_out_channels.len() {
                let expected = format!("{} times {kind}, as many as block_out_channels", block_out_channels.len());
                return Err(keys.wrong(key, &expected));
            }
        }
        let norm_num_groups = keys.size("norm_num_groups", Some(32))?;
        if block_out_channels.iter().any(|n| !n.is_multiple_of(norm_num_groups)) {
            let expected = format!("multiples of the {norm_num_groups} of norm_num_groups");
            return Err(keys.wrong("block_out_channels", &expected));
        }
        Ok(Self {
            latent_channels: keys.size("latent_channels", Some(4))?,
            block_out_channels,
            layers_per_block: keys.layers("layers_per_block", Some(1), 1)?,
            norm_num_groups,
            scaling_factor: keys.real("scaling_factor", Some(0.18215), 1e-6..=1e6)? as f32,
            // The class defaults to no shift, and the pipeline then fails to add it.
            shift_factor: keys.real("shift_factor", None, -1e6..=1e6)? as f32,
            use_quant_conv: keys.flag("use_quant_conv", true)?,
            use_post_quant_conv: keys.flag("use_post_quant_conv", true)?,
            mid_block_add_attention: keys.flag("mid_block_add_attention", true)?,
        })
    }

    /// Picture pixels along each side of a latent pixel: every block except the last halves the
    /// picture.
    pub fn scale_factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    /// The parameters of encoder and decoder.
    pub fn parameters(&self) -> usize {
        let conv = |out: usize, input: usize, side: usize| out * input * side * side + out;
        let resnet = |input: usize, out: usize| {
            let shortcut = if input == out { 0 } else { conv(out, input, 1) };
            2 * (input + out) + conv(out, input, 3) + conv(out, out, 3) + shortcut
        };
        let coder = |widths: &[usize], resnets: usize, input: usize, output: usize| {
            let (first, last) = (widths[0], widths[widths.len() - 1]);
            let mut before = first;
            let mut sum = conv(first, input, 3) + 2 * last + conv(output, last, 3);
            for (i, &width) in widths.iter().enumerate() {
                sum += resnet(before, width) + (resnets - 1) * resnet(width, width);
                if i + 1 < widths.len() {
                    sum += conv(width, width, 3);
                }
                before = width;
            }
            sum
        };
        let widths = &self.block_out_channels;
        let reversed: Vec<usize> = widths.iter().rev().copied().collect();
        let deepest = reversed[0];
        let attention = if self.mid_block_add_attention { 2 * deepest + 4 * conv(deepest, deepest, 1) } else { 0 };
        let middle = 2 * resnet(deepest, deepest) + attention;
        let latent = self.latent_channels;
        let quant = if self.use_quant_conv { conv(2 * latent, 2 * latent, 1) } else { 0 };
        let post_quant = if self.use_post_quant_conv { conv(latent, latent, 1) } else { 0 };
        coder(widths, self.layers_per_block, 3, 2 * latent)
            + coder(&reversed, self.layers_per_block + 1, latent, 3)
            + 2 * middle
            + quant
            + post_quant
    }

    /// Elements of the largest activation in decoding a picture of `[height, width]` pixels.
    pub fn largest_decoded(&self, size: [usize; 2]) -> usize {
        // At each resolution the decoder begins with the channels of the next lower one.
        let next = self.block_out_channels.iter().skip(1).chain(self.block_out_channels.last());
        self.largest(size, next)
    }

    /// Elements of the largest activation in encoding a picture of `[height, width]` pixels.
    pub fn largest_encoded(&self, size: [usize; 2]) -> usize {
        let before = self.block_out_channels.first().into_iter().chain(&self.block_out_channels);
        self.largest(size, before)
    }

    /// `others` are the input channels of each resolution, starting with the picture's own.
    fn largest<'a>(&self, [height, width]: [usize; 2], others: impl Iterator<Item = &'a usize>) -> usize {
        let pixels = |level: usize| (height >> level).saturating_mul(width >> level);
        let levels = self.block_out_channels.iter().zip(others).map(|(&own, &other)| own.max(other)).enumerate();
        let largest = levels.map(|(level, channels)| pixels(level).saturating_mul(channels)).max().unwrap_or(0);
        // The queries, keys and values of the attention in the middle, and both ends.
        let deepest = self.block_out_channels.last().copied().unwrap_or(0);
        let middle = if self.mid_block_add_attention { 3 * deepest } else { 0 };
        let latents = pixels(self.block_out_channels.len() - 1).saturating_mul(middle.max(2 * self.latent_channels));
        largest.max(latents).max(pixels(0).saturating_mul(3))
    }
}

/// A list of exactly as many sizes as in the default.
fn array<const N: usize>(keys: &Keys, key: &str, default: [usize; N]) -> Result<[usize; N]> {
    let sizes = keys.sizes(key, &default, N..=N)?;
    sizes.try_into().map_err(|_| keys.wrong(key, &format!("a list of {N} sizes")))
}

fn eps(keys: &Keys, key: &str, default: f64) -> Result<f32> {
    Ok(keys.real(key, Some(default), 0.0..=1.0)? as f32)
}

fn theta(keys: &Keys, default: f64) -> Result<f64> {
    keys.real("rope_theta", Some(default), 1.0..=1e12)
}
