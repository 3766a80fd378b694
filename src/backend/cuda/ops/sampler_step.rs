//! `sampler_step`: guidance, its norm cap, and a sampler's step. The first kernel reads the step's
//! row and sums squares for the cap, the second one updates the latents.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::kernel::Grid;
use crate::backend::cuda::memory::tensor::{CudaTensor, VECTOR, vector};
use crate::backend::{SamplerState, SamplerStepArgs, SamplerStepOp};
use crate::error::Result;
use crate::tensor::DType;

/// Threads of a CTA.
const THREADS: usize = 256;
/// Values whose squares a CTA sums.
const CHUNK: usize = 2 * THREADS * VECTOR;

/// The choices of a program.
#[derive(Debug, Clone, Copy)]
struct Variant {
    guided: bool,
    /// Slots of the history.
    slots: usize,
    noise: bool,
    vector: usize,
}

fn program(variant: Variant) -> Program {
    Program::new("sampler_step", kernel!("sampler_step.cu"))
        .with("GUIDED", variant.guided)
        .with("HISTORY", variant.slots)
        .with("NOISE", variant.noise)
        .with("VECTOR", variant.vector)
}

impl SamplerStepOp for Cuda {
    fn run_sampler_step(&self, args: SamplerStepArgs<'_, CudaTensor>, slots: usize) -> Result<()> {
        let op = "sampler_step";
        let gpu = &self.gpu;
        let SamplerStepArgs { latents, prediction, sampler, step } = args;
        let SamplerState { table, history, noise } = sampler;
        let [items, ..] = latents.dims::<4>();
        let [predictions, ..] = prediction.dims::<4>();
        let [steps, columns] = table.dims();
        let values = latents.len() / items;
        let guided = predictions != items;
        let vector = vector(values);
        let chunks = values.div_ceil(CHUNK);
        let program = program(Variant { guided, slots, noise: noise.is_some(), vector });
        let row = gpu.output(op, &[columns], DType::F32)?;
        let index = gpu.output(op, &[1], DType::U32)?;
        let squares = gpu.output(op, &[items, chunks, 2], DType::F32)?;
        let args = [
            Arg::Read(prediction),
            Arg::Read(table),
            Arg::Read(step),
            Arg::Write(&row),
            Arg::Write(&index),
            Arg::Write(&squares),
            Arg::U32(items),
            Arg::U32(values),
            Arg::U32(steps),
            Arg::U32(CHUNK),
            Arg::U32(chunks),
        ];
        gpu.launch(&program, "choose", Grid::linear(if guided { items * chunks } else { 1 }, THREADS), &args)?;
        let args = [
            Arg::Write(latents),
            history.as_deref().map_or(Arg::Absent, Arg::Write),
            Arg::optional(noise),
            Arg::Read(prediction),
            Arg::Read(&row),
            Arg::Read(&index),
            Arg::Read(&squares),
            Arg::Write(step),
            Arg::U32(items),
            Arg::U32(values),
            Arg::U32(steps),
            Arg::U32(chunks),
        ];
        let grid = Grid { ctas: [values.div_ceil(THREADS * vector), items, 1], threads: THREADS, shared: 0 };
        gpu.launch(&program, op, grid, &args)
    }
}

/// Programs with and without guidance and vectors, and with a history and noise.
pub(crate) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    for guided in [false, true] {
        for vector in [1, VECTOR] {
            programs.push(program(Variant { guided, slots: 0, noise: false, vector }));
            programs.push(program(Variant { guided, slots: 2, noise: true, vector }));
        }
    }
    programs
}
