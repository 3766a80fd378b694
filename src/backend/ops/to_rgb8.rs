//! `to_rgb8`: the decoder's output as pixels.

use super::{DeviceTensor, Result, Runtime, check};

/// The arguments of [`ToRgb8Op::to_rgb8`].
#[derive(Debug)]
pub struct ToRgb8Args<'a, T> {
    /// `[B, H, W, C]`.
    pub x: &'a T,
}

impl<T: DeviceTensor> ToRgb8Args<'_, T> {
    /// Checks the arguments; returns the shape of `x`.
    pub fn check(&self) -> Result<[usize; 4]> {
        check::floats("to_rgb8", "the picture", self.x)
    }
}

/// The output of the autoencoder's decoder.
pub trait ToRgb8Op: Runtime {
    /// `round(255·clamp(x/2 + 1/2, 0, 1))`, ties to even. `x` `[B, H, W, C]`; returns U8 of that
    /// shape. An infinite value or NaN is
    /// [`Error::NonFinitePicture`](crate::Error::NonFinitePicture): from this call if the host can
    /// see it, else from the [`download`](Runtime::download) of the next U8 tensor. It never passes
    /// as white or black.
    fn to_rgb8(&self, x: &Self::Tensor) -> Result<Self::Tensor> {
        let args = ToRgb8Args { x };
        let shape = args.check()?;
        self.run_to_rgb8(args, shape)
    }

    /// Runs [`ToRgb8Op::to_rgb8`] on checked arguments.
    fn run_to_rgb8(&self, args: ToRgb8Args<'_, Self::Tensor>, shape: [usize; 4]) -> Result<Self::Tensor>;
}

/// [`ToRgb8Op::to_rgb8`] of one finite value.
pub(crate) fn level(x: f32) -> u8 {
    ((x * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
}

#[cfg(test)]
mod tests {
    use super::check::tests::{f32s, gives, rejects, u32s};
    use super::*;

    #[test]
    fn pictures_are_four_dimensional_floats() {
        let check = |x| ToRgb8Args { x: &x }.check();
        gives(check(f32s(&[1, 2, 3, 3])), [1, 2, 3, 3]);
        rejects(check(f32s(&[2, 3, 3])), "to_rgb8", &["the picture must have 4 dimensions"]);
        rejects(check(u32s(&[1, 2, 3, 3])), "to_rgb8", &["the picture must be of a floating type, not U32"]);
    }
}
