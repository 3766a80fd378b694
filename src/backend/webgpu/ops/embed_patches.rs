//! `embed_patches` and `final_layer`: latents to tokens, and tokens back to a velocity.

use crate::backend::webgpu::gemm::{self as product, Product, Rows, Verb};
use crate::backend::webgpu::launch::binding::Binding;
use crate::backend::webgpu::launch::gpu::Gpu;
use crate::backend::webgpu::launch::program::{Program, wgsl};
use crate::backend::webgpu::matrix::WebGpuLinear;
use crate::backend::webgpu::memory::tensor::WebGpuTensor;
use crate::backend::{DeviceTensor, Modulation, shapes};
use crate::error::Result;
use crate::tensor::DType;

/// Both are small next to a block, and the latents and the velocity are what the picture is made of: F32.
const EMBED: Verb = Verb {
    name: "embed_patches",
    files: &[wgsl!("embed_patches")],
    fours: None,
    eights: None,
    paired: false,
    prologue: false,
    rows: Rows::Never,
};
const FINAL: Verb = Verb { name: "final_layer", files: &[wgsl!("final_layer")], prologue: true, ..EMBED };

pub(crate) fn embed_patches(
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
    let (latents, pad) = (gpu.float(verb, latents)?, gpu.float(verb, pad)?);
    let patches = (h / patch) * (wide / patch);
    let parameters = [tokens, patches, wide / patch, patch, channels, h, wide, copies];
    Product {
        verb: EMBED,
        x: &latents,
        row: 1,
        matrix: &w.matrix,
        m: items * tokens,
        k,
        width: d,
        out: &out,
        extra: vec![gpu.optional(w.bias.as_ref()), Binding::from(&pad)],
        parameters: parameters.map(|value| value as u32).to_vec(),
        constants: vec![("HAS_BIAS", w.bias.is_some())],
    }
    .run(gpu)?;
    Ok(out)
}

pub(crate) fn final_layer(
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
    let (x, table) = (gpu.float(verb, x)?, gpu.float(verb, scale.table)?);
    let patches = (h / patch) * (wide / patch);
    let sizes = [tokens, patches, wide / patch, patch, channels, h, wide, table_rows, scale.row];
    let mut parameters = sizes.map(|value| value as u32).to_vec();
    parameters.push(eps.to_bits());
    Product {
        verb: FINAL,
        x: &x,
        row: k,
        matrix: &w.matrix,
        m: items * patches,
        k,
        width: n,
        out: &out,
        extra: vec![gpu.optional(w.bias.as_ref()), Binding::from(&table)],
        parameters,
        constants: vec![("HAS_BIAS", w.bias.is_some()), ("SHARED", shared)],
    }
    .run(gpu)?;
    Ok(out)
}

/// Every program of these verbs.
pub(crate) fn programs() -> Vec<Program> {
    let mut programs = product::programs(EMBED, &[false], &[("HAS_BIAS", true)]);
    for aligned in [false, true] {
        programs.extend(product::programs(FINAL, &[aligned], &[("HAS_BIAS", aligned), ("SHARED", !aligned)]));
    }
    programs
}
