//! `pad_rows`: the pad token in the rows past each item's length, one CTA per row.

use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::kernel::Grid;
use crate::backend::cuda::memory::tensor::{CudaTensor, vector};
use crate::backend::{DeviceTensor, shapes};
use crate::error::Result;

/// Threads of a CTA.
const THREADS: usize = 128;

fn program(vector: usize) -> Program {
    Program::new("pad_rows", &[kernel!("pad_rows.cu")]).with("VECTOR", vector)
}

pub(crate) fn pad_rows(gpu: &Gpu, x: &mut CudaTensor, token: &CudaTensor, lengths: &CudaTensor) -> Result<()> {
    let op = "pad_rows";
    shapes::pad_rows(x.shape(), token.shape(), lengths.shape())?;
    gpu.make_activation(x)?;
    let token = gpu.float(token)?;
    let [items, tokens, width] = [x.shape()[0], x.shape()[1], x.shape()[2]];
    let args = [Arg::Write(x), Arg::Read(&token), Arg::Read(lengths), Arg::U32(tokens), Arg::U32(width)];
    gpu.launch(&program(vector(width)), op, Grid::linear(items * tokens, THREADS), &args)
}

/// Programs with and without vectors.
pub(crate) fn programs() -> Vec<Program> {
    [1, 8].map(program).to_vec()
}
