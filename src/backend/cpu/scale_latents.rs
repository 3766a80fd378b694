//! `scale_latents`: the encoder's output as latents.

use super::{Cpu, CpuTensor};
use crate::backend::{DeviceTensor, ScaleLatentsArgs, ScaleLatentsOp};
use crate::error::Result;

impl ScaleLatentsOp for Cpu {
    fn run_scale_latents(&self, args: ScaleLatentsArgs<'_, CpuTensor>, shape: [usize; 4]) -> Result<CpuTensor> {
        let ScaleLatentsArgs { x, channels, scale, shift } = args;
        let [_, _, h, w] = shape;
        let stored = x.shape()[3];
        self.fill(&shape, [x], move |[x], out| {
            scale_latents(&x.f32()?, stored, channels, h * w, scale, shift, out);
            Ok(())
        })
    }
}

/// `out[c, y, x] = (x[y, x, c] − shift)·scale` for the first `channels` of `stored`.
fn scale_latents(x: &[f32], stored: usize, channels: usize, pixels: usize, scale: f32, shift: f32, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(stored * pixels).zip(out.chunks_exact_mut(channels * pixels)) {
        for (i, o) in out.iter_mut().enumerate() {
            let (c, p) = (i / pixels, i % pixels);
            *o = (x[p * stored + c] - shift) * scale;
        }
    }
}
