//! `group_moments`: mean and variance of the groups of a channels-last picture.

use super::group_norm::{Moments, moments};
use super::{Cpu, CpuTensor};
use crate::backend::{DeviceTensor, GroupMomentsArgs, GroupMomentsOp};
use crate::error::Result;

impl GroupMomentsOp for Cpu {
    fn run_group_moments(&self, args: GroupMomentsArgs<'_, CpuTensor>, shape: [usize; 3]) -> Result<CpuTensor> {
        let GroupMomentsArgs { x, groups } = args;
        let item: usize = x.shape()[1..].iter().product();
        let channels = x.shape()[3];
        self.fill(&shape, [x], move |[x], out| {
            for (x, out) in x.f32()?.chunks_exact(item).zip(out.chunks_exact_mut(2 * groups)) {
                for (Moments { mean, variance }, out) in
                    moments(x, channels, groups).iter().zip(out.chunks_exact_mut(2))
                {
                    out.copy_from_slice(&[*mean as f32, *variance as f32]);
                }
            }
            Ok(())
        })
    }
}
