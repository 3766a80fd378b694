//! `normalize_groups`, by kernels of `group_norm`.

use super::group_norm::{Affine, Launch};
use crate::backend::cuda::Cuda;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::backend::{NormalizeGroupsArgs, NormalizeGroupsOp};
use crate::error::Result;
use crate::tensor::DType;

const OP: &str = "normalize_groups";

impl NormalizeGroupsOp for Cuda {
    fn run_normalize_groups(&self, args: NormalizeGroupsArgs<'_, CudaTensor>, shape: [usize; 4]) -> Result<CudaTensor> {
        let groups = args.groups();
        let NormalizeGroupsArgs { x, moments, weight, bias, eps, silu } = args;
        let launch = Launch::new(&self.gpu, OP, x, groups, silu)?;
        let moments = launch.inverted(moments, eps)?;
        let out = self.gpu.output(OP, &shape, DType::Bf16)?;
        launch.apply(&moments, Affine { weight, bias, out: &out })?;
        Ok(out)
    }
}
