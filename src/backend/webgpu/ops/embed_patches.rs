//! `embed_patches`.

use super::{Binding, DType, DeviceTensor, Program, Result, WebGpu, WebGpuTensor, uniform, wgsl};
use crate::backend::webgpu::gemm::{self, Gemm, GemmOp, UseGemv};
use crate::backend::webgpu::matrix::WebGpuLinear;
use crate::backend::{EmbedPatchesArgs, EmbedPatchesOp};

/// The product is small next to a block, and the latents are what the picture is made of, so it is
/// F32.
pub(super) const OP: GemmOp = GemmOp {
    name: "embed_patches",
    shader: wgsl!("embed_patches"),
    f16: false,
    paired: false,
    prologue: false,
    gemv: UseGemv::Never,
};

uniform! {
    /// The fields of `embed_patches.wgsl` behind those of every gemm.
    struct Params {
        tokens: u32,
        patches: u32,
        across: u32,
        side: u32,
        channels: u32,
        h: u32,
        w: u32,
        copies: u32,
    }
}

impl EmbedPatchesOp for WebGpu {
    fn run_embed_patches(
        &self,
        args: EmbedPatchesArgs<'_, WebGpuTensor, WebGpuLinear>,
        shape @ [batch, tokens, d]: [usize; 3],
    ) -> Result<WebGpuTensor> {
        let EmbedPatchesArgs { latents, patch, w, pad, copies, .. } = args;
        let gpu = &self.0;
        let [channels, height, width] = [1, 2, 3].map(|i| latents.shape()[i]);
        let across = width / patch;
        let out = gpu.output(OP.name, &shape, DType::F32)?;
        let params = Params {
            tokens: tokens as u32,
            patches: (height / patch * across) as u32,
            across: across as u32,
            side: patch as u32,
            channels: channels as u32,
            h: height as u32,
            w: width as u32,
            copies: copies as u32,
        };
        let gemm = Gemm {
            op: OP,
            x: latents,
            row: 1,
            matrix: &w.matrix,
            m: batch / copies * tokens,
            k: w.matrix.width,
            width: d,
            out: &out,
            extra: vec![gpu.optional(w.bias.as_ref()), Binding::from(pad)],
            params,
            constants: vec![("HAS_BIAS", w.bias.is_some())],
        };
        gemm.run(gpu)?;
        Ok(out)
    }
}

/// Every program of this op.
pub(super) fn programs() -> Vec<Program> {
    gemm::programs::<Params>(OP, false, &[("HAS_BIAS", true)])
}
