//! `residual_norm`, and the kernel that `rms_norm` and `residual` share with it.

use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::kernel::Grid;
use crate::backend::cuda::memory::tensor::{CudaTensor, vector};
use crate::backend::gpu::residual_norm::Parts;
use crate::backend::{Branch, DeviceTensor, Modulation, RmsNorm, shapes};
use crate::error::Result;
use crate::tensor::DType;

/// The threads for a token of `width`, each of which keeps about four vectors in registers.
fn threads(width: usize) -> usize {
    let vectors = width / vector(width);
    vectors.div_ceil(4).next_multiple_of(32).clamp(32, 1024)
}

fn program(op: &'static str, width: usize, parts: Parts) -> Program {
    let threads = threads(width);
    let vector = vector(width);
    let program = Program::new(op, &[kernel!("residual_norm.cu")])
        .with("THREADS", threads)
        .with("VECTOR", vector)
        .with("PARTS", width.div_ceil(threads * vector));
    parts.constants().into_iter().fold(program, |program, (name, value)| program.with(name, value))
}

/// A modulation row as the kernel reads it: its table, the distance of two items' rows, and the
/// offset of the first.
#[derive(Default)]
struct Row {
    table: Option<CudaTensor>,
    stride: usize,
    offset: usize,
}

impl Row {
    fn new(gpu: &Gpu, row: Option<Modulation<'_, CudaTensor>>) -> Result<Self> {
        let Some(Modulation { table, row }) = row else { return Ok(Self::default()) };
        let [items, rows, width] = [table.shape()[0], table.shape()[1], table.shape()[2]];
        let stride = if items == 1 { 0 } else { rows * width };
        Ok(Self { table: Some(gpu.activation(table)?), stride, offset: row * width })
    }
}

/// `x += branch`, then the norm of `x`, each if given.
pub(super) fn branch_and_norm(
    gpu: &Gpu,
    op: &'static str,
    x: &CudaTensor,
    branch: Option<Branch<'_, CudaTensor>>,
    norm: Option<RmsNorm<'_, CudaTensor>>,
) -> Result<Option<CudaTensor>> {
    let dims @ [items, tokens, width] = shapes::dims::<3>(op, "x", x.shape())?;
    if let Some(branch) = &branch {
        shapes::same(op, "the branch", branch.y.shape(), &dims)?;
        branch.norm.map_or(Ok(dims), |norm| shapes::norm(op, &dims, norm.shape()))?;
        branch.gate.map_or(Ok(()), |gate| shapes::modulated(op, gate.table.shape(), gate.row, dims))?;
    }
    if let Some(norm) = &norm {
        shapes::norm(op, &dims, norm.weight.shape())?;
        norm.scale.map_or(Ok(()), |scale| shapes::modulated(op, scale.table.shape(), scale.row, dims))?;
    }
    let y = branch.as_ref().map(|branch| gpu.activation(branch.y)).transpose()?;
    let branch_norm = branch.as_ref().and_then(|branch| branch.norm);
    let branch_norm = branch_norm.map(|norm| gpu.float(norm)).transpose()?;
    let gate = Row::new(gpu, branch.as_ref().and_then(|branch| branch.gate))?;
    let weight = norm.as_ref().map(|norm| gpu.float(norm.weight)).transpose()?;
    let scale = Row::new(gpu, norm.as_ref().and_then(|norm| norm.scale))?;
    let out = norm.as_ref().map(|_| gpu.output(op, &dims, DType::Bf16)).transpose()?;
    let parts = Parts {
        branch: y.is_some(),
        branch_norm: branch_norm.is_some(),
        gate: gate.table.is_some(),
        norm: weight.is_some(),
        scale: scale.table.is_some(),
    };
    let args = [
        // Without a branch, the kernel only reads it.
        Arg::Write(x),
        Arg::optional(y.as_ref()),
        Arg::optional(branch_norm.as_ref()),
        Arg::optional(gate.table.as_ref()),
        Arg::optional(weight.as_ref()),
        Arg::optional(scale.table.as_ref()),
        out.as_ref().map_or(Arg::Absent, Arg::Write),
        Arg::U32(tokens),
        Arg::U32(width),
        Arg::U32(gate.stride),
        Arg::U32(gate.offset),
        Arg::U32(scale.stride),
        Arg::U32(scale.offset),
        Arg::F32(branch.map_or(0.0, |branch| branch.eps)),
        Arg::F32(norm.map_or(0.0, |norm| norm.eps)),
    ];
    let grid = Grid::linear(items * tokens, threads(width));
    gpu.launch(&program(op, width, parts), "residual_norm", grid, &args)?;
    Ok(out)
}

pub(crate) fn residual_norm(
    gpu: &Gpu,
    x: &mut CudaTensor,
    branch: Branch<'_, CudaTensor>,
    norm: RmsNorm<'_, CudaTensor>,
) -> Result<Option<CudaTensor>> {
    gpu.make_activation(x)?;
    branch_and_norm(gpu, "residual_norm", x, Some(branch), Some(norm))
}

/// Every variant at an odd width, and the models' variants at their widths.
pub(crate) fn programs() -> Vec<Program> {
    let gated = Parts { branch: true, norm: true, ..Parts::default() };
    let scaled = Parts { norm: true, scale: true, ..Parts::default() };
    let whole = Parts { branch: true, branch_norm: true, gate: true, norm: true, scale: true };
    let models = [256, 2560, 3840, 10_240].into_iter();
    let models = models.flat_map(|width| [gated, scaled, whole].map(|parts| program("residual_norm", width, parts)));
    Parts::all().map(|parts| program("residual_norm", 61, parts)).chain(models).collect()
}
