//! `unscale_latents`: latents as input of the autoencoder's decoder.

use super::{DeviceTensor, Result, Runtime, check};
use crate::tensor::DType;
use std::ops::Range;

/// The arguments of [`UnscaleLatentsOp::unscale_latents`].
#[derive(Debug)]
pub struct UnscaleLatentsArgs<'a, T> {
    /// F32 `[B, C, H, W]`.
    pub latents: &'a T,
    /// Range of the items to read; not empty.
    pub items: Range<usize>,
    /// The autoencoder's scaling factor.
    pub scale: f32,
    /// The autoencoder's shift factor.
    pub shift: f32,
}

impl<T: DeviceTensor> UnscaleLatentsArgs<'_, T> {
    /// Checks the arguments; returns the output's shape `[n, H, W, C]` for `n` items.
    pub fn check(&self) -> Result<[usize; 4]> {
        let op = "unscale_latents";
        let latents @ [b, c, h, w] = check::exactly(op, "the latents", self.latents, DType::F32)?;
        let Range { start, end } = self.items;
        check::ensure(start < end && end <= b, op, || format!("latents {latents:?} have no items {start}..{end}"))?;
        Ok([end - start, h, w, c])
    }
}

/// The input of the autoencoder's decoder.
pub trait UnscaleLatentsOp: Runtime {
    /// `out[i, y, x, c] = latents[items.start + i, c, y, x] / scale + shift`. `latents` F32 `[B, C,
    /// H, W]`; returns an activation `[n, H, W, C]` for `n` items.
    fn unscale_latents(
        &self,
        latents: &Self::Tensor,
        items: Range<usize>,
        scale: f32,
        shift: f32,
    ) -> Result<Self::Tensor> {
        let args = UnscaleLatentsArgs { latents, items, scale, shift };
        let shape = args.check()?;
        self.run_unscale_latents(args, shape)
    }

    /// Runs [`UnscaleLatentsOp::unscale_latents`] on checked arguments.
    fn run_unscale_latents(
        &self,
        args: UnscaleLatentsArgs<'_, Self::Tensor>,
        shape: [usize; 4],
    ) -> Result<Self::Tensor>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{f32s, gives, rejects, u32s};
    use super::*;

    #[test]
    fn latents_are_four_dimensional_f32() {
        let check = |latents| UnscaleLatentsArgs { latents: &latents, items: 0..2, scale: 1.0, shift: 0.0 }.check();
        gives(check(f32s(&[2, 3, 5, 7])), [2, 5, 7, 3]);
        rejects(check(f32s(&[3, 5, 7])), "unscale_latents", &["4 dimensions", "[3, 5, 7]"]);
        rejects(check(u32s(&[2, 3, 5, 7])), "unscale_latents", &["the latents must be F32, not U32"]);
    }

    #[test]
    fn items_must_be_in_the_batch() {
        let latents = f32s(&[2, 3, 5, 7]);
        let check = |items| UnscaleLatentsArgs { latents: &latents, items, scale: 1.0, shift: 0.0 }.check();
        gives(check(1..2), [1, 5, 7, 3]);
        rejects(check(1..3), "unscale_latents", &["[2, 3, 5, 7]", "1..3"]);
        rejects(check(1..1), "unscale_latents", &["1..1"]);
    }
}
