//! `rms_norm`, by the shader of `residual_norm`.

use super::residual_norm::{Norm, launch};
use super::{DType, Result, WebGpu, WebGpuTensor};
use crate::backend::{RmsNormArgs, RmsNormOp};

const OP: &str = "rms_norm";

impl RmsNormOp for WebGpu {
    fn run_rms_norm(&self, args: RmsNormArgs<'_, WebGpuTensor>, shape: [usize; 3]) -> Result<WebGpuTensor> {
        let RmsNormArgs { x, norm } = args;
        let out = self.0.output(OP, &shape, DType::F32)?;
        launch(&self.0, OP, x, shape, None, Some(Norm { norm, out: &out }))?;
        Ok(out)
    }
}
