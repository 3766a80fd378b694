//! `final_layer`: the modulated layer norm and the projection of tokens back to patches.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::kernel::{Grid, WARP};
use crate::backend::cuda::matrix::CudaLinear;
use crate::backend::cuda::memory::tensor::{CudaTensor, aligned};
use crate::backend::{DeviceWeight, FinalLayerArgs, FinalLayerOp};
use crate::error::Result;
use crate::tensor::DType;

/// Threads of a CTA, in eight warps that split k.
const THREADS: usize = 256;
const WARPS: usize = THREADS / WARP;
/// Tokens and columns of a CTA's tile.
const TILE_TOKENS: usize = 32;
const TILE_COLUMNS: usize = 64;
/// Bytes of shared memory for the warps' partial sums, with columns padded by four floats.
const SHARED: usize = WARPS * TILE_COLUMNS * (TILE_TOKENS + 4) * size_of::<f32>();

fn program(patch: usize, bias: bool, shared_table: bool, aligned: usize) -> Program {
    Program::new("final_layer", kernel!("final_layer.cu"))
        .with("PATCH", patch)
        .with("HAS_BIAS", bias)
        .with("SHARED", shared_table)
        .with("ALIGNED", aligned)
}

impl FinalLayerOp for Cuda {
    fn run_final_layer(
        &self,
        args: FinalLayerArgs<'_, CudaTensor, CudaLinear>,
        shape: [usize; 4],
    ) -> Result<CudaTensor> {
        let op = "final_layer";
        let gpu = &self.gpu;
        let FinalLayerArgs { x, scale, eps, w, patch, .. } = args;
        let [n, k] = w.dims();
        let [items, channels, height, width] = shape;
        let [_, tokens, _] = x.dims();
        let [table_items, table_rows, _] = scale.table.dims();
        let program = program(patch, w.bias.is_some(), table_items == 1, aligned(k));
        let out = gpu.output(op, &shape, DType::F32)?;
        let x = gpu.activation(x)?;
        let table = gpu.activation(scale.table)?;
        let patches = (height / patch) * (width / patch);
        let matrix = w.matrix.dense(gpu, op)?;
        let args = [
            Arg::Read(&x),
            Arg::Read(&table),
            matrix.arg(),
            Arg::optional(w.bias.as_ref()),
            Arg::Write(&out),
            Arg::U32(n),
            Arg::U32(k),
            Arg::U32(matrix.stride()),
            Arg::U32(tokens),
            Arg::U32(patches),
            Arg::U32(table_rows * k),
            Arg::U32(scale.row * k),
            Arg::U32(channels),
            Arg::U32(height),
            Arg::U32(width),
            Arg::F32(eps),
        ];
        let ctas = [items * patches.div_ceil(TILE_TOKENS), n.div_ceil(TILE_COLUMNS), 1];
        gpu.launch(&program, op, Grid { ctas, threads: THREADS, shared: SHARED }, &args)?;
        Ok(out)
    }
}

/// Programs for several patches, with and without bias, alignment and a shared table.
pub(crate) fn programs() -> Vec<Program> {
    let patches = [(1, false), (2, true), (2, false), (3, true)].into_iter();
    patches.flat_map(|(patch, flag)| [0, 1].map(|aligned| program(patch, flag, !flag, aligned))).collect()
}
