//! `normalize_groups`: GroupNorm with given moments over a channels-last picture, then SiLU.

use super::group_norm::{Affine, Moments, normalize};
use super::{Cpu, CpuTensor};
use crate::backend::{NormalizeGroupsArgs, NormalizeGroupsOp};
use crate::error::Result;

impl NormalizeGroupsOp for Cpu {
    fn run_normalize_groups(&self, args: NormalizeGroupsArgs<'_, CpuTensor>, shape: [usize; 4]) -> Result<CpuTensor> {
        let groups = args.groups();
        let NormalizeGroupsArgs { x, moments, weight, bias, eps, silu } = args;
        let item: usize = shape[1..].iter().product();
        self.fill(&shape, [x, moments, weight, bias], move |[x, moments, weight, bias], out| {
            let (x, moments, weight, bias) = (x.f32()?, moments.f32()?, weight.f32()?, bias.f32()?);
            let norm = Affine { weight: &weight, bias: &bias, eps, silu };
            let items = x.chunks_exact(item).zip(moments.chunks_exact(2 * groups)).zip(out.chunks_exact_mut(item));
            for ((x, moments), out) in items {
                let of = |pair: &[f32]| Moments { mean: pair[0].into(), variance: pair[1].into() };
                let moments: Vec<Moments> = moments.chunks_exact(2).map(of).collect();
                normalize(x, &moments, norm, out);
            }
            Ok(())
        })
    }
}
