//! `embed_patches` and `final_layer`: latents to tokens, and tokens back to a velocity.

use super::super::{DType, DeviceTensor, Modulation, shapes};
use super::gpu::Gpu;
use super::matrix::CudaLinear;
use super::product::{self, Product};
use super::program::{Program, kernel};
use super::recording::{Arg, Grid};
use super::tensor::{CudaTensor, aligned};
use crate::error::Result;

pub(super) fn embed_patches(
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
    let out = gpu.output(verb, &shape, DType::Bf16)?;
    let (latents, pad) = (gpu.float(latents)?, gpu.float(pad)?);
    let args = [
        Arg::Read(&latents),
        Arg::Weights(&w.matrix),
        Arg::optional(w.bias.as_ref()),
        Arg::Read(&pad),
        Arg::Write(&out),
        Arg::U32(items * tokens),
        Arg::U32(d),
        Arg::U32(k),
        Arg::U32(w.matrix.stride()),
        Arg::U32(tokens),
        Arg::U32((h / patch) * (wide / patch)),
        Arg::U32(channels),
        Arg::U32(h),
        Arg::U32(wide),
        Arg::U32(copies),
    ];
    let constants = [("PATCH", patch), ("HAS_BIAS", usize::from(w.bias.is_some())), ("ALIGNED_OUT", aligned(d))];
    Product { verb, file: kernel!("embed_patches.cu"), m: items * tokens, n: d, args: &args }.tiled(gpu, &constants)?;
    Ok(out)
}

/// Threads of a block that finds the moments of four tokens.
const MOMENTS_BLOCK: usize = 128;

/// What the kernel of the final layer is compiled for, besides its tile.
fn constants(patch: usize, bias: bool, shared: bool) -> [(&'static str, usize); 3] {
    [("PATCH", patch), ("HAS_BIAS", usize::from(bias)), ("SHARED", usize::from(shared))]
}

fn moments_program() -> Program {
    Program::new("final_layer", &[kernel!("moments.cu")])
}

pub(super) fn final_layer(
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
    let moments = gpu.output(verb, &[items * tokens, 2], DType::F32)?;
    let args = [Arg::Read(&x), Arg::Write(&moments), Arg::U32(items * tokens), Arg::U32(k), Arg::F32(eps)];
    let grid = Grid::row((items * tokens).div_ceil(MOMENTS_BLOCK / 32), MOMENTS_BLOCK);
    gpu.launch(&moments_program(), "moments", grid, &args)?;
    let patches = (h / patch) * (wide / patch);
    let args = [
        Arg::Read(&x),
        Arg::Read(&moments),
        Arg::Read(&table),
        Arg::Weights(&w.matrix),
        Arg::optional(w.bias.as_ref()),
        Arg::Write(&out),
        Arg::U32(items * patches),
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
    ];
    let product = Product { verb, file: kernel!("final_layer.cu"), m: items * patches, n, args: &args };
    product.tiled(gpu, &constants(patch, w.bias.is_some(), shared))?;
    Ok(out)
}

/// Every program of these verbs.
pub(super) fn programs() -> Vec<Program> {
    let mut programs = vec![moments_program()];
    for (patch, flag) in [(1, false), (2, true), (2, false), (3, true)] {
        let embed = [("PATCH", patch), ("HAS_BIAS", usize::from(flag)), ("ALIGNED_OUT", usize::from(flag))];
        programs.extend(product::some_tiled("embed_patches", kernel!("embed_patches.cu"), &embed));
        programs.extend(product::some_tiled("final_layer", kernel!("final_layer.cu"), &constants(patch, flag, !flag)));
    }
    programs
}
