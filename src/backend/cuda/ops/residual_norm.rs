//! `residual_norm`, and the kernel that `rms_norm` and `residual` share with it.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::kernel::{Grid, WARP};
use crate::backend::cuda::memory::tensor::{CudaTensor, vector};
use crate::backend::gpu::residual_norm::Parts;
use crate::backend::{Branch, Modulation, ResidualNormArgs, ResidualNormOp, RmsNorm};
use crate::error::Result;
use crate::tensor::Compute;

/// The most threads of a CTA.
const MAX_THREADS: usize = 1024;

/// The threads for a token of `width`, each of which keeps about four vectors in registers.
fn threads(width: usize) -> usize {
    let vectors = width / vector(width);
    vectors.div_ceil(4).next_multiple_of(WARP).clamp(WARP, MAX_THREADS)
}

fn program(op: &'static str, width: usize, parts: Parts, output: Compute) -> Program {
    let threads = threads(width);
    let vector = vector(width);
    Program::new(op, kernel!("residual_norm.cu"))
        .with("THREADS", threads)
        .with("VECTOR", vector)
        .with("PARTS", width.div_ceil(threads * vector))
        .with_all(parts.constants())
        .with("OUT_FP8", output == Compute::Fp8)
        .pdl()
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
        let [items, rows, width] = table.dims();
        let stride = if items == 1 { 0 } else { rows * width };
        Ok(Self { table: Some(gpu.activation(table)?), stride, offset: row * width })
    }
}

/// A norm and its output.
pub(super) struct Norm<'a> {
    pub norm: RmsNorm<'a, CudaTensor>,
    pub out: &'a CudaTensor,
}

/// Launches `x += branch`, then the norm of `x`, each if given.
pub(super) fn launch(
    gpu: &Gpu,
    op: &'static str,
    x: &CudaTensor,
    branch: Option<Branch<'_, CudaTensor>>,
    norm: Option<Norm<'_>>,
) -> Result<()> {
    let [items, tokens, width] = x.dims();
    let y = branch.as_ref().map(|branch| gpu.activation(branch.y)).transpose()?;
    let branch_norm = branch.as_ref().and_then(|branch| branch.norm);
    let branch_norm = branch_norm.map(|norm| gpu.float(norm)).transpose()?;
    let gate = Row::new(gpu, branch.as_ref().and_then(|branch| branch.gate))?;
    let weight = norm.as_ref().map(|norm| gpu.float(norm.norm.weight)).transpose()?;
    let scale = Row::new(gpu, norm.as_ref().and_then(|norm| norm.norm.scale))?;
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
        norm.as_ref().map_or(Arg::Absent, |norm| Arg::Write(norm.out)),
        norm.as_ref().map_or(Arg::Absent, |norm| Arg::write_scales(norm.out)),
        Arg::U32(tokens),
        Arg::U32(width),
        Arg::U32(gate.stride),
        Arg::U32(gate.offset),
        Arg::U32(scale.stride),
        Arg::U32(scale.offset),
        Arg::F32(branch.map_or(0.0, |branch| branch.eps)),
        Arg::F32(norm.as_ref().map_or(0.0, |norm| norm.norm.eps)),
    ];
    let grid = Grid::linear(items * tokens, threads(width));
    let output = norm.as_ref().map_or(Compute::Native, |norm| norm.norm.output);
    gpu.launch(&program(op, width, parts, output), "residual_norm", grid, &args)
}

impl ResidualNormOp for Cuda {
    fn run_residual_norm(&self, args: ResidualNormArgs<'_, CudaTensor>, shape: [usize; 3]) -> Result<CudaTensor> {
        let ResidualNormArgs { x, branch, norm } = args;
        let out = self.gpu.output_operand("residual_norm", &shape, norm.output, 1)?;
        launch(&self.gpu, "residual_norm", x, Some(branch), Some(Norm { norm, out: &out }))?;
        Ok(out)
    }
}

/// Every variant at an odd width, and the models' variants at their widths.
pub(crate) fn programs() -> Vec<Program> {
    let plain = Parts { branch: true, norm: true, ..Parts::default() };
    let scaled = Parts { norm: true, scale: true, ..Parts::default() };
    let whole = Parts { branch: true, branch_norm: true, gate: true, norm: true, scale: true };
    let models = [256, 2560, 3840, 10_240].into_iter();
    let of = |width, parts| program("residual_norm", width, parts, Compute::Native);
    let models = models.flat_map(|width| [plain, scaled, whole].map(|parts| of(width, parts)));
    Parts::all().map(|parts| of(61, parts)).chain(models).collect()
}

/// The models' variants that write FP8.
pub(crate) fn fp8_programs() -> Vec<Program> {
    let scaled = Parts { norm: true, scale: true, ..Parts::default() };
    let whole = Parts { branch: true, branch_norm: true, gate: true, norm: true, scale: true };
    [scaled, whole].map(|parts| program("residual_norm", 3840, parts, Compute::Fp8)).to_vec()
}
