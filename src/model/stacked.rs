//! The matrices of one gemm.

use crate::tensor::Compute;

/// Matrices that an op reads at once, by name and shape, and the type of their gemm's operands.
pub(super) struct Stacked {
    pub of: Vec<(String, [usize; 2])>,
    pub compute: Compute,
}
