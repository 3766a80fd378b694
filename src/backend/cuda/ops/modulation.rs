//! `modulation`: the adaLN linears of every block as one gemv.

use super::linear;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::matrix::CudaLinear;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::backend::{ModulationArgs, ModulationOp};
use crate::error::Result;
use crate::tensor::DType;

impl ModulationOp for Cuda {
    fn run_modulation(
        &self,
        args: ModulationArgs<'_, CudaTensor, CudaLinear>,
        shape: [usize; 3],
    ) -> Result<CudaTensor> {
        let gpu = &self.gpu;
        let ModulationArgs { t, w, silu, .. } = args;
        let out = gpu.output("modulation", &shape, DType::Bf16)?;
        linear::gemv(gpu, "modulation", &gpu.activation(t)?, w, silu, &out)?;
        Ok(out)
    }
}
