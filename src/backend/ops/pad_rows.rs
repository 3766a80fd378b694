//! `pad_rows`: the pad token past the end of each item.

use super::{DeviceTensor, Result, Runtime, check};
use crate::tensor::DType;

/// The arguments of [`PadRowsOp::pad_rows`].
#[derive(Debug)]
pub struct PadRowsArgs<'a, T> {
    /// `[B, T, D]`, changed in place.
    pub x: &'a mut T,
    /// `[D]`.
    pub token: &'a T,
    /// U32 `[B]`.
    pub lengths: &'a T,
}

impl<T: DeviceTensor> PadRowsArgs<'_, T> {
    /// Checks the arguments where activations are of type `activation`; returns the shape of `x`.
    pub fn check(&self, activation: DType) -> Result<[usize; 3]> {
        let op = "pad_rows";
        let shape @ [b, _, d] = check::activation(op, "x", self.x, activation)?;
        check::vector(op, "the token", self.token, d)?;
        check::integers(op, "the lengths", self.lengths, b)?;
        check::apart(op, ("x", self.x), &[("the token", Some(self.token)), ("the lengths", Some(self.lengths))])?;
        Ok(shape)
    }
}

/// Padding of captions.
pub trait PadRowsOp: Runtime {
    /// `x[b, t] = token` for every `t ≥ lengths[b]`, in place. `x` `[B, T, D]`, `token` `[D]`,
    /// `lengths` U32 `[B]`.
    fn pad_rows(&self, x: &mut Self::Tensor, token: &Self::Tensor, lengths: &Self::Tensor) -> Result<()> {
        let args = PadRowsArgs { x, token, lengths };
        let shape = args.check(self.activations())?;
        self.run_pad_rows(args, shape)
    }

    /// Runs [`PadRowsOp::pad_rows`] on checked arguments; `shape` is that of `x`.
    fn run_pad_rows(&self, args: PadRowsArgs<'_, Self::Tensor>, shape: [usize; 3]) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{Fake, f32s, gives, rejects, u32s};
    use super::*;

    #[test]
    fn token_and_lengths_must_fit() {
        let check = |token: Fake, lengths: Fake| {
            PadRowsArgs { x: &mut f32s(&[2, 3, 4]), token: &token, lengths: &lengths }.check(DType::F32)
        };
        gives(check(f32s(&[4]), u32s(&[2])), [2, 3, 4]);
        rejects(check(f32s(&[3]), u32s(&[2])), "pad_rows", &["the token", "[4]", "[3]"]);
        rejects(check(f32s(&[4]), u32s(&[3])), "pad_rows", &["the lengths", "[2]", "[3]"]);
        rejects(check(f32s(&[4]), f32s(&[2])), "pad_rows", &["the lengths must be U32, not F32"]);
    }

    #[test]
    fn the_target_must_be_an_activation() {
        let (mut x, token, lengths) = (f32s(&[1, 1, 4]), f32s(&[4]), u32s(&[1]));
        let args = PadRowsArgs { x: &mut x, token: &token, lengths: &lengths };
        rejects(args.check(DType::Bf16), "pad_rows", &["x must be an activation, not F32"]);
    }

    #[test]
    fn the_token_must_not_be_the_target() {
        let mut x = f32s(&[1, 1, 4]);
        let token = x.reshaped(&[4]).unwrap();
        let args = PadRowsArgs { x: &mut x, token: &token, lengths: &u32s(&[1]) };
        rejects(args.check(DType::F32), "pad_rows", &["x must not share memory with the token"]);
    }
}
