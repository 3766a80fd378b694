//! `project_qkv`: one kernel on Hopper for heads of 128, else `linear` and `qk_norm_rope`.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::gemm::sm90::{self, A_SHARED_TILE_M, BOX_COLUMNS, Sharing, Sm90Gemm};
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
        let x = gpu.activation(x)?;
        let q_norm = gpu.float(q_norm)?;
        let k_norm = gpu.float(k_norm)?;
        let rotation_stride = if rotation.shape()[0] == 1 { 0 } else { tokens * heads.dim };
        let matrix = w.matrix.dense(gpu, op)?;
        let gemm = Sm90Gemm {
            op,
            file: kernel!("sm90/project_qkv.cu"),
            constants: &[],
            m,
            weights: &matrix,
            columns: 0..n,
            a: sm90::row_map(op, &x, [m, k], BOX_COLUMNS),
            out: sm90::row_map(op, &out, [m, n], BOX_COLUMNS),
            sharing: Sharing::A,
        };
        let epilogue = [Arg::Read(&q_norm), Arg::Read(&k_norm), Arg::Read(rotation)];
        let sizes = [m, n, k, tokens, heads.query, heads.key_value, rotation_stride].map(Arg::U32);
        gemm.launch(gpu, &epilogue, &[&sizes[..], &[Arg::F32(eps)]].concat())?;
        Ok(out)
    }
}

/// The programs for Hopper.
pub(crate) fn sm90_programs() -> Vec<Program> {
    sm90::programs("project_qkv", kernel!("sm90/project_qkv.cu"), &[], Sharing::A)
}
