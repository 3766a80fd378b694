//! `guide_and_step`: guidance, its norm cap, and the Euler step.

use super::super::{DeviceTensor, shapes};
use super::elementwise;
use super::gpu::Gpu;
use super::program::{Program, wgsl};
use super::recording::Arg;
use super::reduction::Reduction;
use super::tensor::WebGpuTensor;
use crate::error::Result;
use crate::tensor::DType;

/// Values of an item that a workgroup takes.
const CHUNK: usize = 2048;
const THREADS: usize = 256;

/// One half of the verb: what is measured, or the step.
fn program(reduction: Reduction, advance: bool, guided: bool) -> Program {
    let program = Program::new("guide_and_step", &[wgsl!("common"), wgsl!("guide_and_step")])
        .with("GUIDED", guided)
        .with("ADVANCE", advance);
    reduction.finish(program, THREADS, THREADS)
}

pub(super) fn guide_and_step(
    gpu: &Gpu,
    latents: &mut WebGpuTensor,
    prediction: &WebGpuTensor,
    table: &WebGpuTensor,
    step: &mut WebGpuTensor,
) -> Result<()> {
    let verb = "guide_and_step";
    shapes::guide_and_step(latents.shape(), prediction.shape(), table.shape(), step.shape())?;
    elementwise::needs_rows(verb, table)?;
    gpu.float(verb, latents)?;
    let (prediction, table) = (gpu.float(verb, prediction)?, gpu.float(verb, table)?);
    let items = latents.shape()[0];
    let guided = prediction.shape()[0] != items;
    let size: usize = latents.shape()[1..].iter().product();
    let chunks = size.div_ceil(CHUNK);
    let scratch = gpu.output(verb, &[4 + 2 * items * chunks], DType::F32)?;
    let parameters = [items, size, CHUNK, chunks, table.shape()[0]].map(|value| value as u32).to_vec();
    let args =
        [Arg::from(&*latents), Arg::from(&prediction), Arg::from(&table), Arg::from(&*step), Arg::from(&scratch)];
    let half = |advance| program(gpu.device.variant.reduction(), advance, guided);
    gpu.dispatch(&half(false), &args, parameters.clone(), items * chunks)?;
    gpu.dispatch(&half(true), &args, parameters, items * chunks)
}

/// Every program of this verb.
pub(super) fn programs() -> Vec<Program> {
    let halves = [(false, false), (false, true), (true, false), (true, true)];
    let programs = |reduction| halves.map(|(advance, guided)| program(reduction, advance, guided));
    Reduction::ALL.into_iter().flat_map(programs).collect()
}
