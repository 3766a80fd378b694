//! AutoencoderKL: latents to pictures and pictures to latents, channels last throughout.

pub mod tiling;

use super::config::VaeConfig;
use crate::backend::{Backend, Branch, Conv2d, DeviceTensor, Heads, HostTensor, Mask};
use crate::error::Result;
use crate::weights::{ModelFolder, Tensors};

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
    encoder: Coder<B>,
    post_quant: Option<B::Conv2d>,
    quant: Option<B::Conv2d>,
    config: VaeConfig,
}

/// The encoder or the decoder: a convolution, levels of resnets, a middle (before the levels in the decoder, behind
/// them in the encoder), a norm and a last convolution.
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

/// `x + Conv(SiLU(Norm(Conv(SiLU(Norm(x))))))`, with a 1×1 convolution on `x` where the width changes.
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
struct Loader<'a, B> {
    b: &'a B,
    tensors: &'a Tensors,
    groups: usize,
}

impl<B: Backend> Loader<'_, B> {
    fn conv(&self, name: &str, out: usize, input: usize, side: usize) -> Result<B::Conv2d> {
        let kernel = self.tensors.take(&format!("{name}.weight"), &[out, input, side, side])?;
        let bias = self.tensors.take(&format!("{name}.bias"), &[out])?;
        self.b.upload_conv2d(&kernel, Some(&bias))
    }

    fn norm(&self, name: &str, channels: usize) -> Result<Norm<B>> {
        let vector = |part: &str| self.b.upload(&self.tensors.take(&format!("{name}.{part}"), &[channels])?);
        Ok(Norm { weight: vector("weight")?, bias: vector("bias")?, groups: self.groups })
    }

    fn resnet(&self, name: &str, input: usize, out: usize) -> Result<Resnet<B>> {
        let shortcut = (input != out).then(|| self.conv(&format!("{name}.conv_shortcut"), out, input, 1));
        Ok(Resnet {
            norm1: self.norm(&format!("{name}.norm1"), input)?,
            conv1: self.conv(&format!("{name}.conv1"), out, input, 3)?,
            norm2: self.norm(&format!("{name}.norm2"), out)?,
            conv2: self.conv(&format!("{name}.conv2"), out, out, 3)?,
            shortcut: shortcut.transpose()?,
        })
    }

    fn attention(&self, name: &str, c: usize) -> Result<Attention<B>> {
        let part = |part: &str| {
            let weight = self.tensors.take(&format!("{name}.{part}.weight"), &[c, c])?;
            Ok((weight, self.tensors.take(&format!("{name}.{part}.bias"), &[c])?))
        };
        let fused = ["to_q", "to_k", "to_v"].into_iter().map(part).collect::<Result<Vec<_>>>()?;
        let (weights, biases): (Vec<HostTensor>, Vec<HostTensor>) = fused.into_iter().unzip();
        let (weight, bias) = part("to_out.0")?;
        Ok(Attention {
            norm: self.norm(&format!("{name}.group_norm"), c)?,
            qkv: self.b.upload_linear(&weights, &biases)?,
            out: self.b.upload_linear(&[weight], &[bias])?,
        })
    }

    /// `name` is `encoder` or `decoder`; `level` the name of its levels, `widths` theirs from the input on.
    fn coder(&self, config: &VaeConfig, side: &Side) -> Result<Coder<B>> {
        let name = side.name;
        let widths: Vec<usize> = if side.grows {
            config.block_out_channels.iter().rev().copied().collect()
        } else {
            config.block_out_channels.clone()
        };
        let first = widths[0];
        let last = widths[widths.len() - 1];
        let resnets = config.layers_per_block + usize::from(side.grows);
        let mut levels = Vec::new();
        let mut input = first;
        for (i, &width) in widths.iter().enumerate() {
            let prefix = format!("{name}.{}.{i}", side.levels);
            let resnet = |j| self.resnet(&format!("{prefix}.resnets.{j}"), if j == 0 { input } else { width }, width);
            let resnets = (0..resnets).map(resnet).collect::<Result<_>>()?;
            let resample = format!("{prefix}.{}.0.conv", side.resample);
            let resample = (i + 1 < widths.len()).then(|| self.conv(&resample, width, width, 3)).transpose()?;
            levels.push(Level { resnets, resample });
            input = width;
        }
        let width = config.block_out_channels[config.block_out_channels.len() - 1];
        let attention = format!("{name}.mid_block.attentions.0");
        let attention = config.mid_block_add_attention.then(|| self.attention(&attention, width)).transpose()?;
        Ok(Coder {
            conv_in: self.conv(&format!("{name}.conv_in"), first, side.input, 3)?,
            levels,
            middle: Middle {
                first: self.resnet(&format!("{name}.mid_block.resnets.0"), width, width)?,
                attention,
                second: self.resnet(&format!("{name}.mid_block.resnets.1"), width, width)?,
            },
            norm_out: self.norm(&format!("{name}.conv_norm_out"), last)?,
            conv_out: self.conv(&format!("{name}.conv_out"), side.output, last, 3)?,
        })
    }
}

/// What tells the encoder from the decoder.
struct Side {
    name: &'static str,
    levels: &'static str,
    resample: &'static str,
    /// Whether pictures grow from level to level.
    grows: bool,
    input: usize,
    output: usize,
}

impl<B: Backend> Vae<B> {
    /// Reads `vae/` of a model. The second value names the tensors that nothing read.
    ///
    /// # Errors
    /// Those of the files, naming file and tensor, and those of the backend.
    pub fn load(b: &B, folder: &ModelFolder, config: &VaeConfig) -> Result<(Self, Vec<String>)> {
        let tensors = Tensors::open(folder, "vae", "diffusion_pytorch_model")?;
        let loader = Loader { b, tensors: &tensors, groups: config.norm_num_groups };
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
        let pointwise =
            |wanted: bool, name: &str, width: usize| wanted.then(|| loader.conv(name, width, width, 1)).transpose();
        let vae = Self {
            decoder: loader.coder(config, &decoder)?,
            encoder: loader.coder(config, &encoder)?,
            post_quant: pointwise(config.use_post_quant_conv, "post_quant_conv", latent)?,
            quant: pointwise(config.use_quant_conv, "quant_conv", 2 * latent)?,
            config: config.clone(),
        };
        Ok((vae, tensors.unread(|_| false)))
    }

    /// Latents F32 `[B, C, h, w]` to pixels U8 `[B, H, W, 3]`.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn decode(&self, b: &B, latents: &B::Tensor) -> Result<B::Tensor> {
        b.to_rgb8(&self.decode_unrounded(b, latents)?)
    }

    /// Latents F32 `[B, C, h, w]` to an activation `[B, H, W, 3]` between about −1 and 1.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn decode_unrounded(&self, b: &B, latents: &B::Tensor) -> Result<B::Tensor> {
        let mut x = b.unscale_latents(latents, self.config.scaling_factor, self.config.shift_factor)?;
        if let Some(conv) = &self.post_quant {
            x = b.conv2d(&x, conv, POINTWISE, None)?;
        }
        x = b.conv2d(&x, &self.decoder.conv_in, SAME, None)?;
        x = self.decoder.middle.forward(b, x)?;
        x = self.decoder.levels.iter().try_fold(x, |x, level| level.forward(b, x, UP))?;
        self.decoder.finish(b, &x)
    }

    /// Pixels U8 `[B, H, W, 3]` to the latents F32 `[B, C, h, w]` at the mode of the encoder's Gaussian, scaled as the
    /// transformer reads them.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn encode(&self, b: &B, pixels: &B::Tensor) -> Result<B::Tensor> {
        let VaeConfig { latent_channels, scaling_factor, shift_factor, .. } = self.config;
        let mut x = b.conv2d(&b.normalize_rgb8(pixels)?, &self.encoder.conv_in, SAME, None)?;
        x = self.encoder.levels.iter().try_fold(x, |x, level| level.forward(b, x, DOWN))?;
        x = self.encoder.middle.forward(b, x)?;
        x = self.encoder.finish(b, &x)?;
        if let Some(conv) = &self.quant {
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
        let h = b.conv2d(&self.norm1.forward(b, x, true)?, &self.conv1, SAME, None)?;
        let h = self.norm2.forward(b, &h, true)?;
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
        let y = b.linear(&b.attention(&qkv, heads, Mask { causal: false, lengths: None })?, &self.out)?;
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
