//! `unscale_latents`: latents as the decoder reads them, channels last.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::kernel::Grid;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::backend::{UnscaleLatentsArgs, UnscaleLatentsOp};
use crate::error::Result;
use crate::tensor::DType;

/// Threads of a CTA.
const THREADS: usize = 256;

fn program() -> Program {
    Program::new("unscale_latents", kernel!("unscale_latents.cu"))
}

impl UnscaleLatentsOp for Cuda {
    fn run_unscale_latents(&self, args: UnscaleLatentsArgs<'_, CudaTensor>, shape: [usize; 4]) -> Result<CudaTensor> {
        let op = "unscale_latents";
        let gpu = &self.gpu;
        let UnscaleLatentsArgs { latents, items, scale, shift } = args;
        let [_, h, w, channels] = shape;
        let out = gpu.output(op, &shape, DType::Bf16)?;
        let args = [
            Arg::Read(latents),
            Arg::Write(&out),
            Arg::U32(out.len()),
            Arg::U32(channels),
            Arg::U32(h * w),
            Arg::U32(items.start),
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
