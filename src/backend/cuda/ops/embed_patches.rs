//! `embed_patches` and `final_layer`: latents to tokens, and tokens back to a velocity.

use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::recording::{Arg, Grid};
use crate::backend::cuda::matrix::CudaLinear;
use crate::backend::cuda::memory::tensor::{CudaTensor, aligned};
use crate::backend::{DeviceTensor, Modulation, shapes};
use crate::error::Result;
use crate::tensor::DType;

/// Threads of every block here.
const BLOCK: usize = 256;
/// Tokens and columns that a block of embed_patches makes.
const EMBEDDED: [usize; 2] = [64, 128];
/// Tokens and columns that a block of final_layer makes.
const FINAL: [usize; 2] = [32, 64];
/// Bytes of shared memory in which the eight warps of that block put their sums, columns four floats apart.
const FINAL_SHARED: usize = 8 * FINAL[1] * (FINAL[0] + 4) * size_of::<f32>();

fn embed_program(patch: usize, bias: bool, aligned_out: usize) -> Program {
    Program::new("embed_patches", &[kernel!("fragments.cuh"), kernel!("embed_patches.cu")])
        .with("PATCH", patch)
        .with("HAS_BIAS", bias)
        .with("ALIGNED_OUT", aligned_out)
}

fn final_program(patch: usize, bias: bool, shared: bool, aligned: usize) -> Program {
    Program::new("final_layer", &[kernel!("fragments.cuh"), kernel!("final_layer.cu")])
        .with("PATCH", patch)
        .with("HAS_BIAS", bias)
        .with("SHARED", shared)
        .with("ALIGNED", aligned)
}

pub(crate) fn embed_patches(
    gpu: &Gpu,
    latents: &CudaTensor,
    patch: usize,
    w: &CudaLinear,
    pad: &CudaTensor,
    tokens: usize,
    copies: usize,
) -> Result<CudaTensor> {
    let verb = "embed_patches";
    let dims @ [d, k] = w.matrix.dims();
    let shape = shapes::embed_patches(latents.shape(), patch, dims, pad.shape(), tokens, copies)?;
    let [items, channels, h, wide] = shapes::dims::<4>(verb, "the latents", latents.shape())?;
    let (patches, stride, m) = ((h / patch) * (wide / patch), w.matrix.stride(), items * tokens);
    let program = embed_program(patch, w.bias.is_some(), aligned(d));
    let out = gpu.output(verb, &shape, DType::Bf16)?;
    let rows = gpu.output(verb, &[items, patches, stride], DType::Bf16)?;
    let (latents, pad) = (gpu.float(latents)?, gpu.float(pad)?);
    let args = [
        Arg::Read(&latents),
        Arg::Write(&rows),
        Arg::U32(rows.len()),
        Arg::U32(k),
        Arg::U32(stride),
        Arg::U32(patches),
        Arg::U32(channels),
        Arg::U32(h),
        Arg::U32(wide),
    ];
    gpu.launch(&program, "gather", Grid::row(rows.len().div_ceil(BLOCK), BLOCK), &args)?;
    let args = [
        Arg::Read(&rows),
        Arg::Weights(&w.matrix),
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
    let blocks = [d.div_ceil(EMBEDDED[1]), m.div_ceil(EMBEDDED[0]), 1];
    gpu.launch(&program, verb, Grid { blocks, threads: BLOCK, shared: 0 }, &args)?;
    Ok(out)
}

pub(crate) fn final_layer(
    gpu: &Gpu,
    x: &CudaTensor,
    scale: Modulation<'_, CudaTensor>,
    eps: f32,
    w: &CudaLinear,
    patch: usize,
    size: [usize; 2],
) -> Result<CudaTensor> {
    let verb = "final_layer";
    let dims @ [n, k] = w.matrix.dims();
    let table = scale.table.shape();
    let shape @ [items, channels, h, wide] = shapes::final_layer(x.shape(), table, scale.row, dims, patch, size)?;
    let (tokens, table_rows, shared) = (x.shape()[1], table[1], table[0] == 1);
    let out = gpu.output(verb, &shape, DType::F32)?;
    let (x, table) = (gpu.activation(x)?, gpu.activation(scale.table)?);
    let patches = (h / patch) * (wide / patch);
    let args = [
        Arg::Read(&x),
        Arg::Read(&table),
        Arg::Weights(&w.matrix),
        Arg::optional(w.bias.as_ref()),
        Arg::Write(&out),
        Arg::U32(n),
        Arg::U32(k),
        Arg::U32(w.matrix.stride()),
        Arg::U32(tokens),
        Arg::U32(patches),
        Arg::U32(table_rows * k),
        Arg::U32(scale.row * k),
        Arg::U32(channels),
        Arg::U32(h),
        Arg::U32(wide),
        Arg::F32(eps),
    ];
    let program = final_program(patch, w.bias.is_some(), shared, aligned(k));
    let blocks = [items * patches.div_ceil(FINAL[0]), n.div_ceil(FINAL[1]), 1];
    gpu.launch(&program, verb, Grid { blocks, threads: BLOCK, shared: FINAL_SHARED }, &args)?;
    Ok(out)
}

/// Every program of these verbs.
pub(crate) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    for (patch, flag) in [(1, false), (2, true), (2, false), (3, true)] {
        programs.push(embed_program(patch, flag, usize::from(flag)));
        programs.extend([0, 1].map(|aligned| final_program(patch, flag, !flag, aligned)));
    }
    programs
}
