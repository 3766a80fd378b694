//! `guide_and_step`: guidance, its norm cap, and the Euler step.

use super::super::{DType, DeviceTensor, shapes};
use super::elementwise::needs_rows;
use super::gpu::Gpu;
use super::program::{Program, kernel};
use super::recording::{Arg, Grid};
use super::tensor::CudaTensor;
use crate::error::Result;

/// Threads of its one block.
const BLOCK: usize = 1024;

fn program(guided: bool) -> Program {
    Program::new("guide_and_step", &[kernel!("guide_and_step.cu")]).with("GUIDED", guided)
}

pub(super) fn guide_and_step(
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
    let args = [
        Arg::Write(latents),
        Arg::Read(&prediction),
        Arg::Read(&table),
        Arg::Write(step),
        Arg::U32(items),
        Arg::U32(latents.len() / items),
        Arg::U32(table.shape()[0]),
    ];
    gpu.launch(&program(prediction.shape()[0] != items), verb, Grid::row(1, BLOCK), &args)
}

/// Every program of this verb.
pub(super) fn programs() -> Vec<Program> {
    [false, true].map(program).to_vec()
}
