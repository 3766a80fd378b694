//! `unscale_latents`: latents as input of the autoencoder's decoder.

use super::{Cpu, CpuTensor};
use crate::backend::{UnscaleLatentsArgs, UnscaleLatentsOp};
use crate::error::Result;

impl UnscaleLatentsOp for Cpu {
    fn run_unscale_latents(&self, args: UnscaleLatentsArgs<'_, CpuTensor>, shape: [usize; 4]) -> Result<CpuTensor> {
        let UnscaleLatentsArgs { latents, items, scale, shift } = args;
        let [n, h, w, c] = shape;
        let item = c * h * w;
        let elements = items.start * item..(items.start + n) * item;
        self.fill(&shape, [latents], move |[latents], out| {
            unscale_latents(&latents.f32()?[elements.clone()], c, h * w, scale, shift, out);
            Ok(())
        })
    }
}

/// `out[y, x, c] = latents[c, y, x] / scale + shift` for every item of `channels` planes of
/// `pixels`.
fn unscale_latents(latents: &[f32], channels: usize, pixels: usize, scale: f32, shift: f32, out: &mut [f32]) {
    let items = latents.chunks_exact(channels * pixels).zip(out.chunks_exact_mut(channels * pixels));
    for (latents, out) in items {
        for (p, out) in out.chunks_exact_mut(channels).enumerate() {
            out.iter_mut().enumerate().for_each(|(c, o)| *o = latents[c * pixels + p] / scale + shift);
        }
    }
}
