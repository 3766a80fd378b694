//! `modulation`: the adaLN linears of every block as one gemv.

use super::linear;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::matrix::CudaLinear;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::backend::{DeviceTensor, shapes};
use crate::error::Result;
use crate::tensor::DType;

pub(crate) fn modulation(gpu: &Gpu, t: &CudaTensor, w: &CudaLinear, silu: bool, width: usize) -> Result<CudaTensor> {
    let shape = shapes::modulation(t.shape(), w.matrix.dims(), width)?;
    let out = gpu.output("modulation", &shape, DType::Bf16)?;
    linear::gemv(gpu, "modulation", &gpu.activation(t)?, w, silu, &out)?;
    Ok(out)
}
