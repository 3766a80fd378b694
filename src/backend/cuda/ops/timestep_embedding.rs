//! `timestep_embedding`: two gemvs, the first of which computes the sinusoids.

use crate::backend::cuda::driver::program::{File, Program, kernel};
use crate::backend::cuda::gemm::gemv::{self, Gemv};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::matrix::CudaLinear;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::backend::{DeviceTensor, shapes};
use crate::error::Result;
use crate::tensor::DType;

const FILE: File = kernel!("timestep_embedding.cu");

fn constants(w: &CudaLinear) -> [(&'static str, usize); 1] {
    [("HAS_BIAS", usize::from(w.bias.is_some()))]
}

pub(crate) fn timestep_embedding(
    gpu: &Gpu,
    times: &CudaTensor,
    step: &CudaTensor,
    w1: &CudaLinear,
    w2: &CudaLinear,
) -> Result<CudaTensor> {
    let op = "timestep_embedding";
    let shape @ [rows, embedded] =
        shapes::timestep_embedding(times.shape(), step.shape(), w1.matrix.dims(), w2.matrix.dims())?;
    shapes::typed(op, "the step", step.dtype(), DType::U32)?;
    let [hidden, k] = w1.matrix.dims();
    let frequencies = gpu.frequencies(op, k / 2)?;
    let times = gpu.float(times)?;
    let inner = gpu.output(op, &[rows, hidden], DType::F32)?;
    let args = [
        Arg::Read(&times),
        Arg::Read(step),
        Arg::Read(&frequencies),
        w1.matrix.arg(),
        Arg::optional(w1.bias.as_ref()),
        Arg::Write(&inner),
        Arg::U32(times.shape()[0]),
        Arg::U32(rows),
        Arg::U32(hidden),
        Arg::U32(k),
        Arg::U32(w1.matrix.stride()),
    ];
    let first = Gemv {
        op,
        file: FILE,
        entry: "hidden",
        constants: &constants(w1),
        m: rows,
        n: hidden,
        shared: rows * k * DType::F32.size(),
        args: &args,
    };
    first.launch(gpu)?;
    let out = gpu.output(op, &shape, DType::Bf16)?;
    let args = [
        Arg::Read(&inner),
        w2.matrix.arg(),
        Arg::optional(w2.bias.as_ref()),
        Arg::Write(&out),
        Arg::U32(rows),
        Arg::U32(embedded),
        Arg::U32(hidden),
        Arg::U32(w2.matrix.stride()),
    ];
    let second = Gemv {
        op,
        file: FILE,
        entry: "embed",
        constants: &constants(w2),
        m: rows,
        n: embedded,
        shared: 0,
        args: &args,
    };
    second.launch(gpu)?;
    Ok(out)
}

/// Programs with and without bias.
pub(crate) fn programs() -> Vec<Program> {
    [0, 1].into_iter().flat_map(|bias| gemv::programs("timestep_embedding", FILE, &[("HAS_BIAS", bias)])).collect()
}
