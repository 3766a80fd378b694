//! `conv2d`: a convolution over pictures that are channels last, as a product.

use crate::backend::webgpu::gemm::{self as product, Product, Rows, Verb};
use crate::backend::webgpu::launch::gpu::Gpu;
use crate::backend::webgpu::launch::program::{Program, wgsl};
use crate::backend::webgpu::matrix::{WebGpuConv2d, padded_channels};
use crate::backend::webgpu::memory::tensor::WebGpuTensor;
use crate::backend::{Conv2d, DeviceTensor, shapes};
use crate::error::Result;
use crate::tensor::DType;

const VERB: Verb = Verb {
    name: "conv2d",
    files: &[wgsl!("conv2d")],
    fours: Some(wgsl!("conv2d_fours")),
    eights: Some(wgsl!("conv2d_eights")),
    paired: false,
    prologue: false,
    rows: Rows::Never,
};

pub(crate) fn conv2d(
    gpu: &Gpu,
    x: &WebGpuTensor,
    w: &WebGpuConv2d,
    geometry: Conv2d,
    residual: Option<&WebGpuTensor>,
) -> Result<WebGpuTensor> {
    let shape @ [items, out_h, out_w, _] = shapes::conv2d(x.shape(), w.dims, geometry, residual.map(|r| r.shape()))?;
    let (h, wide, [o, kh, kw, channels]) = (x.shape()[1], x.shape()[2], w.dims);
    let out = gpu.output(VERB.name, &shape, DType::F32)?;
    let x = gpu.float(VERB.name, x)?;
    let residual = residual.map(|residual| gpu.float(VERB.name, residual)).transpose()?;
    let [top, left, ..] = geometry.pad;
    let zoom = usize::from(geometry.upsample);
    let parameters =
        [h, wide, channels, padded_channels(gpu, channels), kh, kw, out_h, out_w, geometry.stride, top, left, zoom];
    Product {
        verb: VERB,
        x: &x,
        row: channels,
        matrix: &w.matrix,
        m: items * out_h * out_w,
        k: w.matrix.width,
        width: o,
        out: &out,
        extra: vec![gpu.optional(w.bias.as_ref()), gpu.optional(residual.as_ref())],
        parameters: parameters.map(|value| value as u32).to_vec(),
        constants: vec![("HAS_BIAS", w.bias.is_some()), ("HAS_RESIDUAL", residual.is_some())],
    }
    .run(gpu)?;
    Ok(out)
}

/// Every program of this verb.
pub(crate) fn programs() -> Vec<Program> {
    let constants = |given| [("HAS_BIAS", given), ("HAS_RESIDUAL", given)];
    [false, true].into_iter().flat_map(|aligned| product::programs(VERB, &[aligned], &constants(aligned))).collect()
}
