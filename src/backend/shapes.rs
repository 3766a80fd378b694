//! The shape rules of the verbs, once for every backend: each function checks what a verb is given and returns the
//! shape of what it returns. A backend that calls them refuses the same tensors with the same sentence as the others.
//!
//! No size is 0: nothing that a model does is empty, and a launch over nothing is an error on some devices.

use super::{Conv2d, Heads};
use crate::error::{Error, Result};

/// Returns the error `verb: problem` unless `holds`.
fn ensure(holds: bool, verb: &'static str, problem: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::shape(verb, problem())) }
}

/// `shape` as exactly `N` sizes.
pub(crate) fn dims<const N: usize>(verb: &'static str, what: &str, shape: &[usize]) -> Result<[usize; N]> {
    filled(verb, what, shape)?;
    shape.try_into().map_err(|_| Error::shape(verb, format!("{what} must have {N} dimensions, has shape {shape:?}")))
}

/// Checks that no size of `shape` is 0.
fn filled(verb: &'static str, what: &str, shape: &[usize]) -> Result<()> {
    ensure(!shape.contains(&0), verb, || format!("{what} has nothing in it, its shape is {shape:?}"))
}

/// Checks that `shape` is `expected`.
pub(crate) fn same(verb: &'static str, what: &str, shape: &[usize], expected: &[usize]) -> Result<()> {
    ensure(shape == expected, verb, || format!("{what} must have shape {expected:?}, has {shape:?}"))
}

/// `x` `[…, K]` times `[N, K]`; returns `[…, N]`.
pub(crate) fn linear(verb: &'static str, x: &[usize], [n, k]: [usize; 2]) -> Result<Vec<usize>> {
    filled(verb, "x", x)?;
    ensure(x.last() == Some(&k), verb, || format!("a matrix [{n}, {k}] cannot multiply {x:?}"))?;
    let mut out = x.to_vec();
    out[x.len() - 1] = n;
    Ok(out)
}

/// `table` `[V, D]`, `ids` `[…]`; returns `[…, D]`.
pub(crate) fn gather_rows(table: &[usize], ids: &[usize]) -> Result<Vec<usize>> {
    let [_, width] = dims::<2>("gather_rows", "the table", table)?;
    filled("gather_rows", "the ids", ids)?;
    Ok([ids, &[width]].concat())
}

/// A norm over `[B, T, D]` with weight `[D]`; returns `[B, T, D]`.
pub(crate) fn norm(verb: &'static str, x: &[usize], weight: &[usize]) -> Result<[usize; 3]> {
    let [b, t, d] = dims::<3>(verb, "x", x)?;
    same(verb, "the norm's weight", weight, &[d])?;
    Ok([b, t, d])
}

/// A modulation table `[R, n, D]` whose `row` modulates `[B, T, D]`; `R` is 1 or `B`.
pub(crate) fn modulated(verb: &'static str, table: &[usize], row: usize, [b, _, d]: [usize; 3]) -> Result<()> {
    let [r, n, width] = dims::<3>(verb, "the modulation table", table)?;
    ensure((r == 1 || r == b) && row < n && width == d, verb, || {
        format!("row {row} of a modulation table {table:?} does not fit {b} items of width {d}")
    })
}

/// A fused projection; returns `[B, T]`.
pub(crate) fn fused(verb: &'static str, qkv: &[usize], heads: Heads) -> Result<[usize; 2]> {
    let [b, t, width] = dims::<3>(verb, "the fused projection", qkv)?;
    ensure(heads.key_value > 0 && heads.query > 0 && heads.query.is_multiple_of(heads.key_value), verb, || {
        format!("{} query heads cannot share {} key heads", heads.query, heads.key_value)
    })?;
    ensure(width == heads.fused_width(), verb, || {
        format!("{heads:?} need a fused projection {} wide, not {width}", heads.fused_width())
    })?;
    Ok([b, t])
}

/// The arguments of `qk_norm_rope`.
pub(crate) fn qk_norm_rope(
    qkv: &[usize],
    heads: Heads,
    q_norm: &[usize],
    k_norm: &[usize],
    rotation: &[usize],
) -> Result<()> {
    let verb = "qk_norm_rope";
    let [b, t] = fused(verb, qkv, heads)?;
    same(verb, "the query norm", q_norm, &[heads.dim])?;
    same(verb, "the key norm", k_norm, &[heads.dim])?;
    ensure(heads.dim.is_multiple_of(2), verb, || format!("a head of {} cannot be rotated in pairs", heads.dim))?;
    let fits = rotation == [1, t, heads.dim / 2, 2] || rotation == [b, t, heads.dim / 2, 2];
    ensure(fits, verb, || format!("a rotation {rotation:?} does not fit {qkv:?} with heads of {}", heads.dim))
}

/// The arguments of `attention`; returns `[B, T, query·dim]`.
pub(crate) fn attention(qkv: &[usize], heads: Heads, lengths: Option<&[usize]>) -> Result<[usize; 3]> {
    let [b, t] = fused("attention", qkv, heads)?;
    if let Some(lengths) = lengths {
        same("attention", "the key lengths", lengths, &[b])?;
    }
    Ok([b, t, heads.query * heads.dim])
}

/// The arguments of `timestep_embedding`; returns `[R, A]`.
pub(crate) fn timestep_embedding(
    times: &[usize],
    step: &[usize],
    w1: [usize; 2],
    w2: [usize; 2],
) -> Result<[usize; 2]> {
    let verb = "timestep_embedding";
    let [_, r] = dims::<2>(verb, "the table of times", times)?;
    same(verb, "the step", step, &[1])?;
    ensure(w1[1].is_multiple_of(2) && w2[1] == w1[0], verb, || {
        format!("the matrices {w1:?} and {w2:?} do not follow sinusoids and each other")
    })?;
    Ok([r, w2[0]])
}

/// The arguments of `modulation`; returns `[R, n, width]`.
pub(crate) fn modulation(t: &[usize], w: [usize; 2], width: usize) -> Result<[usize; 3]> {
    let [r, a] = dims::<2>("modulation", "the timestep embedding", t)?;
    ensure(a == w[1] && width > 0 && w[0].is_multiple_of(width), "modulation", || {
        format!("a matrix {w:?} does not make rows of {width} from {t:?}")
    })?;
    Ok([r, w[0] / width, width])
}

/// The arguments of `embed_patches`; returns `[copies·B, tokens, D]`.
pub(crate) fn embed_patches(
    latents: &[usize],
    patch: usize,
    w: [usize; 2],
    pad: &[usize],
    tokens: usize,
    copies: usize,
) -> Result<[usize; 3]> {
    let verb = "embed_patches";
    let [b, c, height, width] = dims::<4>(verb, "the latents", latents)?;
    ensure(patch > 0 && height.is_multiple_of(patch) && width.is_multiple_of(patch), verb, || {
        format!("{height}×{width} latents have no whole patches of {patch}")
    })?;
    ensure(w[1] == patch * patch * c, verb, || format!("a matrix {w:?} does not take patches of {patch}·{patch}·{c}"))?;
    same(verb, "the pad token", pad, &[w[0]])?;
    let patches = (height / patch) * (width / patch);
    ensure(tokens >= patches, verb, || format!("{patches} patches do not fit {tokens} tokens"))?;
    ensure(copies > 0, verb, || format!("{copies} copies of {latents:?} are no batch"))?;
    Ok([copies * b, tokens, w[0]])
}

/// The arguments of `pad_rows`.
pub(crate) fn pad_rows(x: &[usize], token: &[usize], lengths: &[usize]) -> Result<()> {
    let [b, _, d] = dims::<3>("pad_rows", "x", x)?;
    same("pad_rows", "the token", token, &[d])?;
    same("pad_rows", "the lengths", lengths, &[b])
}

/// The arguments of `join_sequence`; returns `[N, S + T, D]`.
pub(crate) fn join_sequence(image: &[usize], caption: &[usize], captions: &[usize]) -> Result<[usize; 3]> {
    let verb = "join_sequence";
    let [b, s, d] = dims::<3>(verb, "the image", image)?;
    let [_, t, width] = dims::<3>(verb, "the caption", caption)?;
    let [n] = dims::<1>(verb, "the caption of each item", captions)?;
    ensure(width == d && b > 0 && n.is_multiple_of(b), verb, || {
        format!("images {image:?} and captions {caption:?} do not make {n} sequences")
    })?;
    Ok([n, s + t, d])
}

/// The arguments of `final_layer`; returns `[B, C, H, W]`.
pub(crate) fn final_layer(
    x: &[usize],
    table: &[usize],
    row: usize,
    w: [usize; 2],
    patch: usize,
    [height, width]: [usize; 2],
) -> Result<[usize; 4]> {
    let verb = "final_layer";
    let [b, t, d] = dims::<3>(verb, "x", x)?;
    modulated(verb, table, row, [b, t, d])?;
    let whole = patch > 0
        && height > 0
        && width > 0
        && height.is_multiple_of(patch)
        && width.is_multiple_of(patch)
        && w[0].is_multiple_of(patch * patch)
        && (height / patch) * (width / patch) <= t;
    ensure(whole && w[1] == d, verb, || {
        format!("{x:?} through a matrix {w:?} does not give {height}×{width} in patches of {patch}")
    })?;
    Ok([b, w[0] / (patch * patch), height, width])
}

/// The arguments of `guide_and_step`.
pub(crate) fn guide_and_step(latents: &[usize], prediction: &[usize], table: &[usize], step: &[usize]) -> Result<()> {
    let verb = "guide_and_step";
    let [b, c, h, w] = dims::<4>(verb, "the latents", latents)?;
    ensure(prediction == latents || prediction == [2 * b, c, h, w], verb, || {
        format!("a prediction {prediction:?} does not fit latents {latents:?}")
    })?;
    let [_, columns] = dims::<2>(verb, "the table of steps", table)?;
    ensure(columns == 3, verb, || format!("the table of steps has {columns} columns, not 3"))?;
    same(verb, "the step", step, &[1])
}

/// The arguments of `conv2d` with a kernel `[O, kh, kw, I]`; returns `[B, H', W', O]`.
pub(crate) fn conv2d(
    x: &[usize],
    kernel: [usize; 4],
    geometry: Conv2d,
    residual: Option<&[usize]>,
) -> Result<[usize; 4]> {
    let verb = "conv2d";
    let [b, h, w, i] = dims::<4>(verb, "x", x)?;
    let [o, kh, kw, channels] = kernel;
    let s = if geometry.upsample { 2 } else { 1 };
    let [top, left, bottom, right] = geometry.pad;
    let (h, w) = (s * h + top + bottom, s * w + left + right);
    ensure(channels == i && geometry.stride > 0 && h >= kh && w >= kw && kh > 0 && kw > 0, verb, || {
        format!("a kernel {kernel:?} with {geometry:?} does not fit {x:?}")
    })?;
    let out = [b, (h - kh) / geometry.stride + 1, (w - kw) / geometry.stride + 1, o];
    if let Some(residual) = residual {
        same(verb, "the residual", residual, &out)?;
    }
    Ok(out)
}

/// The arguments of `group_norm`; returns `[B, H, W, C]`.
pub(crate) fn group_norm(x: &[usize], weight: &[usize], bias: &[usize], groups: usize) -> Result<[usize; 4]> {
    let verb = "group_norm";
    let out @ [_, _, _, c] = dims::<4>(verb, "x", x)?;
    same(verb, "the weight", weight, &[c])?;
    same(verb, "the bias", bias, &[c])?;
    ensure(groups > 0 && c.is_multiple_of(groups), verb, || format!("{c} channels do not make {groups} groups"))?;
    Ok(out)
}

/// `[B, C, H, W]` of latents as `[B, H, W, C]`.
pub(crate) fn unscale_latents(latents: &[usize]) -> Result<[usize; 4]> {
    let [b, c, h, w] = dims::<4>("unscale_latents", "the latents", latents)?;
    Ok([b, h, w, c])
}

/// The first `channels` of `[B, H, W, C]` as latents `[B, channels, H, W]`.
pub(crate) fn scale_latents(x: &[usize], channels: usize) -> Result<[usize; 4]> {
    let [b, h, w, c] = dims::<4>("scale_latents", "x", x)?;
    ensure(channels > 0 && channels <= c, "scale_latents", || format!("{x:?} does not hold {channels} channels"))?;
    Ok([b, channels, h, w])
}
