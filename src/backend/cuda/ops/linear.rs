//! `linear`, `swiglu`, `modulation` and `timestep_embedding`: products with a stored matrix.

use super::elementwise::needs_rows;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::gemm::autotune;
use crate::backend::cuda::gemm::sm90::{self, Sharing};
use crate::backend::cuda::gemm::tile::{self, FEW, Product};
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::recording::Arg;
use crate::backend::cuda::matrix::{CudaLinear, CudaSwiGlu};
use crate::backend::cuda::memory::tensor::{CudaTensor, aligned};
use crate::backend::{DeviceTensor, shapes};
use crate::error::Result;
use crate::tensor::DType;

/// The sinusoids' longest period over 2π.
const MAX_PERIOD: f32 = 10_000.0;

/// `x·Wᵀ + b`, or `SiLU(x)·Wᵀ + b` for which `few` must be set, into `out`.
fn product(
    gpu: &Gpu,
    verb: &'static str,
    x: &CudaTensor,
    w: &CudaLinear,
    [few, silu]: [bool; 2],
    out: &CudaTensor,
) -> Result<()> {
    let [n, k] = w.matrix.dims();
    let x = gpu.activation(x)?;
    let m = out.len() / n;
    let args = [
        Arg::Read(&x),
        Arg::Weights(&w.matrix),
        Arg::optional(w.bias.as_ref()),
        Arg::Write(out),
        Arg::U32(m),
        Arg::U32(n),
        Arg::U32(k),
        Arg::U32(w.matrix.stride()),
    ];
    let product = Product { verb, file: kernel!("linear.cu"), m, n, args: &args };
    let has_bias = usize::from(w.bias.is_some());
    if few {
        let constants = [("ALIGNED", aligned(k)), ("HAS_BIAS", has_bias), ("SILU", usize::from(silu))];
        product.few(gpu, "linear", &constants, 0)
    } else {
        let constants = [("ALIGNED", aligned(k)), ("HAS_BIAS", has_bias), ("ALIGNED_OUT", aligned(n))];
        if sm90::takes(gpu, [k, n]) {
            let (left, out) = (sm90::rows(verb, &x, [m, k], 64), sm90::rows(verb, out, [m, n], 64));
            let (file, weights, columns) = (product.file, &w.matrix, 0..n);
            let product = sm90::Product {
                verb,
                file,
                constants: &constants,
                m,
                weights,
                columns,
                left,
                out,
                sharing: Sharing::Fastest,
            };
            return product.run(gpu, &[Arg::optional(w.bias.as_ref())], &[m, n, k].map(Arg::U32));
        }
        product.tiled(gpu, &constants)
    }
}

pub(crate) fn linear(gpu: &Gpu, x: &CudaTensor, w: &CudaLinear) -> Result<CudaTensor> {
    let [n, k] = w.matrix.dims();
    let shape = shapes::linear("linear", x.shape(), [n, k])?;
    let out = gpu.output("linear", &shape, DType::Bf16)?;
    let x = gpu.activation(x)?;
    let own = |x: &CudaTensor, out: &CudaTensor| product(gpu, "linear", x, w, [out.len() / n <= FEW, false], out);
    if w.bias.is_some() || !autotune::multiply(gpu, &x, &w.matrix, &out, own)? {
        own(&x, &out)?;
    }
    Ok(out)
}

pub(crate) fn modulation(gpu: &Gpu, t: &CudaTensor, w: &CudaLinear, silu: bool, width: usize) -> Result<CudaTensor> {
    let shape = shapes::modulation(t.shape(), w.matrix.dims(), width)?;
    let out = gpu.output("modulation", &shape, DType::Bf16)?;
    product(gpu, "modulation", t, w, [true, silu], &out)?;
    Ok(out)
}

pub(crate) fn swiglu(gpu: &Gpu, x: &CudaTensor, w: &CudaSwiGlu) -> Result<CudaTensor> {
    let verb = "swiglu";
    let [n, k] = w.matrix.dims();
    let hidden = n / 2;
    let shape = shapes::linear(verb, x.shape(), [hidden, k])?;
    let out = gpu.output(verb, &shape, DType::Bf16)?;
    let x = gpu.activation(x)?;
    let m = out.len() / hidden;
    let args = [
        Arg::Read(&x),
        Arg::Weights(&w.matrix),
        Arg::Write(&out),
        Arg::U32(m),
        Arg::U32(n),
        Arg::U32(k),
        Arg::U32(w.matrix.stride()),
    ];
    let product = Product { verb, file: kernel!("swiglu.cu"), m, n, args: &args };
    if m <= FEW {
        product.few(gpu, verb, &[("ALIGNED", aligned(k))], 0)?;
    } else {
        let constants = [("ALIGNED", aligned(k)), ("ALIGNED_OUT", aligned(hidden))];
        if sm90::takes(gpu, [k, hidden]) {
            // Two columns of the product make one of the output.
            let (left, to) = (sm90::rows(verb, &x, [m, k], 64), sm90::rows(verb, &out, [m, hidden], 32));
            let (file, weights, constants) = (product.file, &w.matrix, &constants);
            let columns = 0..n;
            let product =
                sm90::Product { verb, file, constants, m, weights, columns, left, out: to, sharing: Sharing::Fastest };
            product.run(gpu, &[], &[m, n, k].map(Arg::U32))?;
        } else {
            product.tiled(gpu, &constants)?;
        }
    }
    Ok(out)
}

pub(crate) fn timestep_embedding(
    gpu: &Gpu,
    times: &CudaTensor,
    step: &CudaTensor,
    w1: &CudaLinear,
    w2: &CudaLinear,
) -> Result<CudaTensor> {
    let verb = "timestep_embedding";
    let shape @ [r, embedded] =
        shapes::timestep_embedding(times.shape(), step.shape(), w1.matrix.dims(), w2.matrix.dims())?;
    shapes::typed(verb, "the step", step.dtype(), DType::U32)?;
    needs_rows(verb, times)?;
    let [hidden, k] = w1.matrix.dims();
    // On the host, once: an angle of 1000 shows the last digit of its frequency.
    let frequencies =
        gpu.table(k / 2, |half| (0..half).map(|i| (-MAX_PERIOD.ln() * i as f32 / half as f32).exp()).collect())?;
    let times = gpu.float(times)?;
    let inner = gpu.output(verb, &[r, hidden], DType::F32)?;
    let file = kernel!("timestep_embedding.cu");
    let args = [
        Arg::Read(&times),
        Arg::Read(step),
        Arg::Read(&frequencies),
        Arg::Weights(&w1.matrix),
        Arg::optional(w1.bias.as_ref()),
        Arg::Write(&inner),
        Arg::U32(times.shape()[0]),
        Arg::U32(r),
        Arg::U32(hidden),
        Arg::U32(k),
        Arg::U32(w1.matrix.stride()),
    ];
    let has_bias = |w: &CudaLinear| [("HAS_BIAS", usize::from(w.bias.is_some()))];
    Product { verb, file, m: r, n: hidden, args: &args }.few(
        gpu,
        "hidden",
        &has_bias(w1),
        r * k * DType::F32.size(),
    )?;
    let out = gpu.output(verb, &shape, DType::Bf16)?;
    let args = [
        Arg::Read(&inner),
        Arg::Weights(&w2.matrix),
        Arg::optional(w2.bias.as_ref()),
        Arg::Write(&out),
        Arg::U32(r),
        Arg::U32(embedded),
        Arg::U32(hidden),
        Arg::U32(w2.matrix.stride()),
    ];
    Product { verb, file, m: r, n: embedded, args: &args }.few(gpu, "embed", &has_bias(w2), 0)?;
    Ok(out)
}

/// The programs of these verbs that are for Hopper alone.
pub(crate) fn hopper_programs() -> Vec<Program> {
    let linear = |bias| [("ALIGNED", 1), ("HAS_BIAS", bias), ("ALIGNED_OUT", 1)];
    [
        sm90::programs("linear", kernel!("linear.cu"), &linear(0), Sharing::Fastest),
        sm90::programs("linear", kernel!("linear.cu"), &linear(1), Sharing::Fastest),
        sm90::programs("swiglu", kernel!("swiglu.cu"), &[("ALIGNED", 1), ("ALIGNED_OUT", 1)], Sharing::Fastest),
    ]
    .concat()
}

/// Every program of these verbs.
pub(crate) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    for aligned in [0, 1] {
        let (linear, swiglu) = (kernel!("linear.cu"), kernel!("swiglu.cu"));
        let tiled = [("ALIGNED", aligned), ("HAS_BIAS", aligned), ("ALIGNED_OUT", aligned)];
        programs.extend(tile::all_tiled("linear", linear, &tiled));
        programs.extend(tile::all_few(
            "linear",
            linear,
            &[("ALIGNED", aligned), ("HAS_BIAS", aligned), ("SILU", aligned)],
        ));
        programs.extend(tile::all_tiled("swiglu", swiglu, &[("ALIGNED", aligned), ("ALIGNED_OUT", aligned)]));
        programs.extend(tile::all_few("swiglu", swiglu, &[("ALIGNED", aligned)]));
        let file = kernel!("timestep_embedding.cu");
        programs.extend(tile::all_few("timestep_embedding", file, &[("HAS_BIAS", aligned)]));
    }
    programs
}
