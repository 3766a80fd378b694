//! `scale_latents`: the encoder's mean as latents, channels first.

use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::kernel::Grid;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::backend::{DeviceTensor, shapes};
use crate::error::Result;
use crate::tensor::DType;

/// Threads of a CTA.
const THREADS: usize = 256;

fn program() -> Program {
    Program::new("scale_latents", &[kernel!("scale_latents.cu")])
}

pub(crate) fn scale_latents(gpu: &Gpu, x: &CudaTensor, channels: usize, scale: f32, shift: f32) -> Result<CudaTensor> {
    let op = "scale_latents";
    let shape @ [_, _, h, w] = shapes::scale_latents(x.shape(), channels)?;
    let out = gpu.output(op, &shape, DType::F32)?;
    let x = gpu.activation(x)?;
    let args = [
        Arg::Read(&x),
        Arg::Write(&out),
        Arg::U32(out.len()),
        Arg::U32(channels),
        Arg::U32(x.shape()[3]),
        Arg::U32(h * w),
        Arg::F32(scale),
        Arg::F32(shift),
    ];
    gpu.launch(&program(), op, Grid::covering(out.len(), THREADS, 1), &args)?;
    Ok(out)
}

/// The one program.
pub(crate) fn programs() -> Vec<Program> {
    vec![program()]
}
