//! `residual_norm`, and the shader that `rms_norm` and `residual` share with it.

use super::f32s;
use crate::backend::webgpu::WebGpu;
use crate::backend::webgpu::driver::variant::Reduction;
use crate::backend::webgpu::launch::binding::Binding;
use crate::backend::webgpu::launch::gpu::Gpu;
use crate::backend::webgpu::launch::program::Program;
use crate::backend::webgpu::launch::shader::wgsl;
use crate::backend::webgpu::launch::uniform::uniform;
use crate::backend::webgpu::memory::tensor::WebGpuTensor;
use crate::backend::{Branch, DeviceTensor, Modulation, ResidualNormArgs, ResidualNormOp, RmsNorm};
use crate::error::Result;
use crate::tensor::DType;

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

/// The present parts of `x += tanh(gate) ⊙ RMS(branch)·norm; out = RMS(x)·weight·(1 + scale)`.
#[derive(Debug, Clone, Copy, Default)]
struct NormKind {
    branch: bool,
    norm: bool,
    gate: bool,
    out: bool,
    scale: bool,
}

/// Threads of a workgroup for a token of `width`.
fn threads(width: usize) -> usize {
    if width <= 512 { 64 } else { 256 }
}

fn program(op: &'static str, reduction: Reduction, threads: usize, kind: NormKind) -> Program {
    Program::new::<Params>(op, wgsl!("residual_norm"))
        .with("HAS_BRANCH", kind.branch)
        .with("HAS_NORM", kind.norm)
        .with("HAS_GATE", kind.gate)
        .with("HAS_OUT", kind.out)
        .with("HAS_SCALE", kind.scale)
        .reduces(reduction, threads, threads)
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

/// `x += branch`, then the norm of `x`, each where given. Returns the norm's output.
pub(super) fn add_and_norm(
    gpu: &Gpu,
    op: &'static str,
    x: &WebGpuTensor,
    shape @ [items, tokens, width]: [usize; 3],
    branch: Option<Branch<'_, WebGpuTensor>>,
    norm: Option<RmsNorm<'_, WebGpuTensor>>,
) -> Result<Option<WebGpuTensor>> {
    let gate = branch.as_ref().and_then(|branch| branch.gate);
    let scale = norm.as_ref().and_then(|norm| norm.scale);
    let branch_norm = branch.as_ref().and_then(|branch| branch.norm);
    let kind = NormKind {
        branch: branch.is_some(),
        norm: branch_norm.is_some(),
        gate: gate.is_some(),
        out: norm.is_some(),
        scale: scale.is_some(),
    };
    let gate = ModulationRow::new(gpu, op, gate)?;
    let scale = ModulationRow::new(gpu, op, scale)?;
    let y = branch.as_ref().map(|branch| f32s(op, branch.y)).transpose()?;
    let out = norm.as_ref().map(|_| gpu.output(op, &shape, DType::F32)).transpose()?;
    let params = Params {
        rows: (items * tokens) as u32,
        tokens: tokens as u32,
        width: width as u32,
        gate_stride: gate.stride as u32,
        gate_start: gate.start as u32,
        scale_stride: scale.stride as u32,
        scale_start: scale.start as u32,
        branch_eps: branch.as_ref().map_or(0.0, |branch| branch.eps),
        eps: norm.as_ref().map_or(0.0, |norm| norm.eps),
    };
    let bindings = [
        Binding::from(f32s(op, x)?),
        gpu.optional(y),
        gpu.optional(branch_norm),
        gate.table,
        gpu.optional(norm.as_ref().map(|norm| norm.weight)),
        scale.table,
        out.as_ref().map_or_else(|| gpu.absent_output(), Binding::from),
    ];
    let program = program(op, gpu.device.variant.reduction(), threads(width), kind);
    gpu.dispatch(&program, &bindings, params, items * tokens)?;
    Ok(out)
}

/// [`add_and_norm`] with a norm, so that it has an output.
pub(super) fn normed(
    gpu: &Gpu,
    op: &'static str,
    x: &WebGpuTensor,
    shape: [usize; 3],
    branch: Option<Branch<'_, WebGpuTensor>>,
    norm: RmsNorm<'_, WebGpuTensor>,
) -> Result<WebGpuTensor> {
    let out = add_and_norm(gpu, op, x, shape, branch, Some(norm))?;
    Ok(out.unwrap_or_else(|| unreachable!("{op}: a norm has an output")))
}

impl ResidualNormOp for WebGpu {
    fn run_residual_norm(&self, args: ResidualNormArgs<'_, WebGpuTensor>, shape: [usize; 3]) -> Result<WebGpuTensor> {
        normed(&self.0, OP, args.x, shape, Some(args.branch), args.norm)
    }
}

/// Every program of `rms_norm`, `residual` and `residual_norm`.
pub(super) fn programs() -> Vec<Program> {
    let mut kinds = Vec::new();
    for bits in 0..32 {
        let bit = |i: u32| bits >> i & 1 == 1;
        let kind = NormKind { branch: bit(0), norm: bit(1), gate: bit(2), out: bit(3), scale: bit(4) };
        let possible = (kind.branch || !(kind.norm || kind.gate)) && (kind.out || !kind.scale);
        if possible && (kind.branch || kind.out) {
            kinds.push(kind);
        }
    }
    let mut programs = Vec::new();
    for threads in [64, 256] {
        for kind in &kinds {
            programs.extend(Reduction::ALL.map(|reduction| program(OP, reduction, threads, *kind)));
        }
    }
    programs
}
