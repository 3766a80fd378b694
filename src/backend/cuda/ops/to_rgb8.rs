//! `to_rgb8`: the decoder's output as pixels. Non-finite values set a flag that the download
//! checks.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::kernel::Grid;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::backend::{ToRgb8Args, ToRgb8Op};
use crate::error::Result;
use crate::tensor::DType;

/// Threads of a CTA.
const THREADS: usize = 256;
/// Values of a thread.
const VALUES: usize = 8;

fn program() -> Program {
    Program::new("to_rgb8", kernel!("to_rgb8.cu"))
}

impl ToRgb8Op for Cuda {
    fn run_to_rgb8(&self, args: ToRgb8Args<'_, CudaTensor>, shape: [usize; 4]) -> Result<CudaTensor> {
        let op = "to_rgb8";
        let gpu = &self.gpu;
        let ToRgb8Args { x } = args;
        let out = gpu.output(op, &shape, DType::U8)?;
        let x = gpu.activation(x)?;
        let args = [Arg::Read(&x), Arg::Write(&out), Arg::Write(&gpu.non_finite), Arg::U32(out.len())];
        gpu.launch(&program(), op, Grid::covering(out.len(), THREADS, VALUES), &args)?;
        Ok(out)
    }
}

/// The one program.
pub(crate) fn programs() -> Vec<Program> {
    vec![program()]
}
