//! `group_norm`: statistics of chunks of pixels, their merge into moments, and the norm. The
//! kernels are shared with `group_moments`, the first two steps, and `normalize_groups`, the last
//! one.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::kernel::Grid;
use crate::backend::cuda::memory::tensor::{CudaTensor, VECTOR};
use crate::backend::{GroupNormArgs, GroupNormOp};
use crate::error::Result;
use crate::tensor::DType;

const OP: &str = "group_norm";
/// Threads of a CTA.
const THREADS: usize = 256;
/// The least values of a CTA, about.
const MIN_VALUES: usize = 8_192;
/// The most CTAs of an SM: each ends with a few sums that take as long as [`MIN_VALUES`] values.
const CTAS_PER_SM: usize = 16;

fn program(op: &'static str, aligned: bool, silu: bool) -> Program {
    Program::new(op, kernel!("group_norm.cu")).with("ALIGNED", aligned).with("SILU", silu)
}

/// The weight, the bias and the output of a norm.
pub(super) struct Affine<'a> {
    pub weight: &'a CudaTensor,
    pub bias: &'a CudaTensor,
    pub out: &'a CudaTensor,
}

/// The launches of a picture `x`.
pub(super) struct Launch<'a> {
    gpu: &'a Gpu,
    op: &'static str,
    x: CudaTensor,
    program: Program,
    grid: Grid,
    groups: usize,
    /// Pixels of a CTA, and the number of such chunks.
    chunk: usize,
    chunks: usize,
}

impl<'a> Launch<'a> {
    pub(super) fn new(gpu: &'a Gpu, op: &'static str, x: &CudaTensor, groups: usize, silu: bool) -> Result<Self> {
        let [items, h, w, channels] = x.dims();
        let pixels = h * w;
        let aligned = channels.is_multiple_of(VECTOR) && channels <= VECTOR * THREADS;
        // A CTA has all channels of its pixels, or those of one group.
        let cta_channels = if aligned { channels } else { channels / groups };
        let columns = if aligned { items } else { items * groups };
        let balanced = (columns * pixels).div_ceil(CTAS_PER_SM * gpu.device.sms);
        let chunk = balanced.max(MIN_VALUES / cta_channels).max(1);
        let chunks = pixels.div_ceil(chunk);
        let program = program(op, aligned, silu);
        let grid = Grid::linear(columns * chunks, THREADS);
        Ok(Self { gpu, op, x: gpu.activation(x)?, program, grid, groups, chunk, chunks })
    }

    /// The mean of each group, and its variance or, with an `eps`, 1/√(variance + eps): `[items,
    /// groups, 2]`.
    pub(super) fn moments(&self, eps: Option<f32>) -> Result<CudaTensor> {
        let Self { gpu, op, groups, chunk, chunks, .. } = *self;
        let [items, h, w, channels] = self.x.dims();
        let pixels = h * w;
        let partial = gpu.output(op, &[items, groups, chunks, 2], DType::F32)?;
        let moments = gpu.output(op, &[items, groups, 2], DType::F32)?;
        let args = [
            Arg::Read(&self.x),
            Arg::Write(&partial),
            Arg::U32(pixels),
            Arg::U32(channels),
            Arg::U32(groups),
            Arg::U32(chunk),
            Arg::U32(chunks),
        ];
        gpu.launch(&self.program, "measure", self.grid, &args)?;
        let mut args = vec![
            Arg::Read(&partial),
            Arg::Write(&moments),
            Arg::U32(channels / groups),
            Arg::U32(pixels),
            Arg::U32(chunk),
            Arg::U32(chunks),
        ];
        args.extend(eps.map(Arg::F32));
        let entry = if eps.is_some() { "merge" } else { "merge_variance" };
        gpu.launch(&self.program, entry, Grid::linear(items * groups, THREADS), &args)?;
        Ok(moments)
    }

    /// The means and the factors 1/√(variance + eps) from means and `variances`.
    pub(super) fn inverted(&self, variances: &CudaTensor, eps: f32) -> Result<CudaTensor> {
        let moments = self.gpu.output(self.op, &variances.dims::<3>(), DType::F32)?;
        let groups = variances.len() / 2;
        let args = [Arg::Read(variances), Arg::Write(&moments), Arg::U32(groups), Arg::F32(eps)];
        let grid = Grid::linear(groups.div_ceil(THREADS), THREADS);
        self.gpu.launch(&self.program, "invert_variance", grid, &args)?;
        Ok(moments)
    }

    /// The norm of each value by means and factors.
    pub(super) fn apply(&self, moments: &CudaTensor, norm: Affine<'_>) -> Result<()> {
        let gpu = self.gpu;
        let [_, h, w, channels] = self.x.dims();
        let weight = gpu.float(norm.weight)?;
        let bias = gpu.float(norm.bias)?;
        let args = [
            Arg::Read(&self.x),
            Arg::Read(&weight),
            Arg::Read(&bias),
            Arg::Read(moments),
            Arg::Write(norm.out),
            Arg::U32(h * w),
            Arg::U32(channels),
            Arg::U32(self.groups),
            Arg::U32(self.chunk),
            Arg::U32(self.chunks),
        ];
        gpu.launch(&self.program, "apply", self.grid, &args)
    }
}

impl GroupNormOp for Cuda {
    fn run_group_norm(&self, args: GroupNormArgs<'_, CudaTensor>, shape: [usize; 4]) -> Result<CudaTensor> {
        let GroupNormArgs { x, weight, bias, groups, eps, silu } = args;
        let launch = Launch::new(&self.gpu, OP, x, groups, silu)?;
        let moments = launch.moments(Some(eps))?;
        let out = self.gpu.output(OP, &shape, DType::Bf16)?;
        launch.apply(&moments, Affine { weight, bias, out: &out })?;
        Ok(out)
    }
}

/// Programs with and without vectors, also of `group_moments` and `normalize_groups`.
pub(crate) fn programs() -> Vec<Program> {
    vec![program(OP, false, false), program(OP, true, true)]
}
