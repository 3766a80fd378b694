//! `timestep_embedding`: sinusoids of the time, then a two-layer MLP.

use super::linear::CpuLinear;
use super::rows::table_row;
use super::simd::silu;
use super::{Cpu, CpuTensor};
use crate::backend::ops::MAX_PERIOD;
use crate::backend::{DeviceWeight, TimestepEmbeddingArgs, TimestepEmbeddingOp};
use crate::error::Result;
use crate::reserve::zeros;

impl TimestepEmbeddingOp for Cpu {
    fn run_timestep_embedding(
        &self,
        args: TimestepEmbeddingArgs<'_, CpuTensor, CpuLinear>,
        shape: [usize; 2],
    ) -> Result<CpuTensor> {
        let w1 = args.w1.clone();
        let w2 = args.w2.clone();
        self.fill(&shape, [args.times, args.step], move |[times, step], out| {
            let times = times.f32()?;
            timestep_embedding(table_row("timestep_embedding", &times, shape[0], step)?, &w1, &w2, out)
        })
    }
}

/// `W₂·SiLU(W₁·e + b₁) + b₂` for each of `times`; `out` `[R, A]`.
fn timestep_embedding(times: &[f32], w1: &CpuLinear, w2: &CpuLinear, out: &mut [f32]) -> Result<()> {
    let [hidden, width] = w1.dims();
    let half = width / 2;
    let mut sinusoids = zeros(times.len() * width, "the embedding of times")?;
    for (row, &time) in sinusoids.chunks_exact_mut(width).zip(times) {
        for i in 0..half {
            // Every operation rounds to f32, as in diffusers: at u = 1000 the rounding of the angle
            // matters.
            let angle = time * (-MAX_PERIOD.ln() * i as f32 / half as f32).exp();
            row[i] = angle.cos();
            row[half + i] = angle.sin();
        }
    }
    let mut inner = zeros(times.len() * hidden, "the embedding of times")?;
    w1.apply(&sinusoids, &mut inner)?;
    inner.iter_mut().for_each(|x| *x = silu(*x));
    w2.apply(&inner, out)
}
