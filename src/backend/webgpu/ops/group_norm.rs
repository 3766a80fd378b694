//! `group_norm` in three dispatches: statistics of parts, their merge, and the result. The shader
//! is shared with `group_moments`, the first two, and `normalize_groups`, the last one.

use super::{Binding, DType, DeviceTensor, Gpu, Program, Reduction, Result, WebGpu, WebGpuTensor, f32s, uniform, wgsl};
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

fn program(op: &'static str) -> Program {
    Program::new::<Params>(op, wgsl!("group_norm"))
}

fn stats_program(op: &'static str) -> Program {
    program(op).entry("stats")
}

/// `variance`: writes the variance instead of the factor 1/√(variance + eps).
fn merge_program(op: &'static str, reduction: Reduction, variance: bool) -> Program {
    program(op).define("MERGE").with("VARIANCE", variance).reduces(reduction, THREADS, THREADS)
}

/// `variance`: reads the variance instead of the factor.
fn apply_program(op: &'static str, silu: bool, variance: bool) -> Program {
    program(op).entry("apply").with("SILU", silu).with("VARIANCE", variance)
}

/// The weight, the bias and the output of a norm.
pub(super) struct Affine<'a> {
    pub weight: &'a WebGpuTensor,
    pub bias: &'a WebGpuTensor,
    pub silu: bool,
    pub out: &'a WebGpuTensor,
}

/// The launches of a picture `x`.
pub(super) struct Launch<'a> {
    gpu: &'a Gpu,
    op: &'static str,
    x: &'a WebGpuTensor,
    params: Params,
}

impl<'a> Launch<'a> {
    pub(super) fn new(gpu: &'a Gpu, op: &'static str, x: &'a WebGpuTensor, groups: usize, eps: f32) -> Result<Self> {
        let [items, h, w, channels] = [0, 1, 2, 3].map(|i| x.shape()[i]);
        let pixels = h * w;
        let group_width = channels / groups;
        // A workgroup takes as many groups as 256 threads have channels for. A wider group is cut
        // into units.
        let unit_width = group_width.clamp(1, THREADS);
        let parts = group_width.div_ceil(unit_width);
        let units = (THREADS / unit_width).min(groups * parts).max(1);
        let chunk = (CHUNK / (units * unit_width)).max(1);
        let params = Params {
            items: items as u32,
            pixels: pixels as u32,
            channels: channels as u32,
            groups: groups as u32,
            group_width: group_width as u32,
            parts: parts as u32,
            unit_width: unit_width as u32,
            units: units as u32,
            blocks: (groups * parts).div_ceil(units) as u32,
            chunk: chunk as u32,
            chunks: pixels.div_ceil(chunk) as u32,
            eps,
        };
        Ok(Self { gpu, op, x: f32s(op, x)?, params })
    }

    /// The mean of each group, and its variance or the factor 1/√(variance + eps): `[items, groups,
    /// 2]`.
    pub(super) fn moments(&self, variance: bool) -> Result<WebGpuTensor> {
        let Self { gpu, op, params, .. } = self;
        let Params { items, groups, parts, blocks, chunks, .. } = *params;
        let [items, groups, parts, blocks, chunks] = [items, groups, parts, blocks, chunks].map(|n| n as usize);
        let partial = gpu.output(op, &[items, groups, chunks, parts, 3], DType::F32)?;
        let moments = gpu.output(op, &[items, groups, 2], DType::F32)?;
        let bindings = [
            Binding::from(self.x),
            gpu.absent_input(),
            gpu.absent_input(),
            Binding::from(&partial),
            Binding::from(&moments),
            gpu.absent_output(),
        ];
        gpu.dispatch(&stats_program(op), &bindings, *params, chunks * blocks * items)?;
        let merge = merge_program(op, gpu.device.variant.reduction(), variance);
        gpu.dispatch(&merge, &bindings, *params, groups * items)?;
        Ok(moments)
    }

    /// The norm of each value by `moments`, which hold variances or factors.
    pub(super) fn apply(&self, moments: &WebGpuTensor, variance: bool, norm: Affine<'_>) -> Result<()> {
        let Affine { weight, bias, silu, out } = norm;
        let gpu = self.gpu;
        let bindings = [
            Binding::from(self.x),
            Binding::from(weight),
            Binding::from(bias),
            gpu.absent_output(),
            Binding::from(moments),
            Binding::from(out),
        ];
        gpu.dispatch(&apply_program(self.op, silu, variance), &bindings, self.params, out.len().div_ceil(THREADS))
    }
}

impl GroupNormOp for WebGpu {
    fn run_group_norm(&self, args: GroupNormArgs<'_, WebGpuTensor>, shape: [usize; 4]) -> Result<WebGpuTensor> {
        let GroupNormArgs { x, weight, bias, groups, eps, silu } = args;
        let launch = Launch::new(&self.0, OP, x, groups, eps)?;
        let moments = launch.moments(false)?;
        let out = self.0.output(OP, &shape, DType::F32)?;
        launch.apply(&moments, false, Affine { weight, bias, silu, out: &out })?;
        Ok(out)
    }
}

/// Every program of `group_norm`, `group_moments` and `normalize_groups`.
pub(super) fn programs() -> Vec<Program> {
    let mut programs = vec![stats_program(OP)];
    for variance in [false, true] {
        programs.extend(Reduction::ALL.map(|reduction| merge_program(OP, reduction, variance)));
        programs.extend([false, true].map(|silu| apply_program(OP, silu, variance)));
    }
    programs
}
