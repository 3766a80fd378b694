//! `guide_and_step`: guidance, its norm cap, and the Euler step.

use super::elementwise::needs_rows;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::recording::{Arg, Grid};
use crate::backend::cuda::memory::tensor::{CudaTensor, VECTOR, vector};
use crate::backend::{DeviceTensor, shapes};
use crate::error::Result;
use crate::tensor::DType;

/// Threads of a block.
const BLOCK: usize = 256;
/// Values of which a block sums the squares.
const CHUNK: usize = 2 * BLOCK * VECTOR;

fn program(guided: bool, vector: usize) -> Program {
    Program::new("guide_and_step", &[kernel!("guide_and_step.cu")]).with("GUIDED", guided).with("VECTOR", vector)
}

pub(crate) fn guide_and_step(
    gpu: &Gpu,
    latents: &mut CudaTensor,
    prediction: &CudaTensor,
    table: &CudaTensor,
    step: &mut CudaTensor,
) -> Result<()> {
    let verb = "guide_and_step";
    shapes::guide_and_step(latents.shape(), prediction.shape(), table.shape(), step.shape())?;
    needs_rows(verb, table)?;
    shapes::typed(verb, "the latents", latents.dtype(), DType::F32)?;
    let (prediction, table) = (gpu.float(prediction)?, gpu.float(table)?);
    let items = latents.shape()[0];
    let values = latents.len() / items;
    let (guided, each, chunks) = (prediction.shape()[0] != items, vector(values), values.div_ceil(CHUNK));
    let program = program(guided, each);
    let chosen = gpu.output(verb, &[3], DType::F32)?;
    let squares = gpu.output(verb, &[items, chunks, 2], DType::F32)?;
    let args = [
        Arg::Read(&prediction),
        Arg::Read(&table),
        Arg::Read(step),
        Arg::Write(&chosen),
        Arg::Write(&squares),
        Arg::U32(items),
        Arg::U32(values),
        Arg::U32(table.shape()[0]),
        Arg::U32(CHUNK),
        Arg::U32(chunks),
    ];
    gpu.launch(&program, "choose", Grid::row(if guided { items * chunks } else { 1 }, BLOCK), &args)?;
    let args = [
        Arg::Write(latents),
        Arg::Read(&prediction),
        Arg::Read(&chosen),
        Arg::Read(&squares),
        Arg::Write(step),
        Arg::U32(items),
        Arg::U32(values),
        Arg::U32(chunks),
    ];
    let grid = Grid { blocks: [values.div_ceil(BLOCK * each), items, 1], threads: BLOCK, shared: 0 };
    gpu.launch(&program, verb, grid, &args)
}

/// Every program of this verb.
pub(crate) fn programs() -> Vec<Program> {
    [false, true].into_iter().flat_map(|guided| [1, VECTOR].map(|vector| program(guided, vector))).collect()
}
