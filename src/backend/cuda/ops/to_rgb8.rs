//! `to_rgb8`: the decoder's output as pixels. Non-finite values set a flag that the download checks.

use crate::backend::DeviceTensor;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::kernel::Grid;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::error::Result;
use crate::tensor::DType;

/// Threads of a CTA.
const THREADS: usize = 256;
/// Values of a thread.
const VALUES: usize = 8;

fn program() -> Program {
    Program::new("to_rgb8", &[kernel!("to_rgb8.cu")])
}

pub(crate) fn to_rgb8(gpu: &Gpu, x: &CudaTensor) -> Result<CudaTensor> {
    let op = "to_rgb8";
    let out = gpu.output(op, x.shape(), DType::U8)?;
    let x = gpu.activation(x)?;
    let args = [Arg::Read(&x), Arg::Write(&out), Arg::Write(&gpu.non_finite), Arg::U32(out.len())];
    gpu.launch(&program(), op, Grid::covering(out.len(), THREADS, VALUES), &args)?;
    Ok(out)
}

/// The one program.
pub(crate) fn programs() -> Vec<Program> {
    vec![program()]
}
