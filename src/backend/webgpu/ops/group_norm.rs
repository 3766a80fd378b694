//! `group_norm` in three dispatches: statistics of parts, their merge, and the result.

use super::{Binding, DType, Program, Reduction, Result, WebGpu, WebGpuTensor, f32s, uniform, wgsl};
use crate::backend::{GroupNormArgs, GroupNormOp};

const OP: &str = "group_norm";
/// Threads of a workgroup.
const THREADS: usize = 256;
/// Values of a workgroup of the first dispatch, about.
const CHUNK: usize = 8192;

uniform! {
    /// `Params` of `group_norm.wgsl`.
    struct Params {
        items: u32,
        pixels: u32,
        channels: u32,
        groups: u32,
        group_width: u32,
        parts: u32,
        unit_width: u32,
        units: u32,
        blocks: u32,
        chunk: u32,
        chunks: u32,
        eps: f32,
    }
}

fn program() -> Program {
    Program::new::<Params>(OP, wgsl!("group_norm"))
}

fn stats_program() -> Program {
    program().entry("stats")
}

fn merge_program(reduction: Reduction) -> Program {
    program().define("MERGE").reduces(reduction, THREADS, THREADS)
}

fn apply_program(silu: bool) -> Program {
    program().entry("apply").with("SILU", silu)
}

impl GroupNormOp for WebGpu {
    fn run_group_norm(
        &self,
        args: GroupNormArgs<'_, WebGpuTensor>,
        shape @ [items, h, w, channels]: [usize; 4],
    ) -> Result<WebGpuTensor> {
        let GroupNormArgs { x, weight, bias, groups, eps, silu } = args;
        let gpu = &self.0;
        let pixels = h * w;
        let group_width = channels / groups;
        // A workgroup takes as many groups as 256 threads have channels for. A wider group is cut
        // into units.
        let unit_width = group_width.clamp(1, THREADS);
        let parts = group_width.div_ceil(unit_width);
        let units = (THREADS / unit_width).min(groups * parts).max(1);
        let blocks = (groups * parts).div_ceil(units);
        let chunk = (CHUNK / (units * unit_width)).max(1);
        let chunks = pixels.div_ceil(chunk);

        let partial = gpu.output(OP, &[items, groups, chunks, parts, 3], DType::F32)?;
        let moments = gpu.output(OP, &[items, groups, 2], DType::F32)?;
        let out = gpu.output(OP, &shape, DType::F32)?;
        let params = Params {
            items: items as u32,
            pixels: pixels as u32,
            channels: channels as u32,
            groups: groups as u32,
            group_width: group_width as u32,
            parts: parts as u32,
            unit_width: unit_width as u32,
            units: units as u32,
            blocks: blocks as u32,
            chunk: chunk as u32,
            chunks: chunks as u32,
            eps,
        };
        let bindings = [f32s(OP, x)?, weight, bias, &partial, &moments, &out].map(Binding::from);
        gpu.dispatch(&stats_program(), &bindings, params, chunks * blocks * items)?;
        gpu.dispatch(&merge_program(gpu.device.variant.reduction()), &bindings, params, groups * items)?;
        gpu.dispatch(&apply_program(silu), &bindings, params, out.len().div_ceil(THREADS))?;
        Ok(out)
    }
}

/// Every program of this op.
pub(super) fn programs() -> Vec<Program> {
    let mut programs = vec![stats_program()];
    programs.extend(Reduction::ALL.map(merge_program));
    programs.extend([false, true].map(apply_program));
    programs
}
