//! `normalize_rgb8`: pixels as the encoder reads them.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::kernel::Grid;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::backend::{NormalizeRgb8Args, NormalizeRgb8Op};
use crate::error::Result;
use crate::tensor::DType;

/// Threads of a CTA.
const THREADS: usize = 256;

fn program() -> Program {
    Program::new("normalize_rgb8", kernel!("normalize_rgb8.cu"))
}

impl NormalizeRgb8Op for Cuda {
    fn run_normalize_rgb8(&self, args: NormalizeRgb8Args<'_, CudaTensor>, shape: [usize; 4]) -> Result<CudaTensor> {
        let op = "normalize_rgb8";
        let gpu = &self.gpu;
        let NormalizeRgb8Args { pixels } = args;
        let out = gpu.output(op, &shape, DType::Bf16)?;
        let args = [Arg::Read(pixels), Arg::Write(&out), Arg::U32(out.len())];
        gpu.launch(&program(), op, Grid::covering(out.len(), THREADS, 1), &args)?;
        Ok(out)
    }
}

/// The one program.
pub(crate) fn programs() -> Vec<Program> {
    vec![program()]
}
