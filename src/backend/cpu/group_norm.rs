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
            let norm = Affine { weight: &weight, bias: &bias, eps, silu };
            for (x, out) in x.chunks_exact(item).zip(out.chunks_exact_mut(item)) {
                normalize(x, &moments(x, weight.len(), groups), norm, out);
            }
            Ok(())
        })
    }
}

/// A group of neighbouring channels in one item.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moments {
    pub mean: f64,
    /// Biased.
    pub variance: f64,
}

/// The step after the moments.
#[derive(Clone, Copy)]
pub(super) struct Affine<'a> {
    /// `[C]`.
    pub weight: &'a [f32],
    /// `[C]`.
    pub bias: &'a [f32],
    pub eps: f32,
    pub silu: bool,
}

/// Values of a task: whole pixels.
fn chunk(channels: usize) -> usize {
    (CHUNK / channels).max(1) * channels
}

/// The moments of the groups of one item `[pixels, channels]`.
pub(super) fn moments(x: &[f32], channels: usize, groups: usize) -> Vec<Moments> {
    let count = (x.len() / groups) as f64;
    let of_groups = |centers: &[f64], square| {
        let mut means = vec![0.0; groups];
        let sums = per_channel(x, chunk(channels), centers, square).into_iter().enumerate();
        sums.for_each(|(c, sum)| means[c * groups / channels] += sum / count);
        means
    };
    let mean = of_groups(&vec![0.0; channels], false);
    let centers: Vec<f64> = (0..channels).map(|c| mean[c * groups / channels]).collect();
    let variance = of_groups(&centers, true);
    mean.into_iter().zip(variance).map(|(mean, variance)| Moments { mean, variance }).collect()
}

/// The norm of one item `[pixels, C]` by the moments of its groups.
pub(super) fn normalize(x: &[f32], moments: &[Moments], norm: Affine<'_>, out: &mut [f32]) {
    let Affine { weight, bias, eps, silu } = norm;
    let channels = weight.len();
    let factor = |of: &Moments| 1.0 / (of.variance + f64::from(eps)).sqrt();
    let factors: Vec<f64> = moments.iter().map(factor).collect();

    // (x − mean)·factor·weight + bias as (x − m)·a + b for each channel: m is the mean as f32, and
    // b corrects its rounding. Subtracting first keeps the digits of values that are close to each
    // other and far from 0.
    let mut affine = [(); 3].map(|()| vec![0.0f32; channels]);
    for c in 0..channels {
        let group = c * moments.len() / channels;
        let (mean, scale) = (moments[group].mean, factors[group] * f64::from(weight[c]));
        let m = mean as f32;
        [affine[0][c], affine[1][c]] = [m, scale as f32];
        affine[2][c] = (f64::from(bias[c]) - (mean - f64::from(m)) * scale) as f32;
    }
    let chunk = chunk(channels);
    out.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(out, x)| scale_and_shift(x, &affine, silu, out));
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
