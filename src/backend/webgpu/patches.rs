//! `embed_patches` and `final_layer`: latents to tokens, and tokens back to a velocity.

use super::super::{DType, DeviceTensor, Modulation, shapes};
use super::gpu::Gpu;
use super::matrix::{Stored, WebGpuLinear};
use super::product::{self, FEW, Product, Tile};
use super::program::{Program, wgsl};
use super::recording::Arg;
use super::tensor::WebGpuTensor;
use crate::error::Result;

pub(super) fn embed_patches(
    gpu: &Gpu,
    latents: &WebGpuTensor,
    patch: usize,
    w: &WebGpuLinear,
    pad: &WebGpuTensor,
    tokens: usize,
    copies: usize,
) -> Result<WebGpuTensor> {
    let verb = "embed_patches";
    let dims @ [d, k] = w.matrix.dims();
    let shape = shapes::embed_patches(latents.shape(), patch, dims, pad.shape(), tokens, copies)?;
    let [items, channels, h, wide] = shapes::dims::<4>(verb, "the latents", latents.shape())?;
    let out = gpu.output(verb, &shape, DType::F32)?;
    let (latents, pad) = (gpu.float(latents)?, gpu.float(pad)?);
    let patches = (h / patch) * (wide / patch);
    let parameters = [tokens, patches, wide / patch, patch, channels, h, wide, copies];
    Product {
        verb,
        file: wgsl!("embed_patches"),
        x: Arg::from(&latents),
        aligned: false,
        matrix: &w.matrix,
        m: items * tokens,
        k,
        paired: false,
        width: d,
        out: &out,
        extra: vec![gpu.optional(w.bias.as_ref()), Arg::from(&pad)],
        parameters: parameters.map(|value| value as u32).to_vec(),
        constants: &[("HAS_BIAS", w.bias.is_some())],
    }
    .run_as(gpu, false)?;
    Ok(out)
}

pub(super) fn final_layer(
    gpu: &Gpu,
    x: &WebGpuTensor,
    scale: Modulation<'_, WebGpuTensor>,
    eps: f32,
    w: &WebGpuLinear,
    patch: usize,
    size: [usize; 2],
) -> Result<WebGpuTensor> {
    let verb = "final_layer";
    let dims @ [n, k] = w.matrix.dims();
    let table = scale.table.shape();
    let shape @ [items, channels, h, wide] = shapes::final_layer(x.shape(), table, scale.row, dims, patch, size)?;
    let (tokens, table_rows, shared) = (x.shape()[1], table[1], table[0] == 1);
    let out = gpu.output(verb, &shape, DType::F32)?;
    let (x, table) = (gpu.float(x)?, gpu.float(scale.table)?);
    let patches = (h / patch) * (wide / patch);
    let sizes = [tokens, patches, wide / patch, patch, channels, h, wide, table_rows, scale.row];
    let mut parameters = sizes.map(|value| value as u32).to_vec();
    parameters.push(eps.to_bits());
    Product {
        verb,
        file: wgsl!("final_layer"),
        x: Arg::from(&x),
        aligned: k % 4 == 0,
        matrix: &w.matrix,
        m: items * patches,
        k,
        paired: false,
        width: n,
        out: &out,
        extra: vec![gpu.optional(w.bias.as_ref()), Arg::from(&table)],
        parameters,
        constants: &[("HAS_BIAS", w.bias.is_some()), ("SHARED", shared)],
    }
    .run_as(gpu, false)?;
    Ok(out)
}

/// Every program of these verbs.
pub(super) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    for (stored, tile) in Stored::ALL.into_iter().flat_map(|stored| Tile::ALL.map(|tile| (stored, tile))) {
        let (weights, tile) = (stored.file(), Some(tile));
        let constants = [("HAS_BIAS", true)];
        programs.push(product::program("embed_patches", wgsl!("embed_patches"), false, weights, FEW, tile, &constants));
        for aligned in [false, true] {
            let constants = [("HAS_BIAS", aligned), ("SHARED", !aligned)];
            programs.push(product::program(
                "final_layer",
                wgsl!("final_layer"),
                aligned,
                weights,
                FEW,
                tile,
                &constants,
            ));
        }
    }
    programs
}
