//! `normalize_rgb8`: pixels as the encoder reads them.

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
    Program::new("normalize_rgb8", &[kernel!("normalize_rgb8.cu")])
}

pub(crate) fn normalize_rgb8(gpu: &Gpu, pixels: &CudaTensor) -> Result<CudaTensor> {
    let op = "normalize_rgb8";
    shapes::typed(op, "pixels", pixels.dtype(), DType::U8)?;
    let out = gpu.output(op, pixels.shape(), DType::Bf16)?;
    let args = [Arg::Read(pixels), Arg::Write(&out), Arg::U32(out.len())];
    gpu.launch(&program(), op, Grid::covering(out.len(), THREADS, 1), &args)?;
    Ok(out)
}

/// The one program.
pub(crate) fn programs() -> Vec<Program> {
    vec![program()]
}
