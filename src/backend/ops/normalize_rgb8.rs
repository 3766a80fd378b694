//! `normalize_rgb8`: pixels as input of the autoencoder's encoder.

use super::{DeviceTensor, Result, Runtime, check};
use crate::tensor::DType;

/// The arguments of [`NormalizeRgb8Op::normalize_rgb8`].
#[derive(Debug)]
pub struct NormalizeRgb8Args<'a, T> {
    /// U8 `[B, H, W, C]`.
    pub pixels: &'a T,
}

impl<T: DeviceTensor> NormalizeRgb8Args<'_, T> {
    /// Checks the arguments; returns the shape of the pixels.
    pub fn check(&self) -> Result<[usize; 4]> {
        check::exactly("normalize_rgb8", "the pixels", self.pixels, DType::U8)
    }
}

/// The input of the autoencoder's encoder.
pub trait NormalizeRgb8Op: Runtime {
    /// `pixel/127.5 − 1`. `pixels` U8 `[B, H, W, C]`; returns an activation of that shape.
    fn normalize_rgb8(&self, pixels: &Self::Tensor) -> Result<Self::Tensor> {
        let args = NormalizeRgb8Args { pixels };
        let shape = args.check()?;
        self.run_normalize_rgb8(args, shape)
    }

    /// Runs [`NormalizeRgb8Op::normalize_rgb8`] on checked arguments.
    fn run_normalize_rgb8(&self, args: NormalizeRgb8Args<'_, Self::Tensor>, shape: [usize; 4]) -> Result<Self::Tensor>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{Fake, f32s, gives, rejects};
    use super::*;

    #[test]
    fn pixels_are_four_dimensional_bytes() {
        let check = |pixels| NormalizeRgb8Args { pixels: &pixels }.check();
        gives(check(Fake::new(DType::U8, &[1, 2, 3, 3])), [1, 2, 3, 3]);
        rejects(check(Fake::new(DType::U8, &[2, 3, 3])), "normalize_rgb8", &["the pixels must have 4 dimensions"]);
        rejects(check(f32s(&[1, 2, 3, 3])), "normalize_rgb8", &["the pixels must be U8, not F32"]);
    }
}
