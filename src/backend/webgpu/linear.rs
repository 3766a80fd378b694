//! `linear`, `swiglu`, `modulation` and `timestep_embedding`: products with a stored matrix.

use super::super::{DType, DeviceTensor, shapes};
use super::elementwise;
use super::gpu::Gpu;
use super::matrix::{Stored, WebGpuLinear, WebGpuSwiGlu};
use super::product::{self, FEW, Product, Tile};
use super::program::{Program, wgsl};
use super::recording::Arg;
use super::tensor::WebGpuTensor;
use crate::error::Result;

/// The sinusoids' longest period over 2π.
const MAX_PERIOD: f32 = 10_000.0;

/// `x·Wᵀ + b`, or `SiLU(x)·Wᵀ + b`, into `out`.
fn product(
    gpu: &Gpu,
    verb: &'static str,
    x: &WebGpuTensor,
    w: &WebGpuLinear,
    silu: bool,
    out: &WebGpuTensor,
) -> Result<()> {
    let [n, k] = w.matrix.dims();
    let x = gpu.float(x)?;
    Product {
        verb,
        file: wgsl!("linear"),
        x: Arg::from(&x),
        aligned: k % 4 == 0,
        matrix: &w.matrix,
        m: out.len() / n.max(1),
        k,
        paired: false,
        width: n,
        out,
        extra: vec![gpu.optional(w.bias.as_ref())],
        parameters: Vec::new(),
        constants: &[("HAS_BIAS", w.bias.is_some()), ("SILU", silu)],
    }
    .run(gpu)
}

pub(super) fn linear(gpu: &Gpu, x: &WebGpuTensor, w: &WebGpuLinear) -> Result<WebGpuTensor> {
    let shape = shapes::linear("linear", x.shape(), w.matrix.dims())?;
    let out = gpu.output("linear", &shape, DType::F32)?;
    product(gpu, "linear", x, w, false, &out)?;
    Ok(out)
}

pub(super) fn modulation(
    gpu: &Gpu,
    t: &WebGpuTensor,
    w: &WebGpuLinear,
    silu: bool,
    width: usize,
) -> Result<WebGpuTensor> {
    let shape = shapes::modulation(t.shape(), w.matrix.dims(), width)?;
    let out = gpu.output("modulation", &shape, DType::F32)?;
    product(gpu, "modulation", t, w, silu, &out)?;
    Ok(out)
}

pub(super) fn swiglu(gpu: &Gpu, x: &WebGpuTensor, w: &WebGpuSwiGlu) -> Result<WebGpuTensor> {
    let dims @ [hidden, k] = w.matrix.dims();
    let shape = shapes::linear("swiglu", x.shape(), dims)?;
    let out = gpu.output("swiglu", &shape, DType::F32)?;
    let x = gpu.float(x)?;
    Product {
        verb: "swiglu",
        file: wgsl!("swiglu"),
        x: Arg::from(&x),
        aligned: k % 4 == 0,
        matrix: &w.matrix,
        m: out.len() / hidden.max(1),
        k,
        paired: true,
        width: hidden,
        out: &out,
        extra: Vec::new(),
        parameters: Vec::new(),
        constants: &[],
    }
    .run(gpu)?;
    Ok(out)
}

pub(super) fn timestep_embedding(
    gpu: &Gpu,
    times: &WebGpuTensor,
    step: &WebGpuTensor,
    w1: &WebGpuLinear,
    w2: &WebGpuLinear,
) -> Result<WebGpuTensor> {
    let verb = "timestep_embedding";
    let shape @ [r, _] = shapes::timestep_embedding(times.shape(), step.shape(), w1.matrix.dims(), w2.matrix.dims())?;
    elementwise::needs_rows(verb, times)?;
    let [hidden, k] = w1.matrix.dims();
    // The exponential of a GPU is not exact enough for angles of 1000: the host computes the frequencies once.
    let frequencies =
        gpu.table(k / 2, |half| (0..half).map(|i| (-MAX_PERIOD.ln() * i as f32 / half as f32).exp()).collect())?;
    let times = gpu.float(times)?;
    let inner = gpu.output(verb, &[r, hidden], DType::F32)?;
    Product {
        verb,
        file: wgsl!("timestep_embedding"),
        x: Arg::from(&frequencies),
        aligned: false,
        matrix: &w1.matrix,
        m: r,
        k,
        paired: false,
        width: hidden,
        out: &inner,
        extra: vec![gpu.optional(w1.bias.as_ref()), Arg::from(&times), Arg::from(step)],
        parameters: vec![times.shape()[0] as u32],
        constants: &[("HAS_BIAS", w1.bias.is_some())],
    }
    .run_as(gpu, true)?;
    let out = gpu.output(verb, &shape, DType::F32)?;
    product(gpu, verb, &inner, w2, false, &out)?;
    Ok(out)
}

/// Every program of these verbs.
pub(super) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    for stored in Stored::ALL {
        let weights = stored.file();
        for aligned in [false, true] {
            let tiles = Tile::ALL.map(Some).into_iter().chain([None]);
            for tile in tiles {
                let few = if aligned { FEW } else { 1 };
                let constants = [("HAS_BIAS", aligned), ("SILU", !aligned)];
                programs.push(product::program("linear", wgsl!("linear"), aligned, weights, few, tile, &constants));
                if tile.is_none_or(|tile| tile.tn > 1) {
                    programs.push(product::program("swiglu", wgsl!("swiglu"), aligned, weights, few, tile, &[]));
                }
            }
        }
        let file = wgsl!("timestep_embedding");
        programs.push(product::program("timestep_embedding", file, false, weights, 1, None, &[("HAS_BIAS", true)]));
    }
    programs
}
