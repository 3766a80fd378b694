//! `residual`, by the shader of `residual_norm`.

use super::residual_norm::launch;
use super::{Result, WebGpu, WebGpuTensor};
use crate::backend::{ResidualArgs, ResidualOp};

impl ResidualOp for WebGpu {
    fn run_residual(&self, args: ResidualArgs<'_, WebGpuTensor>, shape: [usize; 3]) -> Result<()> {
        launch(&self.0, "residual", args.x, shape, Some(args.branch), None)
    }
}
