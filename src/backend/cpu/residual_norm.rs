//! `residual` and `residual_norm`: add a branch to the residual stream, and norm the result for the next linear.

use super::parallel::*;
use super::rms_norm::{Norm, Rows, inverse_rms};

/// What is added: `tanh(gate) ⊙ RMS(y)·norm`.
#[derive(Clone, Copy)]
pub(super) struct Branch<'a> {
    pub y: &'a [f32],
    pub norm: Option<&'a [f32]>,
    pub gate: Option<Rows<'a>>,
    pub eps: f32,
}

impl Branch<'_> {
    /// Adds token `t` of the branch, of item `item`, to `x`.
    fn add(&self, t: usize, item: usize, x: &mut [f32]) {
        let width = x.len();
        let y = &self.y[t * width..(t + 1) * width];
        let factor = self.norm.map(|_| inverse_rms(y, self.eps));
        let gate = self.gate.map(|gate| gate.of(item, width));
        for (i, x) in x.iter_mut().enumerate() {
            let mut value = y[i];
            if let (Some(norm), Some(factor)) = (self.norm, factor) {
                value *= factor * norm[i];
            }
            if let Some(gate) = gate {
                value *= gate[i].tanh();
            }
            *x += value;
        }
    }
}

/// `x += branch` for every token of `width`; `tokens` of them make an item.
pub(super) fn residual(x: &mut [f32], width: usize, tokens: usize, branch: Branch<'_>) {
    x.par_chunks_mut(width).enumerate().for_each(|(t, x)| branch.add(t, t / tokens, x));
}

/// `x += branch`, and `out` is the norm of the new `x`.
pub(super) fn residual_norm(x: &mut [f32], tokens: usize, branch: Branch<'_>, norm: Norm<'_>, out: &mut [f32]) {
    let width = norm.weight.len();
    x.par_chunks_mut(width).zip(out.par_chunks_mut(width)).enumerate().for_each(|(t, (x, out))| {
        branch.add(t, t / tokens, x);
        norm.row(x, t / tokens, out);
    });
}
