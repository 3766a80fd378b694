//! `qk_norm_rope`.

use super::{Binding, DeviceTensor, Program, Reduction, Result, WebGpu, WebGpuTensor, uniform, wgsl};
use crate::backend::{QkNormRope, QkNormRopeArgs, QkNormRopeOp, RopePairs};

/// Threads of a workgroup.
const THREADS: usize = 64;

uniform! {
    /// `Params` of `qk_norm_rope.wgsl`.
    struct Params {
        tokens: u32,
        rows: u32,
        query_heads: u32,
        key_heads: u32,
        rotation_stride: u32,
        eps: f32,
    }
}

/// Threads of a head: a power of two up to the workgroup's size, at most one a pair.
fn team(dim: usize) -> usize {
    (dim / 2).next_power_of_two().clamp(1, THREADS)
}

fn program(reduction: Reduction, dim: usize, pairs: RopePairs) -> Program {
    Program::new::<Params>("qk_norm_rope", wgsl!("qk_norm_rope"))
        .with("HEAD", dim)
        .with("INTERLEAVED", pairs == RopePairs::Interleaved)
        .reduces(reduction, THREADS, team(dim))
}

impl QkNormRopeOp for WebGpu {
    fn run_qk_norm_rope(&self, args: QkNormRopeArgs<'_, WebGpuTensor>, [items, tokens]: [usize; 2]) -> Result<()> {
        let QkNormRopeArgs { qkv, heads, how } = args;
        let QkNormRope { q_norm, k_norm, eps, rotation, pairs } = how;
        let rotations = rotation.shape()[0];
        let params = Params {
            tokens: tokens as u32,
            rows: (items * tokens) as u32,
            query_heads: heads.query as u32,
            key_heads: heads.key_value as u32,
            rotation_stride: if rotations == 1 { 0 } else { (tokens * heads.dim) as u32 },
            eps,
        };
        let heads_of_workgroup = THREADS / team(heads.dim);
        let groups = (items * tokens * (heads.query + heads.key_value)).div_ceil(heads_of_workgroup);
        let bindings = [&*qkv, q_norm, k_norm, rotation].map(Binding::from);
        let program = program(self.0.device.variant.reduction(), heads.dim, pairs);
        self.0.dispatch(&program, &bindings, params, groups)
    }
}

/// Every program for heads of the models and for odd ones.
pub(super) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    for dim in [2, 16, 20, 24, 48, 64, 96, 122, 128, 384, 512] {
        for pairs in [RopePairs::Interleaved, RopePairs::Halves] {
            programs.push(program(Reduction::Tree, dim, pairs));
            if team(dim) == THREADS {
                programs.push(program(Reduction::Subgroups, dim, pairs));
            }
        }
    }
    programs
}
