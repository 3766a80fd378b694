//! `linear` and `modulation`: products with a stored matrix.

use super::activation::silu;
use super::matrix::StoredMatrix;
use crate::error::Result;
use crate::reserve;
use std::sync::Arc;

/// The matrix of a linear layer and its bias.
#[derive(Debug, Clone)]
pub struct CpuLinear {
    pub(super) matrix: StoredMatrix,
    pub(super) bias: Option<Arc<[f32]>>,
}

impl CpuLinear {
    /// `[N, K]`.
    pub(super) fn dims(&self) -> [usize; 2] {
        self.matrix.dims()
    }

    /// `out = x·Wᵀ + b`; `x` `[M, K]`, `out` `[M, N]`.
    pub(super) fn apply(&self, x: &[f32], out: &mut [f32]) -> Result<()> {
        self.matrix.apply(x, self.bias.as_deref(), out)
    }
}

/// `W·a + b` with `a = t`, or `SiLU(t)` when `activate`.
pub(super) fn modulation(t: &[f32], w: &CpuLinear, activate: bool, out: &mut [f32]) -> Result<()> {
    if !activate {
        return w.apply(t, out);
    }
    let mut activated = reserve::copied(t, "a modulation")?;
    activated.iter_mut().for_each(|t| *t = silu(*t));
    w.apply(&activated, out)
}
