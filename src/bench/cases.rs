//! The verbs with the sizes at which a model calls them.

use super::sizes::{BlockSizes, Conv, Norm, Sizes, attention_flop, distinct, linear_flop};
use super::verbs::{Case, Inputs, MOST_CALLS, call};
use crate::backend::{Backend, Branch, Conv2d, Heads, Mask, Modulation, QkNormRope, RmsNorm, RopePairs};
use crate::error::Result;
use crate::future::expect_ready;
use crate::model::config::{TransformerConfig, VaeConfig};

/// Every verb that takes time, for one picture with one caption.
pub(super) fn all<B: Backend + 'static>(sizes: &Sizes<'_>) -> Vec<Case<B>> {
    let config = sizes.config;
    let mut cases = block("", sizes.layer(), true);
    cases.extend(ends(sizes));
    cases.extend(block("text-", sizes.text_block(), false));
    let decoder = sizes.decoder();
    cases.extend(distinct(&decoder.convs).into_iter().map(|(conv, count)| conv2d(conv, count)));
    let groups = config.vae.norm_num_groups;
    cases.extend(distinct(&decoder.norms).into_iter().map(|(norm, count)| group_norm(norm, groups, count)));
    if config.vae.mid_block_add_attention {
        let (c, pixels) = (sizes.decoder_width(), sizes.latents().iter().product());
        cases.push(linear("vae-qkv", pixels, 3 * c, c, true));
        cases.push(linear("vae-out", pixels, c, c, true));
        cases.push(attention("vae", pixels, Heads { query: 1, key_value: 1, dim: c }, false));
    }
    cases.extend(pictures(sizes));
    cases
}

/// The verbs of a block of either transformer; `modulated` is the image transformer's.
fn block<B: Backend + 'static>(prefix: &str, sizes: BlockSizes, modulated: bool) -> Vec<Case<B>> {
    let BlockSizes { tokens, width, hidden, heads, causal } = sizes;
    let out = heads.query * heads.dim;
    let name = |verb: &str| format!("{prefix}{verb}");
    let of = format!("{prefix}block");
    vec![
        linear(&name("qkv"), tokens, heads.fused_width(), width, false),
        linear(&name("attention-out"), tokens, width, out, false),
        swiglu(&of, tokens, hidden, width),
        linear(&name("w2"), tokens, width, hidden, false),
        attention(&of, tokens, heads, causal),
        // The first of these and this one are the same work as the next one, which is what a network calls.
        qk_norm_rope(&of, tokens, heads, causal),
        project_qkv(&of, tokens, width, heads, causal),
        residual_norm(&of, tokens, width, modulated),
    ]
}

fn linear<B: Backend + 'static>(name: &str, m: usize, n: usize, k: usize, bias: bool) -> Case<B> {
    let what = format!("[{m}, {k}] · [{n}, {k}]ᵀ");
    Case::new(format!("linear/{name}"), what, Some(linear_flop(m, n, k)), move |inputs| {
        let (x, w) = (inputs.activation(&[1, m, k])?, inputs.linear(n, k, bias)?);
        call(move |b: &B| b.linear(&x, &w).map(Some))
    })
}

fn swiglu<B: Backend + 'static>(name: &str, m: usize, n: usize, k: usize) -> Case<B> {
    let what = format!("[{m}, {k}] · 2 × [{n}, {k}]ᵀ");
    Case::new(format!("swiglu/{name}"), what, Some(linear_flop(m, 2 * n, k)), move |inputs: &mut Inputs<'_, B>| {
        let (x, [gate, up]) = (inputs.activation(&[1, m, k])?, [(); 2].map(|()| inputs.matrix(n, k)));
        let w = expect_ready(inputs.b.upload_swiglu(&gate.into(), &up.into()))?;
        call(move |b: &B| b.swiglu(&x, &w).map(Some))
    })
}

fn attention<B: Backend + 'static>(name: &str, tokens: usize, heads: Heads, causal: bool) -> Case<B> {
    let Heads { query, key_value, dim } = heads;
    let kind = if causal { ", causal" } else { "" };
    let what = format!("{tokens} tokens, {query} and {key_value} heads of {dim}{kind}");
    let flop = attention_flop(tokens, query * dim, causal);
    Case::new(format!("attention/{name}"), what, Some(flop), move |inputs| {
        let qkv = inputs.activation(&[1, tokens, heads.fused_width()])?;
        // As the text encoder calls it, which is the one that is causal.
        let lengths = if causal { Some(inputs.numbers(&[tokens as u32])?) } else { None };
        call(move |b: &B| b.attention(&qkv, heads, Mask { causal, lengths: lengths.as_ref() }).map(Some))
    })
}

fn qk_norm_rope<B: Backend + 'static>(name: &str, tokens: usize, heads: Heads, halves: bool) -> Case<B> {
    let Heads { query, key_value, dim } = heads;
    let what = format!("{tokens} tokens, {query} and {key_value} heads of {dim}");
    Case::new(format!("qk_norm_rope/{name}"), what, None, move |inputs| {
        let mut qkv = inputs.in_place(&[1, tokens, heads.fused_width()])?;
        // Values stay what they are: a third of it is neither read nor written.
        inputs.uncounted(2 * tokens * key_value * dim);
        let norm_rope = NormRope::new(inputs, tokens, dim, halves)?;
        call(move |b: &B| b.qk_norm_rope(&mut qkv, heads, norm_rope.how()).map(|()| None))
    })
}

fn project_qkv<B: Backend + 'static>(name: &str, tokens: usize, width: usize, heads: Heads, halves: bool) -> Case<B> {
    let n = heads.fused_width();
    let what = format!("[{tokens}, {width}] · [{n}, {width}]ᵀ, heads of {} normed and rotated", heads.dim);
    Case::new(format!("project_qkv/{name}"), what, Some(linear_flop(tokens, n, width)), move |inputs| {
        let (x, w) = (inputs.activation(&[1, tokens, width])?, inputs.linear(n, width, false)?);
        let norm_rope = NormRope::new(inputs, tokens, heads.dim, halves)?;
        call(move |b: &B| b.project_qkv(&x, &w, heads, norm_rope.how()).map(Some))
    })
}

/// The norms and the rotation of heads.
struct NormRope<B: Backend> {
    norms: [B::Tensor; 2],
    rotation: B::Tensor,
    pairs: RopePairs,
}

impl<B: Backend> NormRope<B> {
    fn new(inputs: &mut Inputs<'_, B>, tokens: usize, dim: usize, halves: bool) -> Result<Self> {
        let norms = [inputs.vector("norm", dim)?, inputs.vector("norm", dim)?];
        let turned = |i: usize| (i as f32 * 0.01).sin_cos();
        let table: Vec<f32> = (0..tokens * dim / 2).flat_map(|i| [turned(i).1, turned(i).0]).collect();
        let rotation = inputs.floats(&[1, tokens, dim / 2, 2], &table)?;
        Ok(Self { norms, rotation, pairs: if halves { RopePairs::Halves } else { RopePairs::Interleaved } })
    }

    fn how(&self) -> QkNormRope<'_, B::Tensor> {
        let [q_norm, k_norm] = &self.norms;
        QkNormRope { q_norm, k_norm, eps: 1e-5, rotation: &self.rotation, pairs: self.pairs }
    }
}

fn residual_norm<B: Backend + 'static>(name: &str, tokens: usize, width: usize, modulated: bool) -> Case<B> {
    let what = format!("[{tokens}, {width}]{}", if modulated { ", modulated" } else { "" });
    Case::new(format!("residual_norm/{name}"), what, None, move |inputs| {
        let (mut x, y) = (inputs.in_place(&[1, tokens, width])?, inputs.activation(&[1, tokens, width])?);
        let [post, pre] = [inputs.vector("norm", width)?, inputs.vector("norm", width)?];
        let table = inputs.activation(&[1, 2, width])?;
        call(move |b: &B| {
            let row = |row| modulated.then_some(Modulation { table: &table, row });
            let branch = Branch { y: &y, norm: modulated.then_some(&post), gate: row(0), eps: 1e-5 };
            b.residual_norm(&mut x, branch, RmsNorm { weight: &pre, scale: row(1), eps: 1e-5 }).map(Some)
        })
    })
}

/// What the image transformer does once a step.
fn ends<B: Backend + 'static>(sizes: &Sizes<'_>) -> Vec<Case<B>> {
    let config = &sizes.config.transformer;
    let (d, adaln, patch, values) = (config.dim, config.adaln_dim(), config.patch_size, config.patch_dim());
    let (image, caption, size) = (sizes.image_tokens(), sizes.caption_tokens(), sizes.latents());
    let (tokens, blocks) = (image + caption, config.n_refiner_layers + config.n_layers);
    let latents = [1, config.in_channels, size[0], size[1]];
    let [frequencies, middle] = [TransformerConfig::FREQUENCIES, TransformerConfig::TIMESTEP_HIDDEN];
    let picture = format!("{image} tokens of {values} values, {d} wide");
    vec![
        Case::new("timestep_embedding".into(), format!("{frequencies} → {middle} → {adaln}"), None, move |inputs| {
            let [w1, w2] = [inputs.linear(middle, frequencies, true)?, inputs.linear(adaln, middle, true)?];
            let (times, step) = (inputs.floats(&[1, 1], &[300.0])?, inputs.numbers(&[0])?);
            call(move |b: &B| b.timestep_embedding(&times, &step, &w1, &w2).map(Some))
        }),
        Case::new(
            "modulation".into(),
            format!("{adaln} → {blocks} × 4 × {d}"),
            None,
            move |inputs: &mut Inputs<'_, B>| {
                let (matrices, biases): (Vec<_>, Vec<_>) =
                    (0..blocks).map(|_| (inputs.matrix(4 * d, adaln).into(), inputs.bias(4 * d))).unzip();
                let (w, t) =
                    (expect_ready(inputs.b.upload_linear(&matrices, &biases))?, inputs.activation(&[1, adaln])?);
                call(move |b: &B| b.modulation(&t, &w, false, d).map(Some))
            },
        ),
        Case::new("embed_patches".into(), picture.clone(), None, move |inputs| {
            let (latents, w) = (inputs.latents(&latents)?, inputs.linear(d, values, true)?);
            let pad = inputs.vector("pad", d)?;
            call(move |b: &B| b.embed_patches(&latents, patch, &w, &pad, image, 1).map(Some))
        }),
        Case::new("join_sequence".into(), format!("{image} + {caption} tokens, {d} wide"), None, move |inputs| {
            let [image, caption] = [inputs.activation(&[1, image, d])?, inputs.activation(&[1, caption, d])?];
            let captions = inputs.numbers(&[0])?;
            call(move |b: &B| b.join_sequence(&image, &caption, &captions).map(Some))
        }),
        Case::new("final_layer".into(), picture, None, move |inputs| {
            let (x, w) = (inputs.activation(&[1, tokens, d])?, inputs.linear(values, d, true)?);
            let table = inputs.activation(&[1, 1, d])?;
            let eps = TransformerConfig::FINAL_NORM_EPS;
            call(move |b: &B| b.final_layer(&x, Modulation { table: &table, row: 0 }, eps, &w, patch, size).map(Some))
        }),
        Case::new("guide_and_step".into(), format!("{latents:?}, guided"), None, move |inputs| {
            let mut now = inputs.latents_in_place(&latents)?;
            let prediction = inputs.latents(&[2, latents[1], latents[2], latents[3]])?;
            // A row for every call that there may be, of which each reads one.
            let rows = MOST_CALLS * (inputs.runs + 12);
            let table = inputs.floats_uncounted(&[rows, 3], &[1e-4, 4.0, 1.0].repeat(rows))?;
            let mut step = inputs.numbers(&[0])?;
            call(move |b: &B| b.guide_and_step(&mut now, &prediction, &table, &mut step).map(|()| None))
        }),
    ]
}

fn conv2d<B: Backend + 'static>(conv: Conv, count: usize) -> Case<B> {
    let Conv { input, output, side, size: [height, width], upsample, residual } = conv;
    let [high, wide] = conv.written();
    let kind = if upsample { "-up" } else { "" }.to_owned() + if residual { "-residual" } else { "" };
    let name = format!("conv2d/{side}x{side}-{input}-{output}-{wide}{kind}");
    let what = format!("{height}×{width}×{input} → {high}×{wide}×{output}, {count} in the decoder");
    Case::new(name, what, Some(conv.flop()), move |inputs| {
        let (x, w) = (inputs.activation(&[1, height, width, input])?, inputs.kernel(output, input, side)?);
        let geometry = Conv2d { stride: 1, pad: [side / 2; 4], upsample };
        let added = if residual { Some(inputs.activation(&[1, high, wide, output])?) } else { None };
        call(move |b: &B| b.conv2d(&x, &w, geometry, added.as_ref()).map(Some))
    })
}

fn group_norm<B: Backend + 'static>(norm: Norm, groups: usize, count: usize) -> Case<B> {
    let Norm { channels, size: [height, width], silu } = norm;
    let name = format!("group_norm/{channels}-{width}{}", if silu { "-silu" } else { "" });
    let what = format!("{height}×{width}×{channels} in {groups} groups, {count} in the decoder");
    Case::new(name, what, None, move |inputs| {
        let x = inputs.activation(&[1, height, width, channels])?;
        let [weight, bias] = [inputs.vector("norm", channels)?, inputs.vector("bias", channels)?];
        call(move |b: &B| b.group_norm(&x, &weight, &bias, groups, VaeConfig::NORM_EPS, silu).map(Some))
    })
}

/// Into the decoder and out of it.
fn pictures<B: Backend + 'static>(sizes: &Sizes<'_>) -> Vec<Case<B>> {
    let VaeConfig { latent_channels, scaling_factor, shift_factor, .. } = sizes.config.vae;
    let ([height, width], [rows, columns]) = (sizes.picture, sizes.latents());
    let latents = [1, latent_channels, rows, columns];
    vec![
        Case::new("unscale_latents".into(), format!("{latents:?}"), None, move |inputs| {
            let latents = inputs.latents(&latents)?;
            call(move |b: &B| b.unscale_latents(&latents, 0..1, scaling_factor, shift_factor).map(Some))
        }),
        Case::new("to_rgb8".into(), format!("{height}×{width}×3"), None, move |inputs| {
            let x = inputs.activation(&[1, height, width, 3])?;
            call(move |b: &B| b.to_rgb8(&x).map(Some))
        }),
    ]
}
