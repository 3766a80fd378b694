//! `embed_patches` and `final_layer`: latents to tokens, and tokens back to a velocity.

use super::linear::CpuLinear;
use super::parallel::*;
use super::rms_norm::Rows;
use crate::error::Result;
use crate::reserve::zeros;

/// A picture of `channels` planes, `height`×`width`, cut into squares of `patch`.
#[derive(Clone, Copy)]
pub(super) struct Patches {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub patch: usize,
}

impl Patches {
    /// Squares in the picture.
    pub(super) fn count(&self) -> usize {
        (self.height / self.patch) * (self.width / self.patch)
    }

    fn values(&self) -> usize {
        self.patch * self.patch * self.channels
    }

    /// Where value `i` of patch `t`, listed by (row, column, channel), lies in `[C, H, W]`.
    fn at(&self, t: usize, i: usize) -> usize {
        let across = self.width / self.patch;
        let (row, column, channel) =
            (i / self.channels / self.patch, i / self.channels % self.patch, i % self.channels);
        let (y, x) = (t / across * self.patch + row, t % across * self.patch + column);
        (channel * self.height + y) * self.width + x
    }
}

/// `out[b, t] = W·patch + bias` for the patches of every item, then `pad` up to `tokens`; all items again for as long
/// as `out` is.
pub(super) fn embed_patches(
    latents: &[f32],
    grid: Patches,
    w: &CpuLinear,
    pad: &[f32],
    tokens: usize,
    out: &mut [f32],
) -> Result<()> {
    let item = grid.channels * grid.height * grid.width;
    let mut values = zeros(grid.count() * grid.values(), "the patches of a picture")?;
    let (first, copies) = out.split_at_mut(latents.len() / item * tokens * pad.len());
    for (latents, out) in latents.chunks_exact(item).zip(first.chunks_exact_mut(tokens * pad.len())) {
        for (t, patch) in values.chunks_exact_mut(grid.values()).enumerate() {
            patch.iter_mut().enumerate().for_each(|(i, value)| *value = latents[grid.at(t, i)]);
        }
        let (image, padding) = out.split_at_mut(grid.count() * pad.len());
        w.apply(&values, image)?;
        padding.chunks_exact_mut(pad.len()).for_each(|row| row.copy_from_slice(pad));
    }
    copies.chunks_exact_mut(first.len()).for_each(|copy| copy.copy_from_slice(first));
    Ok(())
}

/// `W·(LN(x)·(1 + scale)) + bias` for the first tokens of every item of `tokens`, put back as patches.
pub(super) fn final_layer(
    x: &[f32],
    tokens: usize,
    scale: Rows<'_>,
    eps: f32,
    w: &CpuLinear,
    grid: Patches,
    out: &mut [f32],
) -> Result<()> {
    let [_, width] = w.dims();
    let item = grid.channels * grid.height * grid.width;
    let mut normed = zeros(grid.count() * width, "the tokens of a picture")?;
    let mut values = zeros(grid.count() * grid.values(), "the patches of a picture")?;
    for (b, (x, out)) in x.chunks_exact(tokens * width).zip(out.chunks_exact_mut(item)).enumerate() {
        let scale = scale.of(b, width);
        normed.par_chunks_mut(width).zip(x.par_chunks(width)).for_each(|(out, x)| layer_norm(x, scale, eps, out));
        w.apply(&normed, &mut values)?;
        for (t, patch) in values.chunks_exact(grid.values()).enumerate() {
            patch.iter().enumerate().for_each(|(i, &value)| out[grid.at(t, i)] = value);
        }
    }
    Ok(())
}

/// `out = (x − mean)/√(var + eps)·(1 + scale)`.
fn layer_norm(x: &[f32], scale: &[f32], eps: f32, out: &mut [f32]) {
    let n = x.len() as f32;
    let mean = x.iter().sum::<f32>() / n;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / n;
    let factor = 1.0 / (variance + eps).sqrt();
    out.iter_mut().zip(x).zip(scale).for_each(|((o, x), s)| *o = (x - mean) * factor * (1.0 + s));
}
