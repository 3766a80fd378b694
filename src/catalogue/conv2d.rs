//! `conv2d`: every convolution of the autoencoder, and geometries beyond those.

use super::linear::gemm_flop;
use super::{
    Backend, Call, DType, Entry, Feature, GEMM, Inputs, Op, OpCase, Rejection, Result, Tolerance, Zeros, named,
    rejections_with, returns, upload_rejection, zeros,
};
use crate::backend::Conv2d;

/// A convolution of pictures `[batch, size, input]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Conv2dCase {
    pub batch: usize,
    /// Height and width of the input.
    pub size: [usize; 2],
    /// Channels of the input.
    pub input: usize,
    /// Channels of the output.
    pub output: usize,
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    pub geometry: Conv2d,
    pub dtype: DType,
    pub bias: bool,
    pub residual: bool,
    pub scale: f32,
}

impl Conv2dCase {
    pub(crate) const PLAIN: Self = Self {
        batch: 1,
        size: [12, 9],
        input: 32,
        output: 48,
        kernel: [3, 3],
        geometry: Conv2d { stride: 1, pad: [1; 4], upsample: false },
        dtype: DType::F32,
        bias: true,
        residual: false,
        scale: 1.0,
    };

    /// Height and width of the output.
    pub(crate) fn output_size(&self) -> [usize; 2] {
        let Conv2d { stride, pad: [top, left, bottom, right], upsample } = self.geometry;
        let zoom = if upsample { 2 } else { 1 };
        let [height, width] = self.size;
        let side = |size: usize, pad: usize, kernel: usize| (size * zoom + pad - kernel) / stride + 1;
        [side(height, top + bottom, self.kernel[0]), side(width, left + right, self.kernel[1])]
    }
}

impl OpCase for Conv2dCase {
    const OP: &'static str = "conv2d";
    const TOLERANCE: Tolerance = GEMM;

    fn sizes(&self) -> String {
        let Self { size: [height, width], input, output, .. } = self;
        let [high, wide] = self.output_size();
        format!("{height}×{width}×{input} → {high}×{wide}×{output}")
    }

    fn flop(&self) -> Option<f64> {
        let pixels: usize = self.output_size().iter().product();
        let values: usize = self.kernel.iter().product();
        Some(gemm_flop(self.batch * pixels, self.output, values * self.input))
    }

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { batch, size: [height, width], input, output, kernel: [kh, kw], geometry, dtype, scale, .. } = *self;
        let x = inputs.activation(&[batch, height, width, input], scale)?;
        let spread = (3.0 / (input * kh * kw) as f32).sqrt();
        let kernel = inputs.weights(dtype, &[output, input, kh, kw], 0.0, spread);
        let bias = self.bias.then(|| inputs.bias(dtype, output));
        let w = inputs.b.upload_conv2d(&kernel, bias.as_ref())?;
        let [high, wide] = self.output_size();
        let residual = self.residual.then(|| inputs.activation(&[batch, high, wide, output], scale)).transpose()?;
        returns(move |b: &B| Ok([b.conv2d(&x, &w, geometry, residual.as_ref())?]))
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    use DType::{Bf16, F16};
    const PLAIN: Conv2dCase = Conv2dCase::PLAIN;
    const DOWN: Conv2dCase = Conv2dCase { geometry: Conv2d { stride: 2, pad: [0, 0, 1, 1], upsample: false }, ..PLAIN };
    const UP: Conv2dCase = Conv2dCase { geometry: Conv2d { stride: 1, pad: [1; 4], upsample: true }, ..PLAIN };
    let pointwise = Conv2d { stride: 1, pad: [0; 4], upsample: false };
    let uneven = Conv2d { stride: 3, pad: [2, 0, 1, 3], upsample: true };
    let resnet = Conv2dCase { size: [8, 8], input: 512, output: 512, dtype: Bf16, residual: true, ..PLAIN };
    let shortcut = Conv2dCase { kernel: [1, 1], geometry: pointwise, input: 256, output: 128, ..PLAIN };
    let cases = named([
        ("resnet-512", resnet),
        ("latents-to-512", Conv2dCase { size: [9, 7], input: 16, output: 512, ..PLAIN }),
        ("128-to-rgb", Conv2dCase { size: [17, 33], input: 128, output: 3, dtype: Bf16, ..PLAIN }),
        ("rgb-to-128", Conv2dCase { size: [17, 33], input: 3, output: 128, ..PLAIN }),
        ("shortcut-1x1", shortcut),
        ("down", Conv2dCase { size: [16, 14], input: 64, output: 64, ..DOWN }),
        ("down-odd-size", Conv2dCase { size: [15, 7], ..DOWN }),
        ("up", Conv2dCase { size: [9, 7], input: 64, output: 64, dtype: F16, ..UP }),
        ("up-residual", Conv2dCase { size: [5, 6], residual: true, ..UP }),
        ("one-pixel", Conv2dCase { size: [1, 1], ..PLAIN }),
        ("one-row", Conv2dCase { size: [1, 65], ..PLAIN }),
        ("batch", Conv2dCase { batch: 3, size: [7, 5], residual: true, ..PLAIN }),
        ("odd-channels", Conv2dCase { input: 7, output: 13, size: [11, 13], dtype: F16, ..PLAIN }),
        ("odd-channels-bf16", Conv2dCase { input: 9, output: 33, dtype: Bf16, ..PLAIN }),
        ("no-bias", Conv2dCase { bias: false, ..PLAIN }),
        ("uneven", Conv2dCase { kernel: [2, 5], geometry: uneven, ..PLAIN }),
        ("activations-1e4", Conv2dCase { scale: 1e4, residual: true, dtype: Bf16, ..PLAIN }),
        ("activations-1e6", Conv2dCase { scale: 1e6, dtype: F16, ..PLAIN }),
        ("full-1024", Conv2dCase { size: [1024, 1024], input: 128, output: 128, residual: true, ..PLAIN }),
        ("full-512-up", Conv2dCase { size: [256, 256], input: 512, output: 512, ..UP }),
    ]);
    let op = Op { name: Conv2dCase::OP, features: &[Feature::Bias, Feature::BeyondF16] };
    Entry { op, cases, rejections: call_rejections().into_iter().chain(upload_rejections()).collect() }
}

fn call_rejections<B: Backend + 'static>() -> Vec<Rejection<B>> {
    const OP: &str = Conv2dCase::OP;
    const X: Zeros = Zeros::Activation(&[2, 5, 7, 3]);
    const RESIDUAL: Zeros = Zeros::Activation(&[2, 5, 7, 4]);
    const SAME: Conv2d = Conv2dCase::PLAIN.geometry;
    let kernel = |b: &B| b.upload_conv2d(&zeros(DType::Bf16, &[4, 3, 3, 3]), None);
    let with = |geometry| {
        move |b: &B, w: &B::Conv2d, [x, residual]: [B::Tensor; 2]| b.conv2d(&x, w, geometry, Some(&residual)).map(drop)
    };
    let mut all = rejections_with(
        OP,
        kernel,
        with(SAME),
        [
            ("rank-of-x", [Zeros::Activation(&[5, 7, 3]), RESIDUAL]),
            ("channels-of-x", [Zeros::Activation(&[2, 5, 7, 2]), RESIDUAL]),
            ("type-of-x", [Zeros::U32(&[2, 5, 7, 3]), RESIDUAL]),
            ("size-of-residual", [X, X]),
            ("type-of-residual", [X, Zeros::U32(&[2, 5, 7, 4])]),
        ],
    );
    all.extend(rejections_with(OP, kernel, with(Conv2d { stride: 0, ..SAME }), [("stride", [X, RESIDUAL])]));
    let small = [Zeros::Activation(&[2, 2, 7, 3]), RESIDUAL];
    all.extend(rejections_with(OP, kernel, with(Conv2d { pad: [0; 4], ..SAME }), [("height-of-x", small)]));
    all
}

fn upload_rejections<B: Backend + 'static>() -> [Rejection<B>; 5] {
    let upload_kernel = |name, kernel: (DType, &'static [usize]), bias: (DType, &'static [usize])| {
        upload_rejection("upload_conv2d", name, move |b: &B| {
            b.upload_conv2d(&zeros(kernel.0, kernel.1), Some(&zeros(bias.0, bias.1))).map(drop)
        })
    };
    const KERNEL: (DType, &[usize]) = (DType::Bf16, &[4, 3, 2, 1]);
    const BIAS: (DType, &[usize]) = (DType::Bf16, &[4]);
    [
        upload_kernel("empty", (DType::Bf16, &[4, 0, 2, 1]), BIAS),
        upload_kernel("rank", (DType::Bf16, &[4, 3, 2]), BIAS),
        upload_kernel("type", (DType::U32, &[4, 3, 2, 1]), BIAS),
        upload_kernel("size-of-bias", KERNEL, (DType::Bf16, &[3])),
        upload_kernel("type-of-bias", KERNEL, (DType::U8, &[4])),
    ]
}
