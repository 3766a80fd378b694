//! `rms_norm`, by the shader of `residual_norm`.

use super::residual_norm::normed;
use crate::backend::webgpu::WebGpu;
use crate::backend::webgpu::memory::tensor::WebGpuTensor;
use crate::backend::{RmsNormArgs, RmsNormOp};
use crate::error::Result;

impl RmsNormOp for WebGpu {
    fn run_rms_norm(&self, args: RmsNormArgs<'_, WebGpuTensor>, shape: [usize; 3]) -> Result<WebGpuTensor> {
        normed(&self.0, "rms_norm", args.x, shape, None, args.norm)
    }
}
