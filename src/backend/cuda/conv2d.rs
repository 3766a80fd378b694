//! `conv2d`: a convolution over pictures that are channels last, as a product.

use super::super::{Conv2d, DType, DeviceTensor, shapes};
use super::gpu::Gpu;
use super::hopper;
use super::matrix::CudaConv2d;
use super::product::{self, Product};
use super::program::{Program, kernel};
use super::recording::Arg;
use super::tensor::{CudaTensor, aligned};
use super::tensor_map::TensorMap;
use crate::error::Result;

/// What the kernel is compiled for, besides its tile.
fn constants([o, _, kw, i]: [usize; 4], geometry: Conv2d, [bias, residual]: [bool; 2]) -> [(&'static str, usize); 7] {
    [
        ("CHANNELS", i),
        ("KERNEL_WIDTH", kw),
        ("STRIDE", geometry.stride),
        ("UPSAMPLE", usize::from(geometry.upsample)),
        ("HAS_BIAS", usize::from(bias)),
        ("HAS_RESIDUAL", usize::from(residual)),
        ("ALIGNED_OUT", aligned(o)),
    ]
}

pub(super) fn conv2d(
    gpu: &Gpu,
    x: &CudaTensor,
    w: &CudaConv2d,
    geometry: Conv2d,
    residual: Option<&CudaTensor>,
) -> Result<CudaTensor> {
    let verb = "conv2d";
    let shape @ [items, out_h, out_w, o] = shapes::conv2d(x.shape(), w.dims, geometry, residual.map(|r| r.shape()))?;
    let out = gpu.output(verb, &shape, DType::Bf16)?;
    let x = gpu.activation(x)?;
    let residual = residual.map(|residual| gpu.activation(residual)).transpose()?;
    let [top, left, ..] = geometry.pad;
    let constants = constants(w.dims, geometry, [w.bias.is_some(), residual.is_some()]);
    let [_, kh, kw, channels] = w.dims;
    if geometry.stride == 1 && !geometry.upsample && hopper::takes(gpu, [channels, o]) {
        // Boxes of 4×16 pixels and 64 channels.
        let map = |of: &CudaTensor, [h, w, channels]: [usize; 3]| {
            TensorMap::new(verb, of.memory(), &[channels, w, h, items], channels, &[64, 16, hopper::BOX / 16])
        };
        let m = items * out_w.div_ceil(16) * out_h.div_ceil(hopper::TILE_M / 16) * hopper::TILE_M;
        let (from, to) = (map(&x, [x.shape()[1], x.shape()[2], channels])?, map(&out, [out_h, out_w, o])?);
        let (file, weights) = (kernel!("conv2d.cu"), &w.matrix);
        let product =
            hopper::Product { verb, file, constants: &constants, m, weights, left: from, out: to, clusters: false };
        let between = [Arg::optional(w.bias.as_ref()), Arg::optional(residual.as_ref())];
        product.run(gpu, &between, &[m, o, kh * kw, out_h, out_w, top, left])?;
        return Ok(out);
    }
    let m = items * out_h * out_w;
    let args = [
        Arg::Read(&x),
        Arg::Weights(&w.matrix),
        Arg::optional(w.bias.as_ref()),
        Arg::optional(residual.as_ref()),
        Arg::Write(&out),
        Arg::U32(m),
        Arg::U32(o),
        Arg::U32(w.matrix.width),
        Arg::U32(x.shape()[1]),
        Arg::U32(x.shape()[2]),
        Arg::U32(out_h),
        Arg::U32(out_w),
        Arg::U32(top),
        Arg::U32(left),
    ];
    Product { verb, file: kernel!("conv2d.cu"), m, n: o, args: &args }.tiled(gpu, &constants)?;
    Ok(out)
}

/// The programs of this verb that are for Hopper alone.
pub(super) fn hopper_programs() -> Vec<Program> {
    let plain = Conv2d { stride: 1, pad: [1; 4], upsample: false };
    [([512, 3, 3, 16], false), ([512, 3, 3, 512], true), ([128, 1, 1, 256], false)]
        .into_iter()
        .flat_map(|(dims, residual)| {
            hopper::programs("conv2d", kernel!("conv2d.cu"), &constants(dims, plain, [true, residual]))
        })
        .collect()
}

/// Programs of this verb for convolutions of the autoencoder and for an odd one.
pub(super) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    let plain = Conv2d { stride: 1, pad: [1; 4], upsample: false };
    for (dims, geometry, residual) in [
        ([128, 3, 3, 3], plain, false),
        ([3, 3, 3, 128], plain, false),
        ([512, 3, 3, 16], plain, false),
        ([512, 3, 3, 512], plain, true),
        ([256, 1, 1, 128], plain, true),
        ([256, 3, 3, 256], Conv2d { upsample: true, ..plain }, false),
        ([128, 3, 3, 128], Conv2d { stride: 2, ..plain }, false),
        ([13, 2, 5, 7], Conv2d { stride: 3, pad: [2, 0, 1, 3], upsample: true }, true),
    ] {
        programs.extend(product::some_tiled(
            "conv2d",
            kernel!("conv2d.cu"),
            &constants(dims, geometry, [true, residual]),
        ));
    }
    programs
}
