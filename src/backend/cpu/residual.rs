//! `residual`: adds a branch to the residual stream.

use super::parallel::*;
use super::rms_norm::inverse_rms;
use super::rows::{ItemRows, ModulationRow, or};
use super::tensor::Elements;
use super::{Cpu, CpuTensor};
use crate::backend::{Branch, ResidualArgs, ResidualOp};
use crate::error::Result;
use multiversion::multiversion;
use std::borrow::Cow;

impl ResidualOp for Cpu {
    fn run_residual(&self, args: ResidualArgs<'_, CpuTensor>, [_, tokens, width]: [usize; 3]) -> Result<()> {
        let ResidualArgs { x, branch } = args;
        let form = Form::new(&branch);
        self.update(x, inputs(&branch), move |inputs, x| {
            let elements = form.elements(inputs, width)?;
            residual(x, width, tokens, elements.branch());
            Ok(())
        })
    }
}

/// The tensors of a branch. `y` replaces an absent one.
pub(super) fn inputs<'a>(branch: &Branch<'a, CpuTensor>) -> [&'a CpuTensor; 3] {
    let Branch { y, norm, gate, .. } = *branch;
    [y, or(norm, y), or(gate.map(|gate| gate.table), y)]
}

/// The form of a branch, without its tensors.
#[derive(Clone, Copy)]
pub(super) struct Form {
    norm: bool,
    gate: Option<ModulationRow>,
    eps: f32,
}

impl Form {
    pub(super) fn new(branch: &Branch<'_, CpuTensor>) -> Self {
        Self { norm: branch.norm.is_some(), gate: branch.gate.map(ModulationRow::new), eps: branch.eps }
    }

    /// The branch of `width` with the elements of its [`inputs`].
    pub(super) fn elements<'a>(self, [y, norm, gates]: [&'a Elements; 3], width: usize) -> Result<BranchElements<'a>> {
        let gates = match self.gate {
            Some(row) => Some(row.mapped(&gates.f32()?, width, f32::tanh)?),
            None => None,
        };
        Ok(BranchElements { y: y.f32()?, norm: norm.f32()?, gates, form: self })
    }
}

/// The elements of a branch, owned or borrowed.
pub(super) struct BranchElements<'a> {
    y: Cow<'a, [f32]>,
    norm: Cow<'a, [f32]>,
    /// The tanh of the gates of every item.
    gates: Option<ItemRows>,
    form: Form,
}

impl BranchElements<'_> {
    pub(super) fn branch(&self) -> BranchRows<'_> {
        let Form { norm, eps, .. } = self.form;
        BranchRows { y: &self.y, norm: norm.then_some(&self.norm), gate: self.gates.as_ref(), eps }
    }
}

/// The elements of a branch.
#[derive(Clone, Copy)]
pub(super) struct BranchRows<'a> {
    y: &'a [f32],
    norm: Option<&'a [f32]>,
    gate: Option<&'a ItemRows>,
    eps: f32,
}

impl BranchRows<'_> {
    /// Adds token `t` of the branch, of item `item`, to `x`.
    #[inline(always)]
    pub(super) fn add(&self, t: usize, item: usize, x: &mut [f32]) {
        let width = x.len();
        let y = &self.y[t * width..(t + 1) * width];
        let factor = self.norm.map(|_| inverse_rms(y, self.eps));
        let gate = self.gate.map(|gate| gate.item(item));
        let normed = |y: f32, norm: f32| y * (factor.unwrap_or(1.0) * norm);
        let x = x.iter_mut().zip(y);
        match (self.norm, gate) {
            (None, None) => x.for_each(|(x, y)| *x += y),
            (None, Some(gate)) => x.zip(gate).for_each(|((x, y), gate)| *x += y * gate),
            (Some(norm), None) => x.zip(norm).for_each(|((x, y), norm)| *x += normed(*y, *norm)),
            (Some(norm), Some(gate)) => {
                x.zip(norm).zip(gate).for_each(|(((x, y), norm), gate)| *x += normed(*y, *norm) * gate);
            }
        }
    }
}

/// `x += branch` for every token of `width`, with `tokens` tokens per item.
fn residual(x: &mut [f32], width: usize, tokens: usize, branch: BranchRows<'_>) {
    x.par_chunks_mut(width).enumerate().for_each(|(t, x)| add(branch, t, t / tokens, x));
}

#[multiversion(targets = "simd")]
fn add(branch: BranchRows<'_>, t: usize, item: usize, x: &mut [f32]) {
    branch.add(t, item, x);
}
