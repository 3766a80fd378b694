//! `final_layer`.

use super::{Binding, DType, DeviceTensor, Program, Result, WebGpu, WebGpuTensor, f32s, uniform, wgsl};
use crate::backend::webgpu::gemm::{self, Gemm, GemmOp, UseGemv};
use crate::backend::webgpu::matrix::WebGpuLinear;
use crate::backend::{FinalLayerArgs, FinalLayerOp};

/// The product is small next to a block, and the velocity is what the picture is made of, so it is
/// F32.
const OP: GemmOp = GemmOp {
    name: "final_layer",
    shader: wgsl!("final_layer"),
    f16: false,
    paired: false,
    prologue: true,
    gemv: UseGemv::Never,
};

uniform! {
    /// The fields of `final_layer.wgsl` behind those of every gemm.
    struct Params {
        tokens: u32,
        patches: u32,
        across: u32,
        side: u32,
        channels: u32,
        h: u32,
        w: u32,
        table_rows: u32,
        table_row: u32,
        eps: f32,
    }
}

impl FinalLayerOp for WebGpu {
    fn run_final_layer(
        &self,
        args: FinalLayerArgs<'_, WebGpuTensor, WebGpuLinear>,
        shape @ [items, channels, height, width]: [usize; 4],
    ) -> Result<WebGpuTensor> {
        let FinalLayerArgs { x, scale, eps, w, patch, .. } = args;
        let gpu = &self.0;
        let [n, k] = w.matrix.dims();
        let table = f32s(OP.name, scale.table)?;
        let across = width / patch;
        let patches = height / patch * across;
        let out = gpu.output(OP.name, &shape, DType::F32)?;
        let params = Params {
            tokens: x.shape()[1] as u32,
            patches: patches as u32,
            across: across as u32,
            side: patch as u32,
            channels: channels as u32,
            h: height as u32,
            w: width as u32,
            table_rows: table.shape()[1] as u32,
            table_row: scale.row as u32,
            eps,
        };
        let shared = table.shape()[0] == 1;
        let gemm = Gemm {
            op: OP,
            x: f32s(OP.name, x)?,
            row: k,
            matrix: &w.matrix,
            m: items * patches,
            k,
            width: n,
            out: &out,
            extra: vec![gpu.optional(w.bias.as_ref()), Binding::from(table)],
            params,
            constants: vec![("HAS_BIAS", w.bias.is_some()), ("SHARED", shared)],
        };
        gemm.run(gpu)?;
        Ok(out)
    }
}

/// Every program of this op.
pub(super) fn programs() -> Vec<Program> {
    let programs = |given| gemm::programs::<Params>(OP, given, &[("HAS_BIAS", given), ("SHARED", !given)]);
    [false, true].map(programs).concat()
}
