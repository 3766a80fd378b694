//! `normalize_groups`, by the shader of `group_norm`.

use super::group_norm::{Affine, Launch};
use super::{DType, Result, WebGpu, WebGpuTensor};
use crate::backend::{NormalizeGroupsArgs, NormalizeGroupsOp};

const OP: &str = "normalize_groups";

impl NormalizeGroupsOp for WebGpu {
    fn run_normalize_groups(
        &self,
        args: NormalizeGroupsArgs<'_, WebGpuTensor>,
        shape: [usize; 4],
    ) -> Result<WebGpuTensor> {
        let groups = args.groups();
        let NormalizeGroupsArgs { x, moments, weight, bias, eps, silu } = args;
        let launch = Launch::new(&self.0, OP, x, groups, eps)?;
        let out = self.0.output(OP, &shape, DType::F32)?;
        launch.apply(moments, true, Affine { weight, bias, silu, out: &out })?;
        Ok(out)
    }
}
