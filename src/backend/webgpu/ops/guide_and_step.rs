//! `guide_and_step`: guidance, its norm cap, and the Euler step.

use super::elementwise;
use crate::backend::webgpu::driver::variant::Reduction;
use crate::backend::webgpu::launch::binding::Binding;
use crate::backend::webgpu::launch::gpu::Gpu;
use crate::backend::webgpu::launch::program::{Program, wgsl};
use crate::backend::webgpu::memory::tensor::WebGpuTensor;
use crate::backend::{DeviceTensor, shapes};
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
    program.reduces(reduction, THREADS, THREADS)
}

pub(crate) fn guide_and_step(
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
    let args = [
        Binding::from(&*latents),
        Binding::from(&prediction),
        Binding::from(&table),
        Binding::from(&*step),
        Binding::from(&scratch),
    ];
    let half = |advance| program(gpu.device.variant.reduction(), advance, guided);
    gpu.dispatch(&half(false), &args, parameters.clone(), items * chunks)?;
    gpu.dispatch(&half(true), &args, parameters, items * chunks)
}

/// Every program of this verb.
pub(crate) fn programs() -> Vec<Program> {
    let halves = [(false, false), (false, true), (true, false), (true, true)];
    let programs = |reduction| halves.map(|(advance, guided)| program(reduction, advance, guided));
    Reduction::ALL.into_iter().flat_map(programs).collect()
}
