//! `qk_norm_rope`: the norm and the rotation of query and key heads, in place, or to a projection
//! in FP8.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::kernel::{Grid, WARP};
use crate::backend::cuda::memory::tensor::{CudaTensor, VECTOR};
use crate::backend::{DeviceTensor, QkNormRope, QkNormRopeArgs, QkNormRopeOp, RopePairs};
use crate::error::Result;
use crate::tensor::{Compute, FP8_BLOCK};

/// Threads of a CTA.
const THREADS: usize = 128;

/// The lanes that share a head with one vector each, if vectors fit the head.
fn lanes(dim: usize) -> Option<usize> {
    let lanes = dim / VECTOR;
    let fits = dim.is_multiple_of(2 * VECTOR) && lanes.is_power_of_two() && lanes <= WARP;
    fits.then_some(lanes)
}

fn program(dim: usize, pairs: RopePairs, output: Compute) -> Program {
    Program::new("qk_norm_rope", kernel!("qk_norm_rope.cu"))
        .with("HEAD", dim)
        .with("INTERLEAVED", pairs == RopePairs::Interleaved)
        .with("FAST", lanes(dim).is_some())
        .with("TEAM", lanes(dim).unwrap_or(WARP))
        .with("QKV_FP8", output == Compute::Fp8)
        .pdl()
}

impl QkNormRopeOp for Cuda {
    fn run_qk_norm_rope(&self, args: QkNormRopeArgs<'_, CudaTensor>, tokens: [usize; 2]) -> Result<()> {
        launch(&self.gpu, args, tokens, None)
    }
}

/// Norms and rotates the heads of a projection of `tokens` tokens for each of `items` items in
/// place, or writes them and the values to `fp8`, another projection, in FP8.
pub(super) fn launch(
    gpu: &Gpu,
    args: QkNormRopeArgs<'_, CudaTensor>,
    [items, tokens]: [usize; 2],
    fp8: Option<&CudaTensor>,
) -> Result<()> {
    let op = "qk_norm_rope";
    let QkNormRopeArgs { qkv, heads, how } = args;
    let QkNormRope { q_norm, k_norm, eps, rotation, pairs } = how;
    let q_norm = gpu.float(q_norm)?;
    let k_norm = gpu.float(k_norm)?;
    let rotation_stride = if rotation.shape()[0] == 1 { 0 } else { tokens * heads.dim };
    let args = [
        Arg::Write(qkv),
        Arg::Read(&q_norm),
        Arg::Read(&k_norm),
        Arg::Read(rotation),
        Arg::U32(tokens),
        Arg::U32(items * tokens),
        Arg::U32(heads.query),
        Arg::U32(heads.key_value),
        Arg::U32(rotation_stride),
        Arg::F32(eps),
        fp8.map_or(Arg::Absent, Arg::Write),
        fp8.map_or(Arg::Absent, Arg::write_scales),
    ];
    let normed = items * tokens * (heads.query + heads.key_value);
    let per_cta = THREADS / lanes(heads.dim).unwrap_or(WARP);
    // A CTA for each block of values of another projection.
    let blocks = fp8.and_then(CudaTensor::projection).map_or(0, |fp8| items * heads.key_value * fp8.value_blocks());
    let grid = Grid::linear(normed.div_ceil(per_cta) + blocks, THREADS);
    let output = if fp8.is_some() { Compute::Fp8 } else { Compute::Native };
    gpu.launch(&program(heads.dim, pairs, output), op, grid, &args)
}

/// Programs that write FP8.
pub(crate) fn fp8_programs() -> Vec<Program> {
    [RopePairs::Interleaved, RopePairs::Halves].map(|pairs| program(FP8_BLOCK, pairs, Compute::Fp8)).to_vec()
}

/// Programs for the models' heads and for odd ones.
pub(crate) fn programs() -> Vec<Program> {
    let pairs = [RopePairs::Interleaved, RopePairs::Halves];
    [2, 64, 128, 256].into_iter().flat_map(|dim| pairs.map(|pairs| program(dim, pairs, Compute::Native))).collect()
}
