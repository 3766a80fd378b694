//! `embed_patches`: patches gathered as rows, then a gemm that adds pad tokens and copies.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::kernel::Grid;
use crate::backend::cuda::matrix::CudaLinear;
use crate::backend::cuda::memory::tensor::{CudaTensor, aligned};
use crate::backend::{DeviceWeight, EmbedPatchesArgs, EmbedPatchesOp};
use crate::error::Result;
use crate::tensor::DType;

/// Threads of a CTA.
const THREADS: usize = 256;
/// Tokens and columns of a CTA's tile.
const TILE_TOKENS: usize = 64;
const TILE_COLUMNS: usize = 128;

fn program(patch: usize, bias: bool, aligned_out: usize) -> Program {
    Program::new("embed_patches", kernel!("embed_patches.cu"))
        .with("PATCH", patch)
        .with("HAS_BIAS", bias)
        .with("ALIGNED_OUT", aligned_out)
}

impl EmbedPatchesOp for Cuda {
    fn run_embed_patches(
        &self,
        args: EmbedPatchesArgs<'_, CudaTensor, CudaLinear>,
        shape: [usize; 3],
    ) -> Result<CudaTensor> {
        let op = "embed_patches";
        let gpu = &self.gpu;
        let EmbedPatchesArgs { latents, patch, w, pad, tokens, copies } = args;
        let [d, k] = w.dims();
        let [items, channels, height, width] = latents.dims();
        let patches = (height / patch) * (width / patch);
        let matrix = w.matrix.dense(gpu, op)?;
        let stride = matrix.stride();
        let program = program(patch, w.bias.is_some(), aligned(d));
        let out = gpu.output(op, &shape, DType::Bf16)?;
        let rows = gpu.output(op, &[items, patches, stride], DType::Bf16)?;
        let pad = gpu.float(pad)?;
        let args = [
            Arg::Read(latents),
            Arg::Write(&rows),
            Arg::U32(rows.len()),
            Arg::U32(k),
            Arg::U32(stride),
            Arg::U32(patches),
            Arg::U32(channels),
            Arg::U32(height),
            Arg::U32(width),
        ];
        gpu.launch(&program, "gather", Grid::covering(rows.len(), THREADS, 1), &args)?;
        let m = items * tokens;
        let args = [
            Arg::Read(&rows),
            matrix.arg(),
            Arg::optional(w.bias.as_ref()),
            Arg::Read(&pad),
            Arg::Write(&out),
            Arg::U32(m),
            Arg::U32(d),
            Arg::U32(stride),
            Arg::U32(tokens),
            Arg::U32(patches),
            Arg::U32(copies),
        ];
        let ctas = [d.div_ceil(TILE_COLUMNS), m.div_ceil(TILE_TOKENS), 1];
        gpu.launch(&program, op, Grid { ctas, threads: THREADS, shared: 0 }, &args)?;
        Ok(out)
    }
}

/// Programs for several patches, with and without bias.
pub(crate) fn programs() -> Vec<Program> {
    [(1, false), (2, true), (2, false), (3, true)].map(|(patch, flag)| program(patch, flag, usize::from(flag))).to_vec()
}
