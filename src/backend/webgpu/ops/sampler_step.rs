//! `sampler_step` in two dispatches: the norms, then the step.

use super::{Binding, DType, DeviceTensor, Program, Reduction, Result, WebGpu, WebGpuTensor, uniform, wgsl};
use crate::backend::{SamplerState, SamplerStepArgs, SamplerStepOp};

const OP: &str = "sampler_step";
/// Values of an item that a workgroup takes.
const CHUNK: usize = 2048;
/// Threads of a workgroup.
const THREADS: usize = 256;

uniform! {
    /// `Params` of `sampler_step.wgsl`.
    struct Params {
        items: u32,
        size: u32,
        chunk: u32,
        chunks: u32,
        rows: u32,
    }
}

/// The choices of a program.
#[derive(Debug, Clone, Copy)]
struct Variant {
    guided: bool,
    /// Slots of the history.
    slots: usize,
    noise: bool,
}

/// One half of the op: the norms, or the step (`advance`).
fn program(reduction: Reduction, advance: bool, variant: Variant) -> Program {
    Program::new::<Params>(OP, wgsl!("sampler_step"))
        .with("GUIDED", variant.guided)
        .with("HISTORY", variant.slots)
        .with("NOISE", variant.noise)
        .with("ADVANCE", advance)
        .reduces(reduction, THREADS, THREADS)
}

impl SamplerStepOp for WebGpu {
    fn run_sampler_step(&self, args: SamplerStepArgs<'_, WebGpuTensor>, slots: usize) -> Result<()> {
        let SamplerStepArgs { latents, prediction, sampler, step } = args;
        let SamplerState { table, history, noise } = sampler;
        let gpu = &self.0;
        let items = latents.shape()[0];
        let size = latents.len() / items;
        let chunks = size.div_ceil(CHUNK);
        let [rows, columns] = [0, 1].map(|dim| table.shape()[dim]);
        let scratch = gpu.output(OP, &[columns + 1 + 2 * items * chunks], DType::F32)?;
        let params = Params {
            items: items as u32,
            size: size as u32,
            chunk: CHUNK as u32,
            chunks: chunks as u32,
            rows: rows as u32,
        };
        let variant = Variant { guided: prediction.shape()[0] != items, slots, noise: noise.is_some() };
        let bindings = [
            Binding::from(&*latents),
            history.as_deref().map_or_else(|| gpu.absent_output(), Binding::from),
            gpu.optional(noise),
            Binding::from(prediction),
            Binding::from(table),
            Binding::from(&*step),
            Binding::from(&scratch),
        ];
        for advance in [false, true] {
            let program = program(gpu.device.variant.reduction(), advance, variant);
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
            for guided in [false, true] {
                for (slots, noise) in [(0, false), (2, true)] {
                    programs.push(program(reduction, advance, Variant { guided, slots, noise }));
                }
            }
        }
    }
    programs
}
