//! `group_moments`, by the shader of `group_norm`.

use super::group_norm::Launch;
use super::{Result, WebGpu, WebGpuTensor};
use crate::backend::{GroupMomentsArgs, GroupMomentsOp};

impl GroupMomentsOp for WebGpu {
    fn run_group_moments(&self, args: GroupMomentsArgs<'_, WebGpuTensor>, _: [usize; 3]) -> Result<WebGpuTensor> {
        let GroupMomentsArgs { x, groups } = args;
        Launch::new(&self.0, "group_moments", x, groups, 0.0)?.moments(true)
    }
}
