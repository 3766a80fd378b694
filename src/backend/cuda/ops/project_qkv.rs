//! `project_qkv`: one kernel on Hopper for heads of 128, else `linear` and `qk_norm_rope`.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{File, Program, kernel};
use crate::backend::cuda::gemm::sm90::{self, A_SHARED_TILE_M, BOX_BYTES, BOX_COLUMNS, Rows, Sharing, Sm90Gemm, Tiles};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::matrix::CudaLinear;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::backend::{
    DeviceTensor, DeviceWeight, Heads, LinearArgs, LinearOp, ProjectQkvArgs, ProjectQkvOp, QkNormRope, QkNormRopeArgs,
    QkNormRopeOp, RopePairs,
};
use crate::error::Result;
use crate::tensor::DType;

const SM90: File = kernel!("sm90/project_qkv.cu");
const FP8_SM90: File = kernel!("sm90/project_qkv_fp8.cu");
/// The width of the fused kernel's heads.
const HEAD: usize = 128;

/// True if the fused kernel can run and its large tiles are no waste.
fn is_fused(gpu: &Gpu, m: usize, w: &CudaLinear, heads: Heads, pairs: RopePairs) -> bool {
    let [n, k] = w.dims();
    sm90::supports(gpu, [k, n])
        && heads.dim == HEAD
        && pairs == RopePairs::Interleaved
        && w.bias.is_none()
        && m > A_SHARED_TILE_M
}

impl ProjectQkvOp for Cuda {
    fn run_project_qkv(
        &self,
        args: ProjectQkvArgs<'_, CudaTensor, CudaLinear>,
        shape: [usize; 3],
    ) -> Result<CudaTensor> {
        let op = "project_qkv";
        let gpu = &self.gpu;
        let ProjectQkvArgs { x, w, heads, how } = args;
        let [n, k] = w.dims();
        let [items, tokens, _] = shape;
        let m = items * tokens;
        if !is_fused(gpu, m, w, heads, how.pairs) {
            let mut qkv = self.run_linear(LinearArgs { x, w }, &shape)?;
            self.run_qk_norm_rope(QkNormRopeArgs { qkv: &mut qkv, heads, how }, [items, tokens])?;
            return Ok(qkv);
        }
        let QkNormRope { q_norm, k_norm, eps, rotation, .. } = how;
        let out = gpu.output(op, &shape, DType::Bf16)?;
        let q_norm = gpu.float(q_norm)?;
        let k_norm = gpu.float(k_norm)?;
        let rotation_stride = if rotation.shape()[0] == 1 { 0 } else { tokens * heads.dim };
        let epilogue = [Arg::Read(&q_norm), Arg::Read(&k_norm), Arg::Read(rotation)];
        let sizes = [m, n, k, tokens, heads.query, heads.key_value, rotation_stride].map(Arg::U32);
        let sizes = [&sizes[..], &[Arg::F32(eps)]].concat();
        let gemm = |file, weights, x, columns| Sm90Gemm {
            op,
            file,
            constants: &[],
            m,
            weights,
            columns: 0..n,
            a: sm90::row_map(op, x, [m, k], columns),
            out: sm90::row_map(op, &out, [m, n], BOX_COLUMNS),
            sharing: Sharing::A,
            tiles: Tiles::Any,
        };
        if let Some(matrix) = w.matrix.as_fp8() {
            let matrix = matrix.staged(gpu, op)?;
            let rows = Rows { tensor: matrix.codes(), dims: [n, k] };
            let epilogue = [&[Arg::read_scales(x), matrix.scales()], &epilogue[..]].concat();
            gemm(FP8_SM90, rows, x, BOX_BYTES).launch(gpu, &epilogue, &sizes)?;
        } else {
            let (x, matrix) = (gpu.activation(x)?, w.matrix.dense(gpu, op)?);
            gemm(SM90, (&*matrix).into(), &x, BOX_COLUMNS).launch(gpu, &epilogue, &sizes)?;
        }
        Ok(out)
    }
}

/// The programs for Hopper.
pub(crate) fn sm90_programs() -> Vec<Program> {
    [SM90, FP8_SM90]
        .into_iter()
        .flat_map(|file| sm90::programs("project_qkv", file, &[], Sharing::A, Tiles::Any))
        .collect()
}
