//! `residual_norm`, and the shader that `rms_norm` and `residual` share with it.

use super::{Binding, DType, DeviceTensor, Gpu, Program, Reduction, Result, WebGpu, WebGpuTensor, f32s, uniform, wgsl};
use crate::backend::gpu::residual_norm::Parts;
use crate::backend::{Branch, Modulation, ResidualNormArgs, ResidualNormOp, RmsNorm};

const OP: &str = "residual_norm";

uniform! {
    /// `Params` of `residual_norm.wgsl`.
    struct Params {
        rows: u32,
        tokens: u32,
        width: u32,
        gate_stride: u32,
        gate_start: u32,
        scale_stride: u32,
        scale_start: u32,
        branch_eps: f32,
        eps: f32,
    }
}

/// Threads of a workgroup for a token of `width`.
fn threads(width: usize) -> usize {
    if width <= 512 { 64 } else { 256 }
}

fn program(op: &'static str, reduction: Reduction, threads: usize, parts: Parts) -> Program {
    let program = Program::new::<Params>(op, wgsl!("residual_norm"));
    let program = parts.constants().into_iter().fold(program, |program, (name, value)| program.with(name, value));
    program.reduces(reduction, threads, threads)
}

/// A modulation row as the shader reads it.
struct ModulationRow {
    table: Binding,
    /// Elements between two items' rows, 0 when all share one.
    stride: usize,
    /// The row's first element.
    start: usize,
}

impl ModulationRow {
    fn new(gpu: &Gpu, op: &'static str, row: Option<Modulation<'_, WebGpuTensor>>) -> Result<Self> {
        let Some(Modulation { table, row }) = row else {
            return Ok(Self { table: gpu.absent_input(), stride: 0, start: 0 });
        };
        let [items, rows, width] = [0, 1, 2].map(|i| table.shape()[i]);
        let stride = if items == 1 { 0 } else { rows * width };
        Ok(Self { table: Binding::from(f32s(op, table)?), stride, start: row * width })
    }
}

/// A norm and its output.
pub(super) struct Norm<'a> {
    pub norm: RmsNorm<'a, WebGpuTensor>,
    pub out: &'a WebGpuTensor,
}

/// Launches `x += branch`, then the norm of `x`, each if given.
pub(super) fn launch(
    gpu: &Gpu,
    op: &'static str,
    x: &WebGpuTensor,
    [items, tokens, width]: [usize; 3],
    branch: Option<Branch<'_, WebGpuTensor>>,
    norm: Option<Norm<'_>>,
) -> Result<()> {
    let gate = branch.as_ref().and_then(|branch| branch.gate);
    let branch_norm = branch.as_ref().and_then(|branch| branch.norm);
    let scale = norm.as_ref().and_then(|norm| norm.norm.scale);
    let parts = Parts {
        branch: branch.is_some(),
        branch_norm: branch_norm.is_some(),
        gate: gate.is_some(),
        norm: norm.is_some(),
        scale: scale.is_some(),
    };
    let gate = ModulationRow::new(gpu, op, gate)?;
    let scale = ModulationRow::new(gpu, op, scale)?;
    let y = branch.as_ref().map(|branch| f32s(op, branch.y)).transpose()?;
    let bindings = [
        Binding::from(f32s(op, x)?),
        gpu.optional(y),
        gpu.optional(branch_norm),
        gate.table,
        gpu.optional(norm.as_ref().map(|norm| norm.norm.weight)),
        scale.table,
        norm.as_ref().map_or_else(|| gpu.absent_output(), |norm| Binding::from(norm.out)),
    ];
    let params = Params {
        rows: (items * tokens) as u32,
        tokens: tokens as u32,
        width: width as u32,
        gate_stride: gate.stride as u32,
        gate_start: gate.start as u32,
        scale_stride: scale.stride as u32,
        scale_start: scale.start as u32,
        branch_eps: branch.map_or(0.0, |branch| branch.eps),
        eps: norm.map_or(0.0, |norm| norm.norm.eps),
    };
    let program = program(op, gpu.device.variant.reduction(), threads(width), parts);
    gpu.dispatch(&program, &bindings, params, items * tokens)
}

impl ResidualNormOp for WebGpu {
    fn run_residual_norm(&self, args: ResidualNormArgs<'_, WebGpuTensor>, shape: [usize; 3]) -> Result<WebGpuTensor> {
        let ResidualNormArgs { x, branch, norm } = args;
        let out = self.0.output(OP, &shape, DType::F32)?;
        launch(&self.0, OP, x, shape, Some(branch), Some(Norm { norm, out: &out }))?;
        Ok(out)
    }
}

/// Every program of `rms_norm`, `residual` and `residual_norm`.
pub(super) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    for threads in [64, 256] {
        for parts in Parts::all() {
            programs.extend(Reduction::ALL.map(|reduction| program(OP, reduction, threads, parts)));
        }
    }
    programs
}
