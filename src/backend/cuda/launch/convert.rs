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

fn program(from: usize, to: usize) -> Program {
    Program::new("convert", &[kernel!("convert.cu")]).with("FROM", from).with("TO", to)
}

impl Gpu {
    fn converted(&self, tensor: &CudaTensor, to: DType) -> Result<CudaTensor> {
        if tensor.dtype() == to {
            return Ok(tensor.clone());
        }
        let op = "convert";
        let program = program(type_number(tensor.dtype()), type_number(to));
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
    [(0, 1), (2, 1), (1, 0), (2, 0)].map(|(from, to)| program(from, to)).to_vec()
}
