//! `rms_norm`, by the kernel of `residual_norm` without a branch.

use super::residual_norm::branch_and_norm;
use crate::backend::RmsNorm;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::error::Result;

pub(crate) fn rms_norm(gpu: &Gpu, x: &CudaTensor, norm: RmsNorm<'_, CudaTensor>) -> Result<Option<CudaTensor>> {
    branch_and_norm(gpu, "rms_norm", &gpu.activation(x)?, None, Some(norm))
}
