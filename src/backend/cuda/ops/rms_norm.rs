//! `rms_norm`, by the kernel of `residual_norm` without a branch.

use super::residual_norm::{Norm, launch};
use crate::backend::cuda::Cuda;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::backend::{RmsNormArgs, RmsNormOp};
use crate::error::Result;

impl RmsNormOp for Cuda {
    fn run_rms_norm(&self, args: RmsNormArgs<'_, CudaTensor>, shape: [usize; 3]) -> Result<CudaTensor> {
        let RmsNormArgs { x, norm } = args;
        let x = self.gpu.activation(x)?;
        let out = self.gpu.output_operand("rms_norm", &shape, norm.output, 1)?;
        launch(&self.gpu, "rms_norm", &x, None, Some(Norm { norm, out: &out }))?;
        Ok(out)
    }
}
