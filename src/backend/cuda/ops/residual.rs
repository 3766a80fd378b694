//! `residual`, by the kernel of `residual_norm` without a norm of the sum.

use super::residual_norm::launch;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::backend::{ResidualArgs, ResidualOp};
use crate::error::Result;

impl ResidualOp for Cuda {
    fn run_residual(&self, args: ResidualArgs<'_, CudaTensor>, _: [usize; 3]) -> Result<()> {
        launch(&self.gpu, "residual", args.x, Some(args.branch), None)
    }
}
