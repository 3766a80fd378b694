//! `project_qkv`: on Hopper one kernel for wide heads' projections, elsewhere `linear` and `qk_norm_rope`.

use super::attention;
use super::linear;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::gemm::sm90::{self, Sharing};
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::recording::Arg;
use crate::backend::cuda::matrix::CudaLinear;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::backend::{DeviceTensor, Heads, QkNormRope, RopePairs, shapes};
use crate::error::Result;
use crate::tensor::DType;

/// The width of the heads that the kernel takes.
const HEAD: usize = 128;

/// Whether one kernel does it: where its tiles, which are large, are no waste.
fn takes(gpu: &Gpu, m: usize, w: &CudaLinear, heads: Heads, pairs: RopePairs) -> bool {
    let [n, k] = w.matrix.dims();
    sm90::takes(gpu, [k, n])
        && heads.dim == HEAD
        && pairs == RopePairs::Interleaved
        && w.bias.is_none()
        && m > sm90::BESIDE_M
}

pub(crate) fn project_qkv(
    gpu: &Gpu,
    x: &CudaTensor,
    w: &CudaLinear,
    heads: Heads,
    how: QkNormRope<'_, CudaTensor>,
) -> Result<CudaTensor> {
    let verb = "project_qkv";
    let [n, k] = w.matrix.dims();
    let shape = shapes::linear(verb, x.shape(), [n, k])?;
    let m = shape.iter().product::<usize>() / n;
    if !takes(gpu, m, w, heads, how.pairs) {
        let mut qkv = linear::linear(gpu, x, w)?;
        attention::qk_norm_rope(gpu, &mut qkv, heads, how)?;
        return Ok(qkv);
    }
    let QkNormRope { q_norm, k_norm, eps, rotation, .. } = how;
    shapes::qk_norm_rope(&shape, heads, q_norm.shape(), k_norm.shape(), rotation.shape())?;
    let tokens = shape[1];
    let out = gpu.output(verb, &shape, DType::Bf16)?;
    let x = gpu.activation(x)?;
    let (q_norm, k_norm, rotation) = (gpu.float(q_norm)?, gpu.float(k_norm)?, gpu.float(rotation)?);
    let stride = if rotation.shape()[0] == 1 { 0 } else { tokens * heads.dim };
    let product = sm90::Product {
        verb,
        file: kernel!("sm90/project_qkv.cu"),
        constants: &[],
        m,
        weights: &w.matrix,
        columns: 0..n,
        left: sm90::rows(verb, &x, [m, k], 64),
        out: sm90::rows(verb, &out, [m, n], 64),
        sharing: Sharing::Beside,
    };
    let between = [Arg::Read(&q_norm), Arg::Read(&k_norm), Arg::Read(&rotation)];
    let sizes = [m, n, k, tokens, heads.query, heads.key_value, stride].map(Arg::U32);
    product.run(gpu, &between, &[&sizes[..], &[Arg::F32(eps)]].concat())?;
    Ok(out)
}

/// Every program of this verb's own, which are for Hopper alone.
pub(crate) fn hopper_programs() -> Vec<Program> {
    sm90::programs("project_qkv", kernel!("sm90/project_qkv.cu"), &[], Sharing::Beside)
}
