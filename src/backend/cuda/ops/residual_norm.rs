//! `rms_norm`, `residual`, `residual_norm` and `group_norm`.

use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::recording::{Arg, Grid};
use crate::backend::cuda::memory::tensor::{CudaTensor, VECTOR, vector};
use crate::backend::{Branch, DeviceTensor, Modulation, RmsNorm, shapes};
use crate::error::Result;
use crate::tensor::DType;

/// Threads for a token of `width`, of which each keeps some vectors in registers.
fn threads(width: usize) -> usize {
    let vectors = width / vector(width);
    vectors.div_ceil(4).next_multiple_of(32).clamp(32, 1024)
}

/// What the kernel of the three verbs does: add a branch, normed or not, gated or not; norm the sum, scaled or not.
#[derive(Debug, Clone, Copy, Default)]
struct Does {
    branch: bool,
    norm: bool,
    gate: bool,
    out: bool,
    scale: bool,
}

fn program(verb: &'static str, width: usize, does: Does) -> Program {
    let (threads, vector) = (threads(width), vector(width));
    Program::new(verb, &[kernel!("residual_norm.cu")])
        .with("THREADS", threads)
        .with("VECTOR", vector)
        .with("PARTS", width.div_ceil(threads * vector))
        .with("HAS_BRANCH", does.branch)
        .with("HAS_NORM", does.norm)
        .with("HAS_GATE", does.gate)
        .with("HAS_OUT", does.out)
        .with("HAS_SCALE", does.scale)
}

/// A modulation row as the kernel reads it: its table from this row on, and the distance between two items' rows.
struct Row {
    table: CudaTensor,
    stride: usize,
    offset: usize,
}

impl Row {
    fn new(
        gpu: &Gpu,
        verb: &'static str,
        row: Option<Modulation<'_, CudaTensor>>,
        x: [usize; 3],
    ) -> Result<Option<Self>> {
        let Some(Modulation { table, row }) = row else { return Ok(None) };
        shapes::modulated(verb, table.shape(), row, x)?;
        let (items, rows, width) = (table.shape()[0], table.shape()[1], x[2]);
        let stride = if items == 1 { 0 } else { rows * width };
        Ok(Some(Self { table: gpu.activation(table)?, stride, offset: row * width }))
    }
}

/// The argument of a row that may be absent, and its stride.
fn row_args(row: Option<&Row>) -> (Arg<'_>, usize, usize) {
    row.map_or((Arg::Absent, 0, 0), |row| (Arg::Read(&row.table), row.stride, row.offset))
}

/// The three verbs: `x += branch`, then the norm of `x`, each where given.
pub(crate) fn residual_norm(
    gpu: &Gpu,
    verb: &'static str,
    x: &CudaTensor,
    branch: Option<Branch<'_, CudaTensor>>,
    norm: Option<RmsNorm<'_, CudaTensor>>,
) -> Result<Option<CudaTensor>> {
    let dims @ [items, tokens, width] = shapes::dims::<3>(verb, "x", x.shape())?;
    let mut does = Does { branch: branch.is_some(), out: norm.is_some(), ..Does::default() };
    let (mut y, mut branch_norm, mut gate, mut branch_eps) = (None, None, None, 0.0);
    if let Some(branch) = branch {
        shapes::same(verb, "the branch", branch.y.shape(), &dims)?;
        y = Some(gpu.activation(branch.y)?);
        if let Some(norm) = branch.norm {
            shapes::norm(verb, &dims, norm.shape())?;
            branch_norm = Some(gpu.float(norm)?);
        }
        gate = Row::new(gpu, verb, branch.gate, dims)?;
        (does.norm, does.gate, branch_eps) = (branch_norm.is_some(), gate.is_some(), branch.eps);
    }
    let (mut weight, mut scale, mut eps, mut out) = (None, None, 0.0, None);
    if let Some(norm) = norm {
        shapes::norm(verb, &dims, norm.weight.shape())?;
        weight = Some(gpu.float(norm.weight)?);
        scale = Row::new(gpu, verb, norm.scale, dims)?;
        (does.scale, eps) = (scale.is_some(), norm.eps);
        out = Some(gpu.output(verb, &dims, DType::Bf16)?);
    }
    let (gates, gate_stride, gate_offset) = row_args(gate.as_ref());
    let (scales, scale_stride, scale_offset) = row_args(scale.as_ref());
    let args = [
        // Only read where there is no branch.
        Arg::Write(x),
        Arg::optional(y.as_ref()),
        Arg::optional(branch_norm.as_ref()),
        gates,
        Arg::optional(weight.as_ref()),
        scales,
        out.as_ref().map_or(Arg::Absent, Arg::Write),
        Arg::U32(tokens),
        Arg::U32(width),
        Arg::U32(gate_stride),
        Arg::U32(gate_offset),
        Arg::U32(scale_stride),
        Arg::U32(scale_offset),
        Arg::F32(branch_eps),
        Arg::F32(eps),
    ];
    gpu.launch(&program(verb, width, does), "residual_norm", Grid::row(items * tokens, threads(width)), &args)?;
    Ok(out)
}

/// Threads of the group norm's blocks.
const GROUP_BLOCK: usize = 256;
/// Values that a block takes at least, about.
const CHUNK: usize = 8_192;
/// Blocks that a multiprocessor should get at most: each ends with a few sums that take as long as many values.
const GROUP_BLOCKS: usize = 16;

fn group_program(aligned: bool, silu: bool) -> Program {
    Program::new("group_norm", &[kernel!("group_norm.cu")]).with("ALIGNED", aligned).with("SILU", silu)
}

pub(crate) fn group_norm(
    gpu: &Gpu,
    x: &CudaTensor,
    weight: &CudaTensor,
    bias: &CudaTensor,
    groups: usize,
    eps: f32,
    silu: bool,
) -> Result<CudaTensor> {
    let verb = "group_norm";
    let shape @ [items, h, w, channels] = shapes::group_norm(x.shape(), weight.shape(), bias.shape(), groups)?;
    let (pixels, width) = (h * w, channels / groups);
    let aligned = channels.is_multiple_of(VECTOR) && channels <= VECTOR * GROUP_BLOCK;
    // A block takes all groups of its pixels, or one.
    let (each, of_pixels) = if aligned { (channels, items) } else { (width, items * groups) };
    let chunk = (of_pixels * pixels).div_ceil(GROUP_BLOCKS * gpu.device.processors).max(CHUNK / each).max(1);
    let chunks = pixels.div_ceil(chunk);
    let blocks = of_pixels * chunks;
    let program = group_program(aligned, silu);

    let partial = gpu.output(verb, &[items, groups, chunks, 2], DType::F32)?;
    let moments = gpu.output(verb, &[items, groups, 2], DType::F32)?;
    let out = gpu.output(verb, &shape, DType::Bf16)?;
    let (x, weight, bias) = (gpu.activation(x)?, gpu.float(weight)?, gpu.float(bias)?);
    let args = [
        Arg::Read(&x),
        Arg::Write(&partial),
        Arg::U32(pixels),
        Arg::U32(channels),
        Arg::U32(groups),
        Arg::U32(chunk),
        Arg::U32(chunks),
    ];
    gpu.launch(&program, "measure", Grid::row(blocks, GROUP_BLOCK), &args)?;
    let args = [
        Arg::Read(&partial),
        Arg::Write(&moments),
        Arg::U32(width),
        Arg::U32(pixels),
        Arg::U32(chunk),
        Arg::U32(chunks),
        Arg::F32(eps),
    ];
    gpu.launch(&program, "merge", Grid::row(items * groups, GROUP_BLOCK), &args)?;
    let args = [
        Arg::Read(&x),
        Arg::Read(&weight),
        Arg::Read(&bias),
        Arg::Read(&moments),
        Arg::Write(&out),
        Arg::U32(pixels),
        Arg::U32(channels),
        Arg::U32(groups),
        Arg::U32(chunk),
        Arg::U32(chunks),
    ];
    gpu.launch(&program, "apply", Grid::row(blocks, GROUP_BLOCK), &args)?;
    Ok(out)
}

/// Programs of these verbs: what the models do, and every choice at an odd width.
pub(crate) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    let flags = |bits: usize| {
        let bit = |i: u32| bits >> i & 1 == 1;
        Does { branch: bit(0), norm: bit(1), gate: bit(2), out: bit(3), scale: bit(4) }
    };
    for bits in 0..32 {
        let does = flags(bits);
        let sensible = (does.branch || !(does.norm || does.gate)) && (does.out || !does.scale);
        if sensible && (does.branch || does.out) {
            programs.push(program("residual_norm", 61, does));
        }
    }
    for width in [256, 2560, 3840, 10_240] {
        programs.extend([0b01001, 0b11000, 0b11111].map(|bits| program("residual_norm", width, flags(bits))));
    }
    for (aligned, silu) in [(false, false), (true, true)] {
        programs.push(group_program(aligned, silu));
    }
    programs
}
