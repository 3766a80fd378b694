//! `scale_latents`: the encoder's mean as latents, channels first.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::kernel::Grid;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::backend::{ScaleLatentsArgs, ScaleLatentsOp};
use crate::error::Result;
use crate::tensor::DType;

/// Threads of a CTA.
const THREADS: usize = 256;

fn program() -> Program {
    Program::new("scale_latents", kernel!("scale_latents.cu"))
}

impl ScaleLatentsOp for Cuda {
    fn run_scale_latents(&self, args: ScaleLatentsArgs<'_, CudaTensor>, shape: [usize; 4]) -> Result<CudaTensor> {
        let op = "scale_latents";
        let gpu = &self.gpu;
        let ScaleLatentsArgs { x, channels, scale, shift } = args;
        let [_, _, h, w] = shape;
        let out = gpu.output(op, &shape, DType::F32)?;
        let x = gpu.activation(x)?;
        let [.., x_channels] = x.dims::<4>();
        let args = [
            Arg::Read(&x),
            Arg::Write(&out),
            Arg::U32(out.len()),
            Arg::U32(channels),
            Arg::U32(x_channels),
            Arg::U32(h * w),
            Arg::F32(scale),
            Arg::F32(shift),
        ];
        gpu.launch(&program(), op, Grid::covering(out.len(), THREADS, 1), &args)?;
        Ok(out)
    }
}

/// The one program.
pub(crate) fn programs() -> Vec<Program> {
    vec![program()]
}
