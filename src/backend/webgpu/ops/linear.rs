//! `linear`, and the product that `modulation` and `timestep_embedding` share with it.

use super::{DType, Gpu, HostTensor, Program, Result, WebGpu, WebGpuTensor, f32s, upload_bias, wgsl};
use crate::backend::gpu::quantized::StoredFormat;
use crate::backend::webgpu::gemm::{self, Gemm, GemmOp, UseGemv};
use crate::backend::webgpu::matrix::stored::Stored;
use crate::backend::webgpu::matrix::upload::MatrixUpload;
use crate::backend::webgpu::matrix::{Matrix, WebGpuLinear};
use crate::backend::webgpu::memory::allocate::Place;
use crate::backend::{LinearArgs, LinearOp};
use crate::tensor::Weight;

pub(super) const OP: GemmOp = GemmOp {
    name: "linear",
    shader: wgsl!("linear"),
    f16: true,
    paired: false,
    prologue: false,
    gemv: UseGemv::FewRows,
};

/// `x·Wᵀ + b`, or `SiLU(x)·Wᵀ + b`, into `out`.
pub(super) fn product(
    gpu: &Gpu,
    op: GemmOp,
    x: &WebGpuTensor,
    w: &WebGpuLinear,
    silu: bool,
    out: &WebGpuTensor,
) -> Result<()> {
    let [n, k] = w.matrix.dims();
    let gemm = Gemm {
        op,
        x: f32s(op.name, x)?,
        row: k,
        matrix: &w.matrix,
        m: out.len() / n,
        k,
        width: n,
        out,
        extra: vec![gpu.optional(w.bias.as_ref())],
        params: (),
        constants: vec![("HAS_BIAS", w.bias.is_some()), ("SILU", silu)],
    };
    gemm.run(gpu)
}

impl LinearOp for WebGpu {
    type Linear = WebGpuLinear;

    async fn run_upload_linear(
        &self,
        parts: &[Weight<'_>],
        biases: &[HostTensor],
        dims: [usize; 2],
    ) -> Result<WebGpuLinear> {
        let op = "upload_linear";
        let matrix = if StoredFormat::keeps_all(parts) {
            Matrix::quantized(&self.0, op, &[parts], dims).await?
        } else {
            let mut upload =
                MatrixUpload::new(&self.0, op, Stored::of(parts), dims, 1, self.0.place(parts, Place::Host))?;
            Weight::each_piece(parts, |first, rows| upload.write(first, 0, &rows)).await?;
            upload.finish()?
        };
        Ok(WebGpuLinear { matrix, bias: upload_bias(&self.0, op, biases)? })
    }

    fn run_linear(&self, args: LinearArgs<'_, WebGpuTensor, WebGpuLinear>, shape: &[usize]) -> Result<WebGpuTensor> {
        let out = self.0.output(OP.name, shape, DType::F32)?;
        product(&self.0, OP, args.x, args.w, false, &out)?;
        Ok(out)
    }
}

/// Every program of this op.
pub(super) fn programs() -> Vec<Program> {
    let programs = |given| gemm::programs::<()>(OP, given, &[("HAS_BIAS", given), ("SILU", false)]);
    [false, true].map(programs).concat()
}
