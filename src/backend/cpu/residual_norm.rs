//! `residual_norm`: adds a branch to the residual stream and norms the sum for the next linear.

use super::parallel::*;
use super::residual::{self, BranchRows, Form};
use super::rms_norm::Norm;
use super::rows::{ModulationRow, or};
use super::{Cpu, CpuTensor};
use crate::backend::{ResidualNormArgs, ResidualNormOp};
use crate::error::Result;
use crate::tensor::Fp8Scales;
use multiversion::multiversion;

impl ResidualNormOp for Cpu {
    fn run_residual_norm(&self, args: ResidualNormArgs<'_, CpuTensor>, shape: [usize; 3]) -> Result<CpuTensor> {
        let ResidualNormArgs { x, branch, norm } = args;
        let [_, tokens, width] = shape;
        let form = Form::new(&branch);
        let scale = norm.scale.map(ModulationRow::new);
        let eps = norm.eps;
        let [y, branch_norm, gates] = residual::inputs(&branch);
        let scales = or(norm.scale.map(|scale| scale.table), norm.weight);
        let stream = x.memory();
        let inputs = [y, branch_norm, gates, norm.weight, scales];
        self.fill_operand((norm.output, Fp8Scales::Rows), &shape, inputs, move |inputs, out| {
            let [y, branch_norm, gates, weight, scales] = inputs;
            let branch = form.elements([y, branch_norm, gates], width)?;
            let (weight, scales) = (weight.f32()?, scales.f32()?);
            let norm = Norm { weight: &weight, scale: scale.map(|scale| scale.of(&scales)), eps };
            residual_norm(stream.write().f32_mut()?, tokens, branch.branch(), norm, out);
            Ok(())
        })
    }
}

/// Computes `x += branch` and writes the norm of the new `x` to `out`.
fn residual_norm(x: &mut [f32], tokens: usize, branch: BranchRows<'_>, norm: Norm<'_>, out: &mut [f32]) {
    let width = norm.weight.len();
    x.par_chunks_mut(width)
        .zip(out.par_chunks_mut(width))
        .enumerate()
        .for_each(|(t, (x, out))| add_and_norm(branch, norm, t, t / tokens, x, out));
}

#[multiversion(targets = "simd")]
fn add_and_norm(branch: BranchRows<'_>, norm: Norm<'_>, t: usize, item: usize, x: &mut [f32], out: &mut [f32]) {
    branch.add(t, item, x);
    norm.row(x, item, out);
}
