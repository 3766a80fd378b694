//! `rms_norm`, `residual`, `residual_norm` and `group_norm`.

use crate::backend::webgpu::driver::variant::Reduction;
use crate::backend::webgpu::launch::binding::Binding;
use crate::backend::webgpu::launch::gpu::Gpu;
use crate::backend::webgpu::launch::program::{Program, wgsl};
use crate::backend::webgpu::memory::tensor::WebGpuTensor;
use crate::backend::{Branch, DeviceTensor, Modulation, RmsNorm, shapes};
use crate::error::Result;
use crate::tensor::DType;

/// Threads for a token of `width`.
fn threads(width: usize) -> usize {
    if width <= 512 { 64 } else { 256 }
}

/// What the shader of the three verbs does: add a branch, normed or not, gated or not; norm the sum, scaled or not.
#[derive(Debug, Clone, Copy, Default)]
struct Does {
    branch: bool,
    norm: bool,
    gate: bool,
    out: bool,
    scale: bool,
}

fn program(verb: &'static str, reduction: Reduction, threads: usize, does: Does) -> Program {
    let program = Program::new(verb, &[wgsl!("common"), wgsl!("residual_norm")])
        .with("HAS_BRANCH", does.branch)
        .with("HAS_NORM", does.norm)
        .with("HAS_GATE", does.gate)
        .with("HAS_OUT", does.out)
        .with("HAS_SCALE", does.scale);
    program.reduces(reduction, threads, threads)
}

/// A modulation row as the shader reads it: its table, the distance between two items' rows, and the first one's start.
fn modulation(
    gpu: &Gpu,
    verb: &'static str,
    row: Option<Modulation<'_, WebGpuTensor>>,
    x: [usize; 3],
) -> Result<(Binding, usize, usize)> {
    let Some(Modulation { table, row }) = row else { return Ok((gpu.absent_input(), 0, 0)) };
    shapes::modulated(verb, table.shape(), row, x)?;
    let (items, rows, width) = (table.shape()[0], table.shape()[1], x[2]);
    let table = gpu.float(verb, table)?;
    Ok((Binding::from(&table), if items == 1 { 0 } else { rows * width }, row * width))
}

/// The three verbs: `x += branch`, then the norm of `x`, each where given.
pub(crate) fn residual_norm(
    gpu: &Gpu,
    verb: &'static str,
    x: &WebGpuTensor,
    branch: Option<Branch<'_, WebGpuTensor>>,
    norm: Option<RmsNorm<'_, WebGpuTensor>>,
) -> Result<Option<WebGpuTensor>> {
    let dims @ [items, tokens, width] = shapes::dims::<3>(verb, "x", x.shape())?;
    let x = &gpu.float(verb, x)?;
    let mut does = Does { branch: branch.is_some(), out: norm.is_some(), ..Does::default() };
    let (mut y, mut branch_norm, mut branch_eps) = (gpu.absent_input(), gpu.absent_input(), 0.0);
    let mut gate = (gpu.absent_input(), 0, 0);
    if let Some(branch) = branch {
        shapes::same(verb, "the branch", branch.y.shape(), &dims)?;
        y = Binding::from(&gpu.float(verb, branch.y)?);
        if let Some(norm) = branch.norm {
            shapes::norm(verb, &dims, norm.shape())?;
            branch_norm = Binding::from(&gpu.float(verb, norm)?);
        }
        does.norm = branch.norm.is_some();
        does.gate = branch.gate.is_some();
        gate = modulation(gpu, verb, branch.gate, dims)?;
        branch_eps = branch.eps;
    }
    let (mut weight, mut eps) = (gpu.absent_input(), 0.0);
    let mut scale = (gpu.absent_input(), 0, 0);
    let mut out = None;
    if let Some(norm) = norm {
        shapes::norm(verb, &dims, norm.weight.shape())?;
        weight = Binding::from(&gpu.float(verb, norm.weight)?);
        does.scale = norm.scale.is_some();
        scale = modulation(gpu, verb, norm.scale, dims)?;
        eps = norm.eps;
        out = Some(gpu.output(verb, &dims, DType::F32)?);
    }
    let sizes = [items * tokens, tokens, width, gate.1, gate.2, scale.1, scale.2];
    let mut parameters = sizes.map(|value| value as u32).to_vec();
    parameters.extend([branch_eps.to_bits(), eps.to_bits()]);
    let to = out.as_ref().map_or_else(|| gpu.absent_output(), Binding::from);
    let args = [Binding::from(x), y, branch_norm, gate.0, weight, scale.0, to];
    let program = program(verb, gpu.device.variant.reduction(), threads(width), does);
    gpu.dispatch(&program, &args, parameters, items * tokens)?;
    Ok(out)
}

/// Values that a workgroup of `group_norm`'s first stage takes, about.
const CHUNK: usize = 8192;
/// Threads of a workgroup that merges what the first stage found.
const MERGE: usize = 256;

fn group_program(entry: &'static str, silu: bool) -> Program {
    Program::new("group_norm", &[wgsl!("common"), wgsl!("group_norm")]).entry(entry).with("SILU", silu)
}

fn merge_program(reduction: Reduction) -> Program {
    group_program("main", false).file(wgsl!("group_norm_merge")).reduces(reduction, MERGE, MERGE)
}

pub(crate) fn group_norm(
    gpu: &Gpu,
    x: &WebGpuTensor,
    weight: &WebGpuTensor,
    bias: &WebGpuTensor,
    groups: usize,
    eps: f32,
    silu: bool,
) -> Result<WebGpuTensor> {
    let verb = "group_norm";
    let shape @ [items, h, w, channels] = shapes::group_norm(x.shape(), weight.shape(), bias.shape(), groups)?;
    let (pixels, width) = (h * w, channels / groups);
    // A workgroup takes as many groups as 256 threads have channels for; a wider group is cut into units.
    let unit = width.clamp(1, 256);
    let parts = width.div_ceil(unit);
    let units = (256 / unit).min(groups * parts).max(1);
    let blocks = (groups * parts).div_ceil(units);
    let chunk = (CHUNK / (units * unit)).max(1);
    let chunks = pixels.div_ceil(chunk);

    let partial = gpu.output(verb, &[items, groups, chunks, parts, 3], DType::F32)?;
    let moments = gpu.output(verb, &[items, groups, 2], DType::F32)?;
    let out = gpu.output(verb, &shape, DType::F32)?;
    let (x, weight, bias) = (gpu.float(verb, x)?, gpu.float(verb, weight)?, gpu.float(verb, bias)?);
    let sizes = [items, pixels, channels, groups, width, parts, unit, units, blocks, chunk, chunks];
    let mut parameters = sizes.map(|value| value as u32).to_vec();
    parameters.push(eps.to_bits());
    let args = [&x, &weight, &bias, &partial, &moments, &out].map(Binding::from);
    let stages = [
        (group_program("stats", false), chunks * blocks * items),
        (merge_program(gpu.device.variant.reduction()), groups * items),
        (group_program("apply", silu), out.len().div_ceil(256)),
    ];
    for (program, count) in stages {
        gpu.dispatch(&program, &args, parameters.clone(), count)?;
    }
    Ok(out)
}

/// Every program of these verbs.
pub(crate) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    for threads in [64, 256] {
        for bits in 0..32 {
            let bit = |i: u32| bits >> i & 1 == 1;
            let does = Does { branch: bit(0), norm: bit(1), gate: bit(2), out: bit(3), scale: bit(4) };
            let sensible = (does.branch || !(does.norm || does.gate)) && (does.out || !does.scale);
            if sensible && (does.branch || does.out) {
                programs.extend(Reduction::ALL.map(|reduction| program("residual_norm", reduction, threads, does)));
            }
        }
    }
    programs.push(group_program("stats", false));
    programs.extend(Reduction::ALL.map(merge_program));
    programs.extend([false, true].map(|silu| group_program("apply", silu)));
    programs
}
