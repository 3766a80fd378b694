//! `timestep_embedding`: sinusoids through a gemv, then a linear.

use super::linear::product;
use super::{Binding, DType, DeviceTensor, Program, Result, WebGpu, WebGpuTensor, modulation, uniform, wgsl};
use crate::backend::webgpu::gemm::{self, Gemm, GemmOp, UseGemv};
use crate::backend::webgpu::matrix::WebGpuLinear;
use crate::backend::{TimestepEmbeddingArgs, TimestepEmbeddingOp};

const OP: GemmOp = GemmOp {
    name: "timestep_embedding",
    shader: wgsl!("timestep_embedding"),
    f16: false,
    paired: false,
    prologue: false,
    gemv: UseGemv::Always,
};

uniform! {
    /// The field of `timestep_embedding.wgsl` behind those of every gemm.
    struct Params {
        times: u32,
    }
}

impl TimestepEmbeddingOp for WebGpu {
    fn run_timestep_embedding(
        &self,
        args: TimestepEmbeddingArgs<'_, WebGpuTensor, WebGpuLinear>,
        shape @ [r, _]: [usize; 2],
    ) -> Result<WebGpuTensor> {
        let TimestepEmbeddingArgs { times, step, w1, w2 } = args;
        let gpu = &self.0;
        let [hidden, k] = w1.matrix.dims();
        let frequencies = gpu.frequencies(OP.name, k / 2)?;
        let inner = gpu.output(OP.name, &[r, hidden], DType::F32)?;
        let gemm = Gemm {
            op: OP,
            x: &frequencies,
            row: 1,
            matrix: &w1.matrix,
            m: r,
            k,
            width: hidden,
            out: &inner,
            extra: vec![gpu.optional(w1.bias.as_ref()), Binding::from(times), Binding::from(step)],
            params: Params { times: times.shape()[0] as u32 },
            constants: vec![("HAS_BIAS", w1.bias.is_some())],
        };
        gemm.run(gpu)?;
        let out = gpu.output(OP.name, &shape, DType::F32)?;
        product(gpu, GemmOp { name: OP.name, ..modulation::OP }, &inner, w2, false, &out)?;
        Ok(out)
    }
}

/// Every program of this op's first half. The second half runs those of `modulation`.
pub(super) fn programs() -> Vec<Program> {
    gemm::programs::<Params>(OP, false, &[("HAS_BIAS", true)])
}
