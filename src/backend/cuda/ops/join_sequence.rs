//! `join_sequence`: image and caption tokens as one sequence, one CTA per row.

use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::kernel::Grid;
use crate::backend::cuda::memory::tensor::{CudaTensor, vector};
use crate::backend::{DeviceTensor, shapes};
use crate::error::Result;
use crate::tensor::DType;

/// Threads of a CTA.
const THREADS: usize = 128;

fn program(vector: usize) -> Program {
    Program::new("join_sequence", &[kernel!("join_sequence.cu")]).with("VECTOR", vector)
}

pub(crate) fn join_sequence(
    gpu: &Gpu,
    image: &CudaTensor,
    caption: &CudaTensor,
    captions: &CudaTensor,
) -> Result<CudaTensor> {
    let op = "join_sequence";
    let shape @ [items, tokens, width] = shapes::join_sequence(image.shape(), caption.shape(), captions.shape())?;
    let out = gpu.output(op, &shape, DType::Bf16)?;
    let image = gpu.activation(image)?;
    let caption = gpu.activation(caption)?;
    let args = [
        Arg::Read(&image),
        Arg::Read(&caption),
        Arg::Read(captions),
        Arg::Write(&out),
        Arg::U32(image.shape()[0]),
        Arg::U32(image.shape()[1]),
        Arg::U32(caption.shape()[0]),
        Arg::U32(caption.shape()[1]),
        Arg::U32(width),
    ];
    gpu.launch(&program(vector(width)), op, Grid::linear(items * tokens, THREADS), &args)?;
    Ok(out)
}

/// Programs with and without vectors.
pub(crate) fn programs() -> Vec<Program> {
    [1, 8].map(program).to_vec()
}
