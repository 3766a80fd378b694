//! `rms_norm`: RMSNorm, optionally times (1 + scale).

use super::parallel::*;
use super::rows::{ModulationRow, Rows, or};
use super::simd::sum;
use super::{Cpu, CpuTensor};
use crate::backend::{RmsNormArgs, RmsNormOp};
use crate::error::Result;
use crate::tensor::Fp8Scales;
use multiversion::multiversion;

impl RmsNormOp for Cpu {
    fn run_rms_norm(&self, args: RmsNormArgs<'_, CpuTensor>, shape: [usize; 3]) -> Result<CpuTensor> {
        let RmsNormArgs { x, norm } = args;
        let [_, tokens, _] = shape;
        let scale = norm.scale.map(ModulationRow::new);
        let table = or(norm.scale.map(|scale| scale.table), norm.weight);
        let eps = norm.eps;
        self.fill_operand(
            (norm.output, Fp8Scales::Rows),
            &shape,
            [x, norm.weight, table],
            move |[x, weight, table], out| {
                let (weight, table) = (weight.f32()?, table.f32()?);
                let norm = Norm { weight: &weight, scale: scale.map(|scale| scale.of(&table)), eps };
                rms_norm(&x.f32()?, tokens, norm, out);
                Ok(())
            },
        )
    }
}

/// One RMSNorm over rows as wide as its weight.
#[derive(Clone, Copy)]
pub(super) struct Norm<'a> {
    pub weight: &'a [f32],
    pub scale: Option<Rows<'a>>,
    pub eps: f32,
}

impl Norm<'_> {
    /// `out = x / √(mean(x²) + eps) · weight · (1 + scale)` for one token of batch item `item`.
    #[inline(always)]
    pub(super) fn row(&self, x: &[f32], item: usize, out: &mut [f32]) {
        let factor = inverse_rms(x, self.eps);
        match self.scale.map(|scale| scale.item(item, x.len())) {
            Some(scale) => {
                for (((o, x), w), s) in out.iter_mut().zip(x).zip(self.weight).zip(scale) {
                    *o = x * factor * w * (1.0 + s);
                }
            }
            None => out.iter_mut().zip(x).zip(self.weight).for_each(|((o, x), w)| *o = x * factor * w),
        }
    }
}

/// `1 / √(mean(x²) + eps)`.
#[inline(always)]
pub(super) fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum(x, |x| x * x) / x.len() as f32 + eps).sqrt()
}

/// The norm of every token, with `tokens` tokens per item.
fn rms_norm(x: &[f32], tokens: usize, norm: Norm<'_>, out: &mut [f32]) {
    let width = norm.weight.len();
    out.par_chunks_mut(width)
        .zip(x.par_chunks(width))
        .enumerate()
        .for_each(|(t, (out, x))| norm_row(norm, x, t / tokens, out));
}

#[multiversion(targets = "simd")]
fn norm_row(norm: Norm<'_>, x: &[f32], item: usize, out: &mut [f32]) {
    norm.row(x, item, out);
}
