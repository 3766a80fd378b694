//! `timestep_embedding`: two gemvs, the first of which computes the sinusoids.

use crate::backend::cuda::Cuda;
use crate::backend::cuda::driver::program::{File, Program, kernel};
use crate::backend::cuda::gemm::gemv::{self, Gemv};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::matrix::CudaLinear;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::backend::{DeviceWeight, TimestepEmbeddingArgs, TimestepEmbeddingOp};
use crate::error::Result;
use crate::tensor::DType;

const FILE: File = kernel!("timestep_embedding.cu");

fn constants(w: &CudaLinear) -> [(&'static str, usize); 1] {
    [("HAS_BIAS", usize::from(w.bias.is_some()))]
}

impl TimestepEmbeddingOp for Cuda {
    fn run_timestep_embedding(
        &self,
        args: TimestepEmbeddingArgs<'_, CudaTensor, CudaLinear>,
        shape: [usize; 2],
    ) -> Result<CudaTensor> {
        let op = "timestep_embedding";
        let gpu = &self.gpu;
        let TimestepEmbeddingArgs { times, step, w1, w2 } = args;
        let [rows, embedded] = shape;
        let [steps, _] = times.dims();
        let [hidden, k] = w1.dims();
        let frequencies = gpu.frequencies(op, k / 2)?;
        let matrix = w1.matrix.dense(gpu, op)?;
        let inner = gpu.output(op, &[rows, hidden], DType::F32)?;
        let args = [
            Arg::Read(times),
            Arg::Read(step),
            Arg::Read(&frequencies),
            matrix.arg(),
            Arg::optional(w1.bias.as_ref()),
            Arg::Write(&inner),
            Arg::U32(steps),
            Arg::U32(rows),
            Arg::U32(hidden),
            Arg::U32(k),
            Arg::U32(matrix.stride()),
        ];
        let first = Gemv {
            op,
            file: FILE,
            entry: "hidden",
            constants: &constants(w1),
            m: rows,
            n: hidden,
            shared: rows * k * DType::F32.size(),
            args: &args,
        };
        first.launch(gpu)?;
        let out = gpu.output(op, &shape, DType::Bf16)?;
        let matrix = w2.matrix.dense(gpu, op)?;
        let args = [
            Arg::Read(&inner),
            matrix.arg(),
            Arg::optional(w2.bias.as_ref()),
            Arg::Write(&out),
            Arg::U32(rows),
            Arg::U32(embedded),
            Arg::U32(hidden),
            Arg::U32(matrix.stride()),
        ];
        let second = Gemv {
            op,
            file: FILE,
            entry: "embed",
            constants: &constants(w2),
            m: rows,
            n: embedded,
            shared: 0,
            args: &args,
        };
        second.launch(gpu)?;
        Ok(out)
    }
}

/// Programs with and without bias.
pub(crate) fn programs() -> Vec<Program> {
    [0, 1].into_iter().flat_map(|bias| gemv::programs("timestep_embedding", FILE, &[("HAS_BIAS", bias)])).collect()
}
