//! `conv2d` as an implicit gemm.

use super::{DType, DeviceTensor, HostTensor, Program, Result, WebGpu, WebGpuTensor, f32s, uniform, upload_bias, wgsl};
use crate::backend::webgpu::gemm::{self, Gemm, GemmOp, UseGemv};
use crate::backend::webgpu::matrix::upload::MatrixUpload;
use crate::backend::webgpu::matrix::{WebGpuConv2d, padded_channels};
use crate::backend::{Conv2d, Conv2dArgs, Conv2dOp};

const OP: GemmOp =
    GemmOp { name: "conv2d", shader: wgsl!("conv2d"), f16: true, paired: false, prologue: false, gemv: UseGemv::Never };

uniform! {
    /// The fields of `conv2d.wgsl` behind those of every gemm.
    struct Params {
        h: u32,
        w: u32,
        channels: u32,
        padded: u32,
        kh: u32,
        kw: u32,
        out_h: u32,
        out_w: u32,
        step: u32,
        top: u32,
        left: u32,
        zoom: u32,
    }
}

impl Conv2dOp for WebGpu {
    type Conv2d = WebGpuConv2d;

    fn run_upload_conv2d(
        &self,
        kernel: &HostTensor,
        bias: Option<&HostTensor>,
        stored @ [o, i, kh, kw]: [usize; 4],
    ) -> Result<WebGpuConv2d> {
        let op = "upload_conv2d";
        let matrix = MatrixUpload::kernel(&self.0, op, kernel, stored)?;
        let bias = upload_bias(&self.0, op, bias.map_or(&[], std::slice::from_ref))?;
        Ok(WebGpuConv2d { matrix, dims: [o, kh, kw, i], bias })
    }

    fn run_conv2d(
        &self,
        args: Conv2dArgs<'_, WebGpuTensor, WebGpuConv2d>,
        shape @ [items, out_h, out_w, o]: [usize; 4],
    ) -> Result<WebGpuTensor> {
        let Conv2dArgs { x, w, geometry, residual } = args;
        let gpu = &self.0;
        let [_, kh, kw, channels] = w.dims;
        let Conv2d { stride, pad: [top, left, ..], upsample } = geometry;
        let out = gpu.output(OP.name, &shape, DType::F32)?;
        let residual = residual.map(|residual| f32s(OP.name, residual)).transpose()?;
        let params = Params {
            h: x.shape()[1] as u32,
            w: x.shape()[2] as u32,
            channels: channels as u32,
            padded: padded_channels(gpu, channels) as u32,
            kh: kh as u32,
            kw: kw as u32,
            out_h: out_h as u32,
            out_w: out_w as u32,
            step: stride as u32,
            top: top as u32,
            left: left as u32,
            zoom: u32::from(upsample),
        };
        let gemm = Gemm {
            op: OP,
            x: f32s(OP.name, x)?,
            row: channels,
            matrix: &w.matrix,
            m: items * out_h * out_w,
            k: w.matrix.width,
            width: o,
            out: &out,
            extra: vec![gpu.optional(w.bias.as_ref()), gpu.optional(residual)],
            params,
            constants: vec![("HAS_BIAS", w.bias.is_some()), ("HAS_RESIDUAL", residual.is_some())],
        };
        gemm.run(gpu)?;
        Ok(out)
    }
}

/// Every program of this op.
pub(super) fn programs() -> Vec<Program> {
    let programs = |given| gemm::programs::<Params>(OP, given, &[("HAS_BIAS", given), ("HAS_RESIDUAL", given)]);
    [false, true].map(programs).concat()
}
