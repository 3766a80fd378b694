//! AutoencoderKL: latents to pictures and pictures to latents, channels last throughout.

pub mod tiling;

use super::config::VaeConfig;
use super::load::Loader;
use crate::backend::{Backend, Branch, Conv2d, DeviceTensor, Heads, Mask};
use crate::error::{Error, Result};
use crate::tensor::Compute;
use crate::weights::{OnRead, Tensors};
use futures_util::future::try_join;
use std::ops::Range;

/// Channels of a picture.
const RGB: usize = 3;
/// A 3×3 convolution that keeps the size.
const SAME: Conv2d = Conv2d { stride: 1, pad: [1; 4], upsample: false };
/// A 1×1 convolution.
const POINTWISE: Conv2d = Conv2d { stride: 1, pad: [0; 4], upsample: false };
/// Halves the size; the reference pads below and at the right only.
const DOWN: Conv2d = Conv2d { stride: 2, pad: [0, 0, 1, 1], upsample: false };
/// Doubles the size by repeating pixels, then convolves.
const UP: Conv2d = Conv2d { stride: 1, pad: [1; 4], upsample: true };

/// The autoencoder on a device.
#[derive(Debug)]
pub struct Vae<B: Backend> {
    decoder: Coder<B>,
    post_quant: Option<B::Conv2d>,
    /// `None` if the files lack tensors of it. Text-to-image does not need it.
    encoder: Option<Encoder<B>>,
    config: VaeConfig,
}

/// The encoder with its 1×1 convolution.
#[derive(Debug)]
struct Encoder<B: Backend> {
    coder: Coder<B>,
    quant: Option<B::Conv2d>,
}

/// The encoder or the decoder: a convolution, levels of resnets, a middle (before the levels in the
/// decoder, after them in the encoder), a norm and a last convolution.
#[derive(Debug)]
struct Coder<B: Backend> {
    conv_in: B::Conv2d,
    levels: Vec<Level<B>>,
    middle: Middle<B>,
    norm_out: Norm<B>,
    conv_out: B::Conv2d,
}

/// Resnets at one resolution, and the change to the next.
#[derive(Debug)]
struct Level<B: Backend> {
    resnets: Vec<Resnet<B>>,
    resample: Option<B::Conv2d>,
}

#[derive(Debug)]
struct Middle<B: Backend> {
    first: Resnet<B>,
    attention: Option<Attention<B>>,
    second: Resnet<B>,
}

/// `x + Conv(SiLU(Norm(Conv(SiLU(Norm(x))))))`, with a 1×1 convolution on `x` where the width
/// changes.
#[derive(Debug)]
struct Resnet<B: Backend> {
    norm1: Norm<B>,
    conv1: B::Conv2d,
    norm2: Norm<B>,
    conv2: B::Conv2d,
    shortcut: Option<B::Conv2d>,
}

/// Attention of one head over all pixels, added to its input.
#[derive(Debug)]
struct Attention<B: Backend> {
    norm: Norm<B>,
    qkv: B::Linear,
    out: B::Linear,
}

#[derive(Debug)]
struct Norm<B: Backend> {
    weight: B::Tensor,
    bias: B::Tensor,
    groups: usize,
}

/// Reads the parts of the autoencoder by name.
struct Parts<'a, B> {
    load: Loader<'a, B>,
    groups: usize,
}

impl<B: Backend> Parts<'_, B> {
    async fn conv(&self, name: &str, out: usize, input: usize, side: usize) -> Result<B::Conv2d> {
        let (kernel, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let [kernel, bias] = self.load.take_all([(&kernel, &[out, input, side, side]), (&bias, &[out])]).await?;
        self.load.b.upload_conv2d(&kernel, Some(&bias))
    }

    async fn norm(&self, name: &str, channels: usize) -> Result<Norm<B>> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let (weight, bias) = try_join(self.load.vector(&weight, channels), self.load.vector(&bias, channels)).await?;
        Ok(Norm { weight, bias, groups: self.groups })
    }

    async fn resnet(&self, name: &str, input: usize, out: usize) -> Result<Resnet<B>> {
        let part = |part: &str| format!("{name}.{part}");
        let [norm1, norm2, conv1, conv2] = ["norm1", "norm2", "conv1", "conv2"].map(part);
        let norms = try_join(self.norm(&norm1, input), self.norm(&norm2, out));
        let convs = try_join(self.conv(&conv1, out, input, 3), self.conv(&conv2, out, out, 3));
        let ((norm1, norm2), (conv1, conv2)) = try_join(norms, convs).await?;
        let shortcut = match input == out {
            true => None,
            false => Some(self.conv(&part("conv_shortcut"), out, input, 1).await?),
        };
        Ok(Resnet { norm1, conv1, norm2, conv2, shortcut })
    }

    async fn attention(&self, name: &str, c: usize) -> Result<Attention<B>> {
        let of = |part: &str| (format!("{name}.{part}.weight"), format!("{name}.{part}.bias"));
        let [q, k, v] = ["to_q", "to_k", "to_v"].map(of);
        let [q_bias, k_bias, v_bias] = self.load.take_all([(&q.1, &[c]), (&k.1, &[c]), (&v.1, &[c])]).await?;
        let square = async |name: &str| self.load.weight(name, &[c, c]).await;
        let qkv = [square(&q.0).await?, square(&k.0).await?, square(&v.0).await?];
        Ok(Attention {
            norm: self.norm(&format!("{name}.group_norm"), c).await?,
            qkv: self.load.b.upload_linear(&qkv, &[q_bias, k_bias, v_bias]).await?,
            out: self.load.linear(&format!("{name}.to_out.0"), c, c).await?,
        })
    }

    /// Loads `encoder` or `decoder` (`name`). `level` is the name of its levels, `widths` their
    /// widths in input order.
    async fn coder(&self, config: &VaeConfig, side: &Side) -> Result<Coder<B>> {
        let name = side.name;
        let widths: Vec<usize> = if side.grows {
            config.block_out_channels.iter().rev().copied().collect()
        } else {
            config.block_out_channels.clone()
        };
        let first = widths[0];
        let last = widths[widths.len() - 1];
        let count = config.layers_per_block + usize::from(side.grows);
        let mut levels = Vec::new();
        let mut input = first;
        for (i, &width) in widths.iter().enumerate() {
            let prefix = format!("{name}.{}.{i}", side.levels);
            let mut resnets = Vec::with_capacity(count);
            for j in 0..count {
                let input = if j == 0 { input } else { width };
                resnets.push(self.resnet(&format!("{prefix}.resnets.{j}"), input, width).await?);
            }
            let resample = match i + 1 < widths.len() {
                true => Some(self.conv(&format!("{prefix}.{}.0.conv", side.resample), width, width, 3).await?),
                false => None,
            };
            levels.push(Level { resnets, resample });
            input = width;
        }
        let width = config.block_out_channels[config.block_out_channels.len() - 1];
        let middle = format!("{name}.mid_block");
        let attention = match config.mid_block_add_attention {
            true => Some(self.attention(&format!("{middle}.attentions.0"), width).await?),
            false => None,
        };
        Ok(Coder {
            conv_in: self.conv(&format!("{name}.conv_in"), first, side.input, 3).await?,
            levels,
            middle: Middle {
                first: self.resnet(&format!("{middle}.resnets.0"), width, width).await?,
                attention,
                second: self.resnet(&format!("{middle}.resnets.1"), width, width).await?,
            },
            norm_out: self.norm(&format!("{name}.conv_norm_out"), last).await?,
            conv_out: self.conv(&format!("{name}.conv_out"), side.output, last, 3).await?,
        })
    }

    /// A 1×1 convolution that only some autoencoders have.
    async fn pointwise(&self, has: bool, name: &str, width: usize) -> Result<Option<B::Conv2d>> {
        Ok(if has { Some(self.conv(name, width, width, 1).await?) } else { None })
    }
}

/// Differences between encoder and decoder.
struct Side {
    name: &'static str,
    levels: &'static str,
    resample: &'static str,
    /// True if pictures grow from level to level.
    grows: bool,
    input: usize,
    output: usize,
}

impl<B: Backend> Vae<B> {
    /// Reads and uploads every tensor. The encoder's tensors may be missing.
    ///
    /// # Errors
    /// Errors of the files, naming file and tensor, of the backend, and of `on_read`.
    pub async fn load(b: &B, tensors: &Tensors, config: &VaeConfig, on_read: OnRead<'_>) -> Result<Self> {
        let parts = Parts { load: Loader { b, tensors, on_read, streamed: None }, groups: config.norm_num_groups };
        let latent = config.latent_channels;
        let decoder = Side {
            name: "decoder",
            levels: "up_blocks",
            resample: "upsamplers",
            grows: true,
            input: latent,
            output: RGB,
        };
        let encoder = Side {
            name: "encoder",
            levels: "down_blocks",
            resample: "downsamplers",
            grows: false,
            input: RGB,
            output: 2 * latent,
        };
        let encoder = async || {
            let coder = parts.coder(config, &encoder).await?;
            let quant = parts.pointwise(config.use_quant_conv, "quant_conv", 2 * latent).await?;
            Ok(Encoder { coder, quant })
        };
        Ok(Self {
            decoder: parts.coder(config, &decoder).await?,
            post_quant: parts.pointwise(config.use_post_quant_conv, "post_quant_conv", latent).await?,
            encoder: match encoder().await {
                Ok(encoder) => Some(encoder),
                Err(Error::Tensor { tensor, .. }) if !tensors.contains(&tensor) => None,
                Err(error) => return Err(error),
            },
            config: config.clone(),
        })
    }

    /// Items of latents F32 `[B, C, h, w]` to pixels U8 `[n, H, W, 3]`.
    ///
    /// # Errors
    /// Errors of the backend.
    pub fn decode(&self, b: &B, latents: &B::Tensor, items: Range<usize>) -> Result<B::Tensor> {
        b.to_rgb8(&self.decode_unrounded(b, latents, items)?)
    }

    /// Items of latents F32 `[B, C, h, w]` to an activation `[n, H, W, 3]` between about −1 and 1.
    ///
    /// # Errors
    /// Errors of the backend.
    pub fn decode_unrounded(&self, b: &B, latents: &B::Tensor, items: Range<usize>) -> Result<B::Tensor> {
        let x = self.decode_middle(b, latents, items)?;
        let x = self.decoder.levels.iter().try_fold(x, |x, level| level.forward(b, x, UP))?;
        self.decoder.finish(b, &x)
    }

    /// Items of latents F32 `[B, C, h, w]` to the activation `[n, h, w, C']` before the levels.
    fn decode_middle(&self, b: &B, latents: &B::Tensor, items: Range<usize>) -> Result<B::Tensor> {
        let VaeConfig { scaling_factor, shift_factor, .. } = self.config;
        let mut x = b.unscale_latents(latents, items, scaling_factor, shift_factor)?;
        if let Some(conv) = &self.post_quant {
            x = b.conv2d(&x, conv, POINTWISE, None)?;
        }
        x = b.conv2d(&x, &self.decoder.conv_in, SAME, None)?;
        self.decoder.middle.forward(b, x)
    }

    /// Pixels U8 `[B, H, W, 3]` to the latents F32 `[B, C, h, w]` at the mode of the encoder's
    /// Gaussian, scaled as the transformer reads them.
    ///
    /// # Errors
    /// [`Error::Request`] when the model's files lack the encoder; errors of the backend.
    pub fn encode(&self, b: &B, pixels: &B::Tensor) -> Result<B::Tensor> {
        let encoder = self.encoder()?;
        let x = b.conv2d(&b.normalize_rgb8(pixels)?, &encoder.coder.conv_in, SAME, None)?;
        let x = encoder.coder.levels.iter().try_fold(x, |x, level| level.forward(b, x, DOWN))?;
        self.encode_middle(b, encoder, x)
    }

    fn encoder(&self) -> Result<&Encoder<B>> {
        let missing = || Error::Request("the autoencoder's files have no encoder; use a model with one".into());
        self.encoder.as_ref().ok_or_else(missing)
    }

    /// The activation `[B, h, w, C']` after the levels to latents F32 `[B, C, h, w]`.
    fn encode_middle(&self, b: &B, Encoder { coder, quant }: &Encoder<B>, x: B::Tensor) -> Result<B::Tensor> {
        let VaeConfig { latent_channels, scaling_factor, shift_factor, .. } = self.config;
        let mut x = coder.middle.forward(b, x)?;
        x = coder.finish(b, &x)?;
        if let Some(conv) = quant {
            x = b.conv2d(&x, conv, POINTWISE, None)?;
        }
        b.scale_latents(&x, latent_channels, scaling_factor, shift_factor)
    }
}

impl<B: Backend> Coder<B> {
    fn finish(&self, b: &B, x: &B::Tensor) -> Result<B::Tensor> {
        b.conv2d(&self.norm_out.forward(b, x, true)?, &self.conv_out, SAME, None)
    }
}

impl<B: Backend> Level<B> {
    fn forward(&self, b: &B, x: B::Tensor, resample: Conv2d) -> Result<B::Tensor> {
        let x = self.resnets.iter().try_fold(x, |x, resnet| resnet.forward(b, &x))?;
        match &self.resample {
            Some(conv) => b.conv2d(&x, conv, resample, None),
            None => Ok(x),
        }
    }
}

impl<B: Backend> Middle<B> {
    fn forward(&self, b: &B, x: B::Tensor) -> Result<B::Tensor> {
        let mut x = self.first.forward(b, &x)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(b, x)?;
        }
        self.second.forward(b, &x)
    }
}

impl<B: Backend> Resnet<B> {
    fn forward(&self, b: &B, x: &B::Tensor) -> Result<B::Tensor> {
        // Each activation is dropped after its last use: at the last level one takes a quarter of a
        // gigabyte.
        let h = self.norm1.forward(b, x, true);
        let h = h.and_then(|h| b.conv2d(&h, &self.conv1, SAME, None)).and_then(|h| self.norm2.forward(b, &h, true))?;
        let shortcut = self.shortcut.as_ref().map(|conv| b.conv2d(x, conv, POINTWISE, None)).transpose()?;
        b.conv2d(&h, &self.conv2, SAME, Some(shortcut.as_ref().unwrap_or(x)))
    }
}

impl<B: Backend> Attention<B> {
    fn forward(&self, b: &B, x: B::Tensor) -> Result<B::Tensor> {
        let shape = x.shape().to_vec();
        let (batch, pixels, c) = (shape[0], shape[1] * shape[2], shape[3]);
        let h = self.norm.forward(b, &x, false)?.reshaped(&[batch, pixels, c])?;
        let qkv = b.linear(&h, &self.qkv)?;
        let heads = Heads { query: 1, key_value: 1, dim: c };
        let y =
            b.linear(&b.attention(&qkv, heads, Mask { causal: false, lengths: None }, Compute::Native)?, &self.out)?;
        let mut x = x.reshaped(&[batch, pixels, c])?;
        b.residual(&mut x, Branch { y: &y, norm: None, gate: None, eps: 0.0 })?;
        x.reshaped(&shape)
    }
}

impl<B: Backend> Norm<B> {
    fn forward(&self, b: &B, x: &B::Tensor, silu: bool) -> Result<B::Tensor> {
        b.group_norm(x, &self.weight, &self.bias, self.groups, VaeConfig::NORM_EPS, silu)
    }
}
