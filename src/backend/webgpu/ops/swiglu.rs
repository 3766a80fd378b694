//! `swiglu`.

use super::{DType, HostTensor, Program, Result, WebGpu, WebGpuTensor, f32s, linear, wgsl};
use crate::backend::gpu::quantized::StoredFormat;
use crate::backend::webgpu::gemm::{self, Gemm, GemmOp};
use crate::backend::webgpu::matrix::stored::Stored;
use crate::backend::webgpu::matrix::upload::MatrixUpload;
use crate::backend::webgpu::matrix::{Matrix, WebGpuSwiGlu};
use crate::backend::webgpu::memory::allocate::Place;
use crate::backend::{SwiGluArgs, SwiGluOp};
use crate::tensor::Weight;

const OP: GemmOp = GemmOp { name: "swiglu", shader: wgsl!("swiglu"), paired: true, ..linear::OP };

impl SwiGluOp for WebGpu {
    type SwiGlu = WebGpuSwiGlu;

    async fn run_upload_swiglu(&self, gate: &Weight<'_>, up: &Weight<'_>, dims: [usize; 2]) -> Result<WebGpuSwiGlu> {
        if StoredFormat::keeps_all([gate, up]) {
            let matrices = [gate, up].map(std::slice::from_ref);
            let matrix = Matrix::quantized(&self.0, "upload_swiglu", &matrices, dims).await?;
            return Ok(WebGpuSwiGlu { matrix });
        }
        let place = self.0.place([gate, up], Place::Host);
        let mut upload = MatrixUpload::new(&self.0, "upload_swiglu", Stored::of([gate, up]), dims, 2, place)?;
        let write = |first, [gate, up]: [HostTensor; 2]| {
            upload.write(first, 0, &gate)?;
            upload.write(first, 1, &up)
        };
        Weight::each_pair([gate, up], write).await?;
        Ok(WebGpuSwiGlu { matrix: upload.finish()? })
    }

    fn run_swiglu(&self, args: SwiGluArgs<'_, WebGpuTensor, WebGpuSwiGlu>, shape: &[usize]) -> Result<WebGpuTensor> {
        let SwiGluArgs { x, w } = args;
        let [hidden, k] = w.matrix.dims();
        let out = self.0.output(OP.name, shape, DType::F32)?;
        let gemm = Gemm {
            op: OP,
            x: f32s(OP.name, x)?,
            row: k,
            matrix: &w.matrix,
            m: out.len() / hidden,
            k,
            width: hidden,
            out: &out,
            extra: Vec::new(),
            params: (),
            constants: Vec::new(),
        };
        gemm.run(&self.0)?;
        Ok(out)
    }
}

/// Every program of this op.
pub(super) fn programs() -> Vec<Program> {
    [false, true].map(|aligned| gemm::programs::<()>(OP, aligned, &[])).concat()
}
