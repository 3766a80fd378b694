//! Conversion of tensors to the types that kernels read.

use super::args::Arg;
use super::gpu::Gpu;
use super::kernel::Grid;
use crate::backend::DeviceTensor;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::error::Result;
use crate::tensor::DType;

/// Threads of a CTA.
const THREADS: usize = 256;

/// The number by which kernels know a floating type.
pub(crate) fn type_number(dtype: DType) -> usize {
    match dtype {
        DType::F32 => 0,
        DType::Bf16 => 1,
        DType::F16 => 2,
        DType::U32 | DType::U8 => unreachable!("ops check that {dtype} is a floating type"),
    }
}

fn program(from: DType, to: DType) -> Program {
    Program::new("convert", kernel!("convert.cu")).with("FROM", type_number(from)).with("TO", type_number(to))
}

impl Gpu {
    fn converted(&self, tensor: &CudaTensor, to: DType) -> Result<CudaTensor> {
        if tensor.dtype() == to {
            return Ok(tensor.clone());
        }
        let op = "convert";
        let program = program(tensor.dtype(), to);
        let out = self.output(op, tensor.shape(), to)?;
        let args = [Arg::Read(tensor), Arg::Write(&out), Arg::U32(tensor.len())];
        self.launch(&program, op, Grid::covering(tensor.len(), THREADS, 1), &args)?;
        Ok(out)
    }

    /// `tensor` as an activation: itself, or a copy of a tensor that was uploaded in another type.
    pub(crate) fn activation(&self, tensor: &CudaTensor) -> Result<CudaTensor> {
        self.converted(tensor, DType::Bf16)
    }

    /// `tensor` as F32: itself, or a widened copy.
    pub(crate) fn float(&self, tensor: &CudaTensor) -> Result<CudaTensor> {
        self.converted(tensor, DType::F32)
    }
}

/// The conversions that occur.
pub(crate) fn programs() -> Vec<Program> {
    let to_bf16 = [DType::F32, DType::F16].map(|from| program(from, DType::Bf16));
    let to_f32 = [DType::Bf16, DType::F16].map(|from| program(from, DType::F32));
    [to_bf16, to_f32].concat()
}
