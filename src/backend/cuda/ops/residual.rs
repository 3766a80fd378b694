//! `residual`, by the kernel of `residual_norm` without a norm of the sum.

use super::residual_norm::branch_and_norm;
use crate::backend::Branch;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::error::Result;

pub(crate) fn residual(gpu: &Gpu, x: &mut CudaTensor, branch: Branch<'_, CudaTensor>) -> Result<()> {
    gpu.make_activation(x)?;
    branch_and_norm(gpu, "residual", x, Some(branch), None).map(drop)
}
