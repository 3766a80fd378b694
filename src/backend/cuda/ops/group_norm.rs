//! `group_norm`: statistics of chunks of pixels, their merge into moments, and the norm.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::kernel::Grid;
use crate::backend::cuda::memory::tensor::{CudaTensor, VECTOR};
use crate::backend::{GroupNormArgs, GroupNormOp};
use crate::error::Result;
use crate::tensor::DType;

/// Threads of a CTA.
const THREADS: usize = 256;
/// The least values of a CTA, about.
const MIN_VALUES: usize = 8_192;
/// The most CTAs of an SM: each ends with a few sums that take as long as [`MIN_VALUES`] values.
const CTAS_PER_SM: usize = 16;

fn program(aligned: bool, silu: bool) -> Program {
    Program::new("group_norm", kernel!("group_norm.cu")).with("ALIGNED", aligned).with("SILU", silu)
}

impl GroupNormOp for Cuda {
    fn run_group_norm(&self, args: GroupNormArgs<'_, CudaTensor>, shape: [usize; 4]) -> Result<CudaTensor> {
        let op = "group_norm";
        let gpu = &self.gpu;
        let GroupNormArgs { x, weight, bias, groups, eps, silu } = args;
        let [items, h, w, channels] = shape;
        let pixels = h * w;
        let width = channels / groups;
        let aligned = channels.is_multiple_of(VECTOR) && channels <= VECTOR * THREADS;
        // A CTA has all channels of its pixels, or those of one group.
        let cta_channels = if aligned { channels } else { width };
        let columns = if aligned { items } else { items * groups };
        let balanced = (columns * pixels).div_ceil(CTAS_PER_SM * gpu.device.sms);
        let chunk = balanced.max(MIN_VALUES / cta_channels).max(1);
        let chunks = pixels.div_ceil(chunk);
        let program = program(aligned, silu);
        let grid = Grid::linear(columns * chunks, THREADS);

        let partial = gpu.output(op, &[items, groups, chunks, 2], DType::F32)?;
        let moments = gpu.output(op, &[items, groups, 2], DType::F32)?;
        let out = gpu.output(op, &shape, DType::Bf16)?;
        let x = gpu.activation(x)?;
        let weight = gpu.float(weight)?;
        let bias = gpu.float(bias)?;
        let args = [
            Arg::Read(&x),
            Arg::Write(&partial),
            Arg::U32(pixels),
            Arg::U32(channels),
            Arg::U32(groups),
            Arg::U32(chunk),
            Arg::U32(chunks),
        ];
        gpu.launch(&program, "measure", grid, &args)?;
        let args = [
            Arg::Read(&partial),
            Arg::Write(&moments),
            Arg::U32(width),
            Arg::U32(pixels),
            Arg::U32(chunk),
            Arg::U32(chunks),
            Arg::F32(eps),
        ];
        gpu.launch(&program, "merge", Grid::linear(items * groups, THREADS), &args)?;
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
        gpu.launch(&program, "apply", grid, &args)?;
        Ok(out)
    }
}

/// Programs with and without vectors.
pub(crate) fn programs() -> Vec<Program> {
    vec![program(false, false), program(true, true)]
}
