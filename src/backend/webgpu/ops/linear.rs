//! `linear`, `swiglu`, `modulation` and `timestep_embedding`: products with a stored matrix.

use super::elementwise;
use crate::backend::webgpu::gemm::{self as product, Product, Rows, Verb};
use crate::backend::webgpu::launch::binding::Binding;
use crate::backend::webgpu::launch::gpu::Gpu;
use crate::backend::webgpu::launch::program::{Program, wgsl};
use crate::backend::webgpu::matrix::{WebGpuLinear, WebGpuSwiGlu};
use crate::backend::webgpu::memory::tensor::WebGpuTensor;
use crate::backend::{DeviceTensor, shapes};
use crate::error::Result;
use crate::tensor::DType;

/// The sinusoids' longest period over 2π.
const MAX_PERIOD: f32 = 10_000.0;

const LINEAR: Verb = Verb {
    name: "linear",
    files: &[wgsl!("dense"), wgsl!("linear")],
    fours: Some(wgsl!("dense_fours")),
    eights: Some(wgsl!("dense_eights")),
    paired: false,
    prologue: false,
    rows: Rows::Few,
};
/// Its table is small and every block reads it: F32 costs nothing.
const MODULATION: Verb = Verb { name: "modulation", eights: None, ..LINEAR };
const SWIGLU: Verb = Verb { name: "swiglu", files: &[wgsl!("dense"), wgsl!("swiglu")], paired: true, ..LINEAR };
const SINUSOIDS: Verb = Verb {
    name: "timestep_embedding",
    files: &[wgsl!("timestep_embedding")],
    fours: None,
    eights: None,
    paired: false,
    prologue: false,
    rows: Rows::Always,
};

/// `x·Wᵀ + b`, or `SiLU(x)·Wᵀ + b`, into `out`.
fn product(gpu: &Gpu, verb: Verb, x: &WebGpuTensor, w: &WebGpuLinear, silu: bool, out: &WebGpuTensor) -> Result<()> {
    let [n, k] = w.matrix.dims();
    Product {
        verb,
        x: &gpu.float(verb.name, x)?,
        row: k,
        matrix: &w.matrix,
        m: out.len() / n.max(1),
        k,
        width: n,
        out,
        extra: vec![gpu.optional(w.bias.as_ref())],
        parameters: Vec::new(),
        constants: vec![("HAS_BIAS", w.bias.is_some()), ("SILU", silu)],
    }
    .run(gpu)
}

pub(crate) fn linear(gpu: &Gpu, x: &WebGpuTensor, w: &WebGpuLinear) -> Result<WebGpuTensor> {
    let shape = shapes::linear("linear", x.shape(), w.matrix.dims())?;
    let out = gpu.output("linear", &shape, DType::F32)?;
    product(gpu, LINEAR, x, w, false, &out)?;
    Ok(out)
}

pub(crate) fn modulation(
    gpu: &Gpu,
    t: &WebGpuTensor,
    w: &WebGpuLinear,
    silu: bool,
    width: usize,
) -> Result<WebGpuTensor> {
    let shape = shapes::modulation(t.shape(), w.matrix.dims(), width)?;
    let out = gpu.output("modulation", &shape, DType::F32)?;
    product(gpu, MODULATION, t, w, silu, &out)?;
    Ok(out)
}

pub(crate) fn swiglu(gpu: &Gpu, x: &WebGpuTensor, w: &WebGpuSwiGlu) -> Result<WebGpuTensor> {
    let dims @ [hidden, k] = w.matrix.dims();
    let shape = shapes::linear("swiglu", x.shape(), dims)?;
    let out = gpu.output("swiglu", &shape, DType::F32)?;
    Product {
        verb: SWIGLU,
        x: &gpu.float(SWIGLU.name, x)?,
        row: k,
        matrix: &w.matrix,
        m: out.len() / hidden.max(1),
        k,
        width: hidden,
        out: &out,
        extra: Vec::new(),
        parameters: Vec::new(),
        constants: vec![("SILU", false)],
    }
    .run(gpu)?;
    Ok(out)
}

pub(crate) fn timestep_embedding(
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
    let times = gpu.float(verb, times)?;
    let inner = gpu.output(verb, &[r, hidden], DType::F32)?;
    Product {
        verb: SINUSOIDS,
        x: &frequencies,
        row: 1,
        matrix: &w1.matrix,
        m: r,
        k,
        width: hidden,
        out: &inner,
        extra: vec![gpu.optional(w1.bias.as_ref()), Binding::from(&times), Binding::from(step)],
        parameters: vec![times.shape()[0] as u32],
        constants: vec![("HAS_BIAS", w1.bias.is_some())],
    }
    .run(gpu)?;
    let out = gpu.output(verb, &shape, DType::F32)?;
    product(gpu, Verb { name: verb, ..MODULATION }, &inner, w2, false, &out)?;
    Ok(out)
}

/// Every program of these verbs.
pub(crate) fn programs() -> Vec<Program> {
    let mut programs = product::programs(SINUSOIDS, &[false], &[("HAS_BIAS", true)]);
    for aligned in [false, true] {
        for (verb, silu) in [(LINEAR, false), (MODULATION, true)] {
            programs.extend(product::programs(verb, &[aligned], &[("HAS_BIAS", aligned), ("SILU", silu)]));
        }
        programs.extend(product::programs(SWIGLU, &[aligned], &[("SILU", false)]));
    }
    programs
}
