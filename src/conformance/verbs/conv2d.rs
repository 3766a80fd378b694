//! `conv2d`: every convolution of the autoencoder, and geometry that it does not use.

use super::super::case::{Suite, steps};
use super::super::tolerance::PRODUCT;
use crate::backend::{Backend, Conv2d};
use crate::tensor::DType;

/// What a case is. The residual has the output's shape, which the case works out.
#[derive(Clone, Copy)]
struct Kind {
    batch: usize,
    size: [usize; 2],
    input: usize,
    output: usize,
    kernel: [usize; 2],
    geometry: Conv2d,
    dtype: DType,
    bias: bool,
    residual: bool,
    scale: f32,
}

const SAME: Conv2d = Conv2d { stride: 1, pad: [1; 4], upsample: false };
const PLAIN: Kind = Kind {
    batch: 1,
    size: [12, 9],
    input: 32,
    output: 48,
    kernel: [3, 3],
    geometry: SAME,
    dtype: DType::F32,
    bias: true,
    residual: false,
    scale: 1.0,
};

pub(super) fn cases<B: Backend + 'static>(suite: &mut Suite<B>) {
    let down = Conv2d { stride: 2, pad: [0, 0, 1, 1], upsample: false };
    let up = Conv2d { stride: 1, pad: [1; 4], upsample: true };
    let pointwise = Conv2d { stride: 1, pad: [0; 4], upsample: false };
    let uneven = Conv2d { stride: 3, pad: [2, 0, 1, 3], upsample: true };
    for (name, kind) in [
        ("resnet-512", Kind { size: [8, 8], input: 512, output: 512, dtype: DType::Bf16, residual: true, ..PLAIN }),
        ("latents-to-512", Kind { size: [9, 7], input: 16, output: 512, ..PLAIN }),
        ("128-to-rgb", Kind { size: [17, 33], input: 128, output: 3, dtype: DType::Bf16, ..PLAIN }),
        ("rgb-to-128", Kind { size: [17, 33], input: 3, output: 128, ..PLAIN }),
        ("shortcut-1x1", Kind { kernel: [1, 1], geometry: pointwise, input: 256, output: 128, ..PLAIN }),
        ("down", Kind { size: [16, 14], geometry: down, input: 64, output: 64, ..PLAIN }),
        ("down-odd-size", Kind { size: [15, 7], geometry: down, ..PLAIN }),
        ("up", Kind { size: [9, 7], geometry: up, input: 64, output: 64, dtype: DType::F16, ..PLAIN }),
        ("up-residual", Kind { size: [5, 6], geometry: up, residual: true, ..PLAIN }),
        ("one-pixel", Kind { size: [1, 1], ..PLAIN }),
        ("one-row", Kind { size: [1, 65], ..PLAIN }),
        ("batch", Kind { batch: 3, size: [7, 5], residual: true, ..PLAIN }),
        ("odd-channels", Kind { input: 7, output: 13, size: [11, 13], dtype: DType::F16, ..PLAIN }),
        ("odd-channels-bf16", Kind { input: 9, output: 33, dtype: DType::Bf16, ..PLAIN }),
        ("no-bias", Kind { bias: false, ..PLAIN }),
        ("uneven", Kind { kernel: [2, 5], geometry: uneven, ..PLAIN }),
        ("activations-1e4", Kind { scale: 1e4, residual: true, dtype: DType::Bf16, ..PLAIN }),
        ("activations-1e6", Kind { scale: 1e6, dtype: DType::F16, ..PLAIN }),
        ("full-1024", Kind { size: [1024, 1024], input: 128, output: 128, residual: true, ..PLAIN }),
        ("full-512-up", Kind { size: [256, 256], input: 512, output: 512, geometry: up, ..PLAIN }),
    ] {
        if suite.wants(name) {
            add(suite, name, kind);
        }
    }
}

fn add<B: Backend + 'static>(suite: &mut Suite<B>, name: &str, kind: Kind) {
    suite.add("conv2d", name, PRODUCT, move |s| {
        let Kind { batch, size, input, output, kernel, geometry, dtype, bias, residual, scale } = kind;
        let x = s.activation(&[batch, size[0], size[1], input], scale)?;
        let spread = (3.0 / (input * kernel[0] * kernel[1]) as f32).sqrt();
        let weights = s.weights(dtype, &[output, input, kernel[0], kernel[1]], 0.0, spread);
        let bias = bias.then(|| s.weights(dtype, &[output], 0.0, 1.0));
        let w = s.b.upload_conv2d(&weights, bias.as_ref())?;
        let side = |i: usize| {
            let read = size[i] * if geometry.upsample { 2 } else { 1 } + geometry.pad[i] + geometry.pad[i + 2];
            (read - kernel[i]) / geometry.stride + 1
        };
        let residual = residual.then(|| s.activation(&[batch, side(0), side(1), output], scale)).transpose()?;
        steps(move |b: &B| Ok(vec![b.conv2d(&x, &w, geometry, residual.as_ref())?]))
    });
}
