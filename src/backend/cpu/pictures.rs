//! `unscale_latents`, `scale_latents`, `normalize_rgb8`, `to_rgb8`: the two ends of the autoencoder.

use super::parallel::*;
use crate::backend::level;
use crate::error::{Error, Result};

/// `out[y, x, c] = latents[c, y, x] / scale + shift` for every item of `channels` planes of `pixels`.
pub(super) fn unscale_latents(
    latents: &[f32],
    channels: usize,
    pixels: usize,
    scale: f32,
    shift: f32,
    out: &mut [f32],
) {
    let items = latents.chunks_exact(channels * pixels).zip(out.chunks_exact_mut(channels * pixels));
    for (latents, out) in items {
        for (p, out) in out.chunks_exact_mut(channels).enumerate() {
            out.iter_mut().enumerate().for_each(|(c, o)| *o = latents[c * pixels + p] / scale + shift);
        }
    }
}

/// `out[c, y, x] = (x[y, x, c] − shift)·scale` for the first `channels` of `stored`.
pub(super) fn scale_latents(
    x: &[f32],
    stored: usize,
    channels: usize,
    pixels: usize,
    scale: f32,
    shift: f32,
    out: &mut [f32],
) {
    for (x, out) in x.chunks_exact(stored * pixels).zip(out.chunks_exact_mut(channels * pixels)) {
        for (i, o) in out.iter_mut().enumerate() {
            let (c, p) = (i / pixels, i % pixels);
            *o = (x[p * stored + c] - shift) * scale;
        }
    }
}

/// `pixel/127.5 − 1`.
pub(super) fn normalize_rgb8(pixels: &[u8], out: &mut [f32]) {
    out.par_iter_mut().zip(pixels).for_each(|(o, &p)| *o = f32::from(p) / 127.5 - 1.0);
}

/// `round(255·clamp(x/2 + 1/2, 0, 1))`, halves to even.
pub(super) fn to_rgb8(x: &[f32], out: &mut [u8]) -> Result<()> {
    if !x.par_iter().all(|x| x.is_finite()) {
        return Err(Error::NonFinitePicture);
    }
    out.par_iter_mut().zip(x).for_each(|(o, x)| *o = level(*x));
    Ok(())
}
