//! `group_moments`, by kernels of `group_norm`.

use super::group_norm::Launch;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::backend::{GroupMomentsArgs, GroupMomentsOp};
use crate::error::Result;

impl GroupMomentsOp for Cuda {
    fn run_group_moments(&self, args: GroupMomentsArgs<'_, CudaTensor>, _: [usize; 3]) -> Result<CudaTensor> {
        let GroupMomentsArgs { x, groups } = args;
        // The constant SILU is that of the norm before a convolution: the same program.
        Launch::new(&self.gpu, "group_moments", x, groups, true)?.moments(None)
    }
}
