//! `residual`, by the shader of `residual_norm`.

use super::residual_norm::launch;
use crate::backend::webgpu::WebGpu;
use crate::backend::webgpu::memory::tensor::WebGpuTensor;
use crate::backend::{ResidualArgs, ResidualOp};
use crate::error::Result;

impl ResidualOp for WebGpu {
    fn run_residual(&self, args: ResidualArgs<'_, WebGpuTensor>, shape: [usize; 3]) -> Result<()> {
        launch(&self.0, "residual", args.x, shape, Some(args.branch), None)
    }
}
