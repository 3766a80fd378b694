//! `linear`: a gemm with a stored matrix.

use super::matrix::StoredMatrix;
use super::{Cpu, CpuTensor};
use crate::backend::{DeviceWeight, LinearArgs, LinearOp};
use crate::error::Result;
use crate::tensor::{Compute, HostTensor, Weight};
use std::sync::Arc;

/// The matrix of a linear layer and its bias.
#[derive(Debug, Clone)]
pub struct CpuLinear {
    matrix: StoredMatrix,
    bias: Option<Arc<[f32]>>,
    compute: Compute,
}

impl DeviceWeight<2> for CpuLinear {
    fn dims(&self) -> [usize; 2] {
        self.matrix.dims()
    }

    fn compute(&self) -> Compute {
        self.compute
    }
}

impl CpuLinear {
    /// `out = x·Wᵀ + b`; `x` `[M, K]`, `out` `[M, N]`.
    pub(super) fn apply(&self, x: &[f32], out: &mut [f32]) -> Result<()> {
        self.matrix.apply(x, self.bias.as_deref(), out)
    }
}

impl LinearOp for Cpu {
    type Linear = CpuLinear;

    async fn run_upload_linear(
        &self,
        parts: &[Weight<'_>],
        biases: &[HostTensor],
        dims: [usize; 2],
    ) -> Result<CpuLinear> {
        let bias = (!biases.is_empty()).then(|| biases.iter().flat_map(HostTensor::to_f32).collect());
        let compute = parts[0].compute();
        Ok(CpuLinear { matrix: StoredMatrix::upload(parts, dims).await?, bias, compute })
    }

    fn run_linear(&self, args: LinearArgs<'_, CpuTensor, CpuLinear>, shape: &[usize]) -> Result<CpuTensor> {
        let w = args.w.clone();
        self.fill(shape, [args.x], move |[x], out| w.apply(&x.f32()?, out))
    }
}
