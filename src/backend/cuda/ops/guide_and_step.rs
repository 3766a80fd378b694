//! `guide_and_step`: guidance, its norm cap, and the Euler step. The first kernel reads the step's
//! row and sums squares for the cap, the second one updates the latents.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::kernel::Grid;
use crate::backend::cuda::memory::tensor::{CudaTensor, VECTOR, vector};
use crate::backend::{GuideAndStepArgs, GuideAndStepOp};
use crate::error::Result;
use crate::tensor::DType;

/// Threads of a CTA.
const THREADS: usize = 256;
/// Values whose squares a CTA sums.
const CHUNK: usize = 2 * THREADS * VECTOR;

fn program(guided: bool, vector: usize) -> Program {
    Program::new("guide_and_step", kernel!("guide_and_step.cu")).with("GUIDED", guided).with("VECTOR", vector)
}

impl GuideAndStepOp for Cuda {
    fn run_guide_and_step(&self, args: GuideAndStepArgs<'_, CudaTensor>) -> Result<()> {
        let op = "guide_and_step";
        let gpu = &self.gpu;
        let GuideAndStepArgs { latents, prediction, table, step } = args;
        let [items, ..] = latents.dims::<4>();
        let [predictions, ..] = prediction.dims::<4>();
        let [steps, _] = table.dims();
        let values = latents.len() / items;
        let guided = predictions != items;
        let vector = vector(values);
        let chunks = values.div_ceil(CHUNK);
        let program = program(guided, vector);
        let row = gpu.output(op, &[3], DType::F32)?;
        let squares = gpu.output(op, &[items, chunks, 2], DType::F32)?;
        let args = [
            Arg::Read(prediction),
            Arg::Read(table),
            Arg::Read(step),
            Arg::Write(&row),
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
            Arg::Read(prediction),
            Arg::Read(&row),
            Arg::Read(&squares),
            Arg::Write(step),
            Arg::U32(items),
            Arg::U32(values),
            Arg::U32(chunks),
        ];
        let grid = Grid { ctas: [values.div_ceil(THREADS * vector), items, 1], threads: THREADS, shared: 0 };
        gpu.launch(&program, op, grid, &args)
    }
}

/// Programs with and without guidance and vectors.
pub(crate) fn programs() -> Vec<Program> {
    [false, true].into_iter().flat_map(|guided| [1, VECTOR].map(|vector| program(guided, vector))).collect()
}
