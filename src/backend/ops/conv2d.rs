//! `conv2d`: a convolution of the autoencoder.

use super::{DeviceTensor, DeviceWeight, Result, Runtime, check};
use crate::tensor::HostTensor;

/// The geometry of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conv2d {
    /// Pixels between two outputs, at least 1.
    pub stride: usize,
    /// Zeros around the picture: top, left, bottom, right.
    pub pad: [usize; 4],
    /// Doubles height and width (nearest neighbour) before padding.
    pub upsample: bool,
}

/// The arguments of [`Conv2dOp::conv2d`].
#[derive(Debug)]
pub struct Conv2dArgs<'a, T, W> {
    /// `[B, H, W, I]`.
    pub x: &'a T,
    /// The kernel and its bias.
    pub w: &'a W,
    /// Stride, padding and upsampling.
    pub geometry: Conv2d,
    /// Added to the output. Has the output's shape.
    pub residual: Option<&'a T>,
}

impl<T: DeviceTensor, W: DeviceWeight<4>> Conv2dArgs<'_, T, W> {
    /// Checks the arguments; returns the output's shape `[B, H', W', O]`.
    pub fn check(&self) -> Result<[usize; 4]> {
        let op = "conv2d";
        let [b, h, w, i] = check::floats(op, "x", self.x)?;
        let kernel @ [o, kh, kw, channels] = self.w.dims();
        let Conv2d { stride, pad: [top, left, bottom, right], upsample } = self.geometry;
        let zoom = if upsample { 2 } else { 1 };
        let padded = |size: usize, pads: [usize; 2]| {
            let size = size.checked_mul(zoom)?;
            pads.iter().try_fold(size, |size, &pad| size.checked_add(pad))
        };
        let (h, w) = (padded(h, [top, bottom]).unwrap_or(0), padded(w, [left, right]).unwrap_or(0));
        check::ensure(channels == i && stride > 0 && h >= kh && w >= kw, op, || {
            format!("a kernel {kernel:?} with {:?} does not fit {:?}", self.geometry, self.x.shape())
        })?;
        let out = [b, (h - kh) / stride + 1, (w - kw) / stride + 1, o];
        if let Some(residual) = self.residual {
            check::same(op, "the residual", residual.shape(), &out)?;
            check::floating(op, "the residual", residual.dtype())?;
        }
        Ok(out)
    }
}

/// Checks a kernel `[O, I, kh, kw]` and its bias `[O]`; returns the kernel's sizes.
fn check_kernel(kernel: &HostTensor, bias: Option<&HostTensor>) -> Result<[usize; 4]> {
    let op = "upload_conv2d";
    let stored @ [o, _, _, _] = check::dims(op, "the kernel", kernel.shape())?;
    check::floating(op, "the kernel", kernel.dtype())?;
    if let Some(bias) = bias {
        check::bias(op, bias, o)?;
    }
    Ok(stored)
}

/// Convolutions.
pub trait Conv2dOp: Runtime {
    /// A kernel `[O, kh, kw, I]` on the device, with an optional bias `[O]`.
    type Conv2d: DeviceWeight<4>;

    /// Uploads a kernel stored as `[O, I, kh, kw]`, and a bias `[O]`.
    fn upload_conv2d(&self, kernel: &HostTensor, bias: Option<&HostTensor>) -> Result<Self::Conv2d> {
        let stored = check_kernel(kernel, bias)?;
        self.run_upload_conv2d(kernel, bias, stored)
    }

    /// A convolution (correlation) with bias, plus an optional `residual` of the output's shape.
    /// `x` `[B, H, W, I]`; returns `[B, H', W', O]` with `H' = (s·H + pad − kh)/stride + 1`, where
    /// `s` is 2 with `upsample`, else 1.
    fn conv2d(
        &self,
        x: &Self::Tensor,
        w: &Self::Conv2d,
        geometry: Conv2d,
        residual: Option<&Self::Tensor>,
    ) -> Result<Self::Tensor> {
        let args = Conv2dArgs { x, w, geometry, residual };
        let shape = args.check()?;
        self.run_conv2d(args, shape)
    }

    /// Runs [`Conv2dOp::upload_conv2d`] on a checked kernel with the sizes `stored`, `[O, I, kh,
    /// kw]`.
    fn run_upload_conv2d(
        &self,
        kernel: &HostTensor,
        bias: Option<&HostTensor>,
        stored: [usize; 4],
    ) -> Result<Self::Conv2d>;

    /// Runs [`Conv2dOp::conv2d`] on checked arguments.
    fn run_conv2d(&self, args: Conv2dArgs<'_, Self::Tensor, Self::Conv2d>, shape: [usize; 4]) -> Result<Self::Tensor>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{Sizes, f32s, gives, rejects, u32s};
    use super::*;

    #[test]
    fn the_kernel_must_fit_the_picture() {
        let plain = Conv2d { stride: 1, pad: [1; 4], upsample: false };
        let check = |x: &[usize], kernel, geometry, residual: Option<&[usize]>| {
            let (x, residual) = (f32s(x), residual.map(f32s));
            Conv2dArgs { x: &x, w: &Sizes(kernel), geometry, residual: residual.as_ref() }.check()
        };
        let (x, kernel) = ([2, 5, 7, 3], [4, 3, 3, 3]);
        gives(check(&x, kernel, plain, None), [2, 5, 7, 4]);
        gives(check(&x, kernel, plain, Some(&[2, 5, 7, 4])), [2, 5, 7, 4]);
        gives(check(&x, kernel, Conv2d { upsample: true, ..plain }, None), [2, 10, 14, 4]);
        gives(check(&x, kernel, Conv2d { stride: 2, pad: [0, 0, 1, 1], ..plain }, None), [2, 2, 3, 4]);
        gives(check(&[1, 1, 1, 3], kernel, plain, None), [1, 1, 1, 4]);
        rejects(check(&x, kernel, plain, Some(&x)), "conv2d", &["the residual", "[2, 5, 7, 4]", "[2, 5, 7, 3]"]);
        rejects(check(&x, [4, 3, 3, 2], plain, None), "conv2d", &["[4, 3, 3, 2]", "[2, 5, 7, 3]"]);
        rejects(check(&x, kernel, Conv2d { stride: 0, ..plain }, None), "conv2d", &["stride: 0"]);
        let huge = Conv2d { pad: [usize::MAX, 0, 0, 0], ..plain };
        rejects(check(&x, kernel, huge, None), "conv2d", &["does not fit"]);
        let bare = Conv2d { stride: 1, ..Conv2d::default() };
        rejects(check(&[1, 2, 7, 3], kernel, bare, None), "conv2d", &["[1, 2, 7, 3]"]);
        rejects(check(&[1, 7, 2, 3], kernel, bare, None), "conv2d", &["[1, 7, 2, 3]"]);
        let (x, residual) = (f32s(&x), u32s(&[2, 5, 7, 4]));
        let args = Conv2dArgs { x: &x, w: &Sizes(kernel), geometry: plain, residual: Some(&residual) };
        rejects(args.check(), "conv2d", &["the residual must be of a floating type, not U32"]);
    }

    #[test]
    fn the_bias_must_fit_the_kernel() {
        let zeros = |shape: &[usize]| HostTensor::from_f32(shape, &vec![0.0; shape.iter().product()]);
        gives(check_kernel(&zeros(&[4, 3, 2, 1]), Some(&zeros(&[4]))), [4, 3, 2, 1]);
        rejects(check_kernel(&zeros(&[4, 3, 2, 1]), Some(&zeros(&[3]))), "upload_conv2d", &["the bias", "[4]", "[3]"]);
        rejects(check_kernel(&zeros(&[4, 3, 2]), None), "upload_conv2d", &["the kernel must have 4 dimensions"]);
        let integers = HostTensor::from_u32(&[1, 1, 1, 1], &[0]);
        rejects(check_kernel(&integers, None), "upload_conv2d", &["the kernel must be of a floating type, not U32"]);
    }
}
