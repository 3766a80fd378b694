//! `guide_and_step` in two dispatches: the norms, then the step.

use super::{Binding, DType, DeviceTensor, Program, Reduction, Result, WebGpu, WebGpuTensor, uniform, wgsl};
use crate::backend::{GuideAndStepArgs, GuideAndStepOp};

const OP: &str = "guide_and_step";
/// Values of an item that a workgroup takes.
const CHUNK: usize = 2048;
/// Threads of a workgroup.
const THREADS: usize = 256;

uniform! {
    /// `Params` of `guide_and_step.wgsl`.
    struct Params {
        items: u32,
        size: u32,
        chunk: u32,
        chunks: u32,
        rows: u32,
    }
}

/// One half of the op: the norms, or the step (`advance`).
fn program(reduction: Reduction, advance: bool, guided: bool) -> Program {
    Program::new::<Params>(OP, wgsl!("guide_and_step"))
        .with("GUIDED", guided)
        .with("ADVANCE", advance)
        .reduces(reduction, THREADS, THREADS)
}

impl GuideAndStepOp for WebGpu {
    fn run_guide_and_step(&self, args: GuideAndStepArgs<'_, WebGpuTensor>) -> Result<()> {
        let GuideAndStepArgs { latents, prediction, table, step } = args;
        let gpu = &self.0;
        let items = latents.shape()[0];
        let size = latents.len() / items;
        let chunks = size.div_ceil(CHUNK);
        let scratch = gpu.output(OP, &[4 + 2 * items * chunks], DType::F32)?;
        let params = Params {
            items: items as u32,
            size: size as u32,
            chunk: CHUNK as u32,
            chunks: chunks as u32,
            rows: table.shape()[0] as u32,
        };
        let guided = prediction.shape()[0] != items;
        let bindings = [&*latents, prediction, table, &*step, &scratch].map(Binding::from);
        for advance in [false, true] {
            let program = program(gpu.device.variant.reduction(), advance, guided);
            gpu.dispatch(&program, &bindings, params, items * chunks)?;
        }
        Ok(())
    }
}

/// Every program of this op.
pub(super) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    for reduction in Reduction::ALL {
        for advance in [false, true] {
            programs.extend([false, true].map(|guided| program(reduction, advance, guided)));
        }
    }
    programs
}
