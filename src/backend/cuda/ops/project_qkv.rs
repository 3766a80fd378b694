//! `project_qkv`: one kernel on Hopper for heads of 128, else `linear` and `qk_norm_rope`, whose
//! kernel then also writes FP8.

use super::qk_norm_rope;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{File, Program, kernel};
use crate::backend::cuda::gemm::sm90::{
    self, A_SHARED_TILE_M, BOX_BYTES, BOX_COLUMNS, BOX_ROWS, Rows, Sharing, Sm90Gemm, Tiles,
};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::tensor_map::TensorMap;
use crate::backend::cuda::matrix::CudaLinear;
use crate::backend::cuda::memory::projection::Projection;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::backend::ops::project_in_two_ops;
use crate::backend::{
    DeviceTensor, DeviceWeight, Heads, LinearArgs, LinearOp, ProjectQkvArgs, ProjectQkvOp, QkNormRope, QkNormRopeArgs,
    RopePairs,
};
use crate::error::Result;
use crate::tensor::{Compute, DType};

const SM90: File = kernel!("sm90/project_qkv.cu");
const FP8_SM90: File = kernel!("sm90/project_qkv_fp8.cu");
/// The width of the fused kernel's heads.
const HEAD: usize = 128;
/// Columns or tokens of a box that it writes in FP8.
const PROJECTION_BOX: usize = 64;

/// True if the fused kernel can run and its large tiles are no waste.
fn is_fused(gpu: &Gpu, m: usize, w: &CudaLinear, heads: Heads, pairs: RopePairs) -> bool {
    let [n, k] = w.dims();
    sm90::supports(gpu, [k, n])
        && heads.dim == HEAD
        && pairs == RopePairs::Interleaved
        && w.bias.is_none()
        && m > A_SHARED_TILE_M
}

/// The constants of a program besides those of its gemm.
fn constants(output: Compute) -> [(&'static str, usize); 1] {
    [("QKV_FP8", usize::from(output == Compute::Fp8))]
}

impl ProjectQkvOp for Cuda {
    fn run_project_qkv(
        &self,
        args: ProjectQkvArgs<'_, CudaTensor, CudaLinear>,
        shape: [usize; 3],
    ) -> Result<CudaTensor> {
        let op = "project_qkv";
        let gpu = &self.gpu;
        let ProjectQkvArgs { x, w, heads, how, output } = args;
        let [n, k] = w.dims();
        let [items, tokens, _] = shape;
        let m = items * tokens;
        if !is_fused(gpu, m, w, heads, how.pairs) {
            if output == Compute::Native {
                return project_in_two_ops(self, ProjectQkvArgs { x, w, heads, how, output }, shape);
            }
            let mut qkv = self.run_linear(LinearArgs { x, w }, &shape)?;
            let out = gpu.output_projection(op, Projection::new([items, tokens], heads))?;
            let args = QkNormRopeArgs { qkv: &mut qkv, heads, how };
            qk_norm_rope::launch(gpu, args, [items, tokens], Some(&out))?;
            return Ok(out);
        }
        let QkNormRope { q_norm, k_norm, eps, rotation, .. } = how;
        let (out, [out_map, values_map]) = match output {
            Compute::Native => {
                let out = gpu.output(op, &shape, DType::Bf16)?;
                let map = sm90::row_map(op, &out, [m, n], BOX_COLUMNS);
                (out, [map.clone(), map])
            }
            Compute::Fp8 => {
                let out = gpu.output_projection(op, Projection::new([items, tokens], heads))?;
                let maps = TensorMap::of_projection(op, &out, PROJECTION_BOX);
                (out, maps)
            }
        };
        // The tiles of a projection in FP8 are of the tokens of an item.
        let padded = match output {
            Compute::Native => m,
            Compute::Fp8 => items * tokens.next_multiple_of(A_SHARED_TILE_M),
        };
        let x_map = |x: &CudaTensor, columns| match output {
            Compute::Native => sm90::row_map(op, x, [m, k], columns),
            Compute::Fp8 => TensorMap::new(op, x, &[k, tokens, items], k, &[columns, BOX_ROWS]),
        };
        let q_norm = gpu.float(q_norm)?;
        let k_norm = gpu.float(k_norm)?;
        let rotation_stride = if rotation.shape()[0] == 1 { 0 } else { tokens * heads.dim };
        let epilogue = [Arg::Read(&q_norm), Arg::Read(&k_norm), Arg::Read(rotation)];
        let sizes = [padded, n, k, tokens, heads.query, heads.key_value, rotation_stride].map(Arg::U32);
        let rest = [Arg::F32(eps), Arg::Map(&values_map), Arg::write_scales(&out)];
        let sizes = [&sizes[..], &rest].concat();
        let constants = constants(output);
        let gemm = |file, weights, x, columns| Sm90Gemm {
            op,
            file,
            constants: &constants,
            m: padded,
            weights,
            columns: 0..n,
            a: x_map(x, columns),
            out: out_map.clone(),
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
    let outputs = [Compute::Native, Compute::Fp8];
    [SM90, FP8_SM90]
        .into_iter()
        .flat_map(|file| outputs.map(|output| (file, constants(output))))
        .flat_map(|(file, constants)| sm90::programs("project_qkv", file, &constants, Sharing::A, Tiles::Any))
        .collect()
}
