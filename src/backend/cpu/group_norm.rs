//! `group_norm`: GroupNorm over a channels-last picture, then SiLU.

use super::activation::silu;
use super::parallel::*;
use super::{Cpu, CpuTensor};
use crate::backend::{GroupNormArgs, GroupNormOp};
use crate::error::Result;

/// Values per task, for sums and for scaling.
const CHUNK: usize = 1 << 15;

impl GroupNormOp for Cpu {
    fn run_group_norm(&self, args: GroupNormArgs<'_, CpuTensor>, shape: [usize; 4]) -> Result<CpuTensor> {
        let GroupNormArgs { x, weight, bias, groups, eps, silu } = args;
        let item: usize = shape[1..].iter().product();
        self.fill(&shape, [x, weight, bias], move |[x, weight, bias], out| {
            let (x, weight, bias) = (x.f32()?, weight.f32()?, bias.f32()?);
            for (x, out) in x.chunks_exact(item).zip(out.chunks_exact_mut(item)) {
                group_norm(x, &weight, &bias, groups, eps, silu, out);
            }
            Ok(())
        })
    }
}

/// The norm of one item `[pixels, C]`; `C` is the length of `weight`.
fn group_norm(x: &[f32], weight: &[f32], bias: &[f32], groups: usize, eps: f32, activate: bool, out: &mut [f32]) {
    let channels = weight.len();
    let chunk = (CHUNK / channels).max(1) * channels;
    let count = (x.len() / groups) as f64;
    let mean = per_group(x, chunk, channels, groups, |x, _| f64::from(x)).map(|sum| sum / count);
    let mean: Vec<f64> = mean.collect();
    let variance =
        per_group(x, chunk, channels, groups, |x, g| (f64::from(x) - mean[g]).powi(2)).map(|sum| sum / count);
    let factor: Vec<f64> = variance.map(|variance| 1.0 / (variance + f64::from(eps)).sqrt()).collect();

    // (x − mean)·factor·weight + bias as (x − m)·a + b for each channel: m is the mean as f32, and
    // b corrects its rounding. Subtracting first keeps the digits of values that are close to each
    // other and far from 0.
    let group = |channel: usize| channel * groups / channels;
    let affine = |c: usize| {
        let (mean, scale) = (mean[group(c)], factor[group(c)] * f64::from(weight[c]));
        let m = mean as f32;
        (m, scale as f32, (f64::from(bias[c]) - (mean - f64::from(m)) * scale) as f32)
    };
    let affine: Vec<(f32, f32, f32)> = (0..channels).map(affine).collect();
    out.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(out, x)| {
        for (out, x) in out.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
            for ((o, x), (m, a, b)) in out.iter_mut().zip(x).zip(&affine) {
                let y = (x - m) * a + b;
                *o = if activate { silu(y) } else { y };
            }
        }
    });
}

/// Σ f(x, group) of every group, in f64: a large picture has too many values per group for f32
/// sums.
fn per_group(
    x: &[f32],
    chunk: usize,
    channels: usize,
    groups: usize,
    f: impl Fn(f32, usize) -> f64 + Sync,
) -> impl Iterator<Item = f64> {
    let width = channels / groups;
    let sums = x.par_chunks(chunk).map(|x| {
        let mut sums = vec![0.0f64; groups];
        for (i, values) in x.chunks_exact(width).enumerate() {
            let g = i % groups;
            sums[g] += values.iter().map(|&x| f(x, g)).sum::<f64>();
        }
        sums
    });
    let add = |mut a: Vec<f64>, b: Vec<f64>| {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        a
    };
    // Chunks are added in order, so every run gives the same result.
    sums.collect::<Vec<_>>().into_iter().fold(vec![0.0; groups], add).into_iter()
}
