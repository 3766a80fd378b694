//! `group_norm`: GroupNorm over a channels-last picture, then SiLU.

use super::parallel::*;
use super::simd::silu;
use super::{Cpu, CpuTensor};
use crate::backend::{GroupNormArgs, GroupNormOp};
use crate::error::Result;
use multiversion::multiversion;

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
    let group = |channel: usize| channel * groups / channels;
    let of_groups = |sums: Vec<f64>| {
        let mut means = vec![0.0; groups];
        sums.into_iter().enumerate().for_each(|(c, sum)| means[group(c)] += sum / count);
        means
    };
    let mean = of_groups(per_channel(x, chunk, &vec![0.0; channels], false));
    let centers: Vec<f64> = (0..channels).map(|c| mean[group(c)]).collect();
    let variance = of_groups(per_channel(x, chunk, &centers, true));
    let factor: Vec<f64> = variance.into_iter().map(|variance| 1.0 / (variance + f64::from(eps)).sqrt()).collect();

    // (x − mean)·factor·weight + bias as (x − m)·a + b for each channel: m is the mean as f32, and
    // b corrects its rounding. Subtracting first keeps the digits of values that are close to each
    // other and far from 0.
    let mut affine = [(); 3].map(|()| vec![0.0f32; channels]);
    for c in 0..channels {
        let (mean, scale) = (mean[group(c)], factor[group(c)] * f64::from(weight[c]));
        let m = mean as f32;
        [affine[0][c], affine[1][c]] = [m, scale as f32];
        affine[2][c] = (f64::from(bias[c]) - (mean - f64::from(m)) * scale) as f32;
    }
    out.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(out, x)| scale_and_shift(x, &affine, activate, out));
}

/// `(x − m)·a + b` for the m, a and b of each channel, then SiLU if `activate`.
#[multiversion(targets = "simd")]
fn scale_and_shift(x: &[f32], [m, a, b]: &[Vec<f32>; 3], activate: bool, out: &mut [f32]) {
    let channels = m.len();
    let (a, b) = (&a[..channels], &b[..channels]);
    for (out, x) in out.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
        for c in 0..channels {
            out[c] = (x[c] - m[c]) * a[c] + b[c];
        }
    }
    if activate {
        out.iter_mut().for_each(|y| *y = silu(*y));
    }
}

/// Σ (x − center) of every channel, or Σ (x − center)², in f64: a large picture has too many values
/// for f32 sums.
fn per_channel(x: &[f32], chunk: usize, centers: &[f64], square: bool) -> Vec<f64> {
    let sums = x.par_chunks(chunk).map(|x| {
        let mut sums = vec![0.0f64; centers.len()];
        add_pixels(x, centers, square, &mut sums);
        sums
    });
    let add = |mut a: Vec<f64>, b: Vec<f64>| {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        a
    };
    // Chunks are added in order, so every run gives the same result.
    sums.collect::<Vec<_>>().into_iter().fold(vec![0.0; centers.len()], add)
}

#[multiversion(targets = "simd")]
fn add_pixels(x: &[f32], centers: &[f64], square: bool, sums: &mut [f64]) {
    let channels = centers.len();
    let sums = &mut sums[..channels];
    for x in x.chunks_exact(channels) {
        for c in 0..channels {
            let from_center = f64::from(x[c]) - centers[c];
            sums[c] += if square { from_center * from_center } else { from_center };
        }
    }
}
