//! `conv2d`: a convolution over pictures that are channels last, as a product.

use super::super::{Conv2d, DType, DeviceTensor, shapes};
use super::gpu::Gpu;
use super::matrix::{Stored, WebGpuConv2d};
use super::product::{self, FEW, Product, Tile};
use super::program::{Program, wgsl};
use super::recording::Arg;
use super::tensor::WebGpuTensor;
use crate::error::Result;

pub(super) fn conv2d(
    gpu: &Gpu,
    x: &WebGpuTensor,
    w: &WebGpuConv2d,
    geometry: Conv2d,
    residual: Option<&WebGpuTensor>,
) -> Result<WebGpuTensor> {
    let verb = "conv2d";
    let shape @ [items, out_h, out_w, _] = shapes::conv2d(x.shape(), w.dims, geometry, residual.map(|r| r.shape()))?;
    let (h, wide, [o, _, kw, channels]) = (x.shape()[1], x.shape()[2], w.dims);
    let out = gpu.output(verb, &shape, DType::F32)?;
    let x = gpu.float(x)?;
    let residual = residual.map(|residual| gpu.float(residual)).transpose()?;
    let [top, left, ..] = geometry.pad;
    let zoom = usize::from(geometry.upsample);
    let parameters =
        [h, wide, channels, channels.next_multiple_of(4), kw, out_h, out_w, geometry.stride, top, left, zoom];
    Product {
        verb,
        file: wgsl!("conv2d"),
        x: Arg::from(&x),
        aligned: channels % 4 == 0,
        matrix: &w.matrix,
        m: items * out_h * out_w,
        k: w.matrix.width,
        paired: false,
        width: o,
        out: &out,
        extra: vec![gpu.optional(w.bias.as_ref()), gpu.optional(residual.as_ref())],
        parameters: parameters.map(|value| value as u32).to_vec(),
        constants: &[("HAS_BIAS", w.bias.is_some()), ("HAS_RESIDUAL", residual.is_some())],
    }
    .run_as(gpu, false)?;
    Ok(out)
}

/// Every program of this verb.
pub(super) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    for stored in Stored::ALL {
        for (tile, aligned) in Tile::ALL.into_iter().flat_map(|tile| [(tile, false), (tile, true)]) {
            let constants = [("HAS_BIAS", aligned), ("HAS_RESIDUAL", aligned)];
            let file = wgsl!("conv2d");
            programs.push(product::program("conv2d", file, aligned, stored.file(), FEW, Some(tile), &constants));
        }
    }
    programs
}
