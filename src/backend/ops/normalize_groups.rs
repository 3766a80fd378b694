//! `normalize_groups`: GroupNorm with given moments, then SiLU.

use super::{DeviceTensor, Result, Runtime, check};
use crate::tensor::DType;

/// The arguments of [`NormalizeGroupsOp::normalize_groups`].
#[derive(Debug)]
pub struct NormalizeGroupsArgs<'a, T> {
    /// `[B, H, W, C]`.
    pub x: &'a T,
    /// F32 `[B, groups, 2]`: mean and variance of each group of neighbouring channels.
    pub moments: &'a T,
    /// `[C]`.
    pub weight: &'a T,
    /// `[C]`.
    pub bias: &'a T,
    /// Added to the variance.
    pub eps: f32,
    /// Applies SiLU to the result.
    pub silu: bool,
}

impl<T: DeviceTensor> NormalizeGroupsArgs<'_, T> {
    /// Checks the arguments; returns the shape of `x`.
    pub fn check(&self) -> Result<[usize; 4]> {
        let op = "normalize_groups";
        let shape @ [b, _, _, c] = check::floats(op, "x", self.x)?;
        let [_, groups, _] = check::exactly(op, "the moments", self.moments, DType::F32)?;
        check::same(op, "the moments", self.moments.shape(), &[b, groups, 2])?;
        check::groups(op, c, groups)?;
        check::vector(op, "the weight", self.weight, c)?;
        check::vector(op, "the bias", self.bias, c)?;
        Ok(shape)
    }

    /// The number of groups.
    pub fn groups(&self) -> usize {
        self.moments.shape()[1]
    }
}

/// The second half of [`group_norm`](super::GroupNormOp::group_norm), for a band of a picture whose
/// moments are known.
pub trait NormalizeGroupsOp: Runtime {
    /// `(x − mean)/√(var + eps)·weight + bias`, then SiLU when `silu`. `x` `[B, H, W, C]`,
    /// `moments` F32 `[B, groups, 2]` with mean and variance of each group, `weight` and `bias`
    /// `[C]`; returns the shape of `x`. With the
    /// [`group_moments`](super::GroupMomentsOp::group_moments) of `x` it is `group_norm`.
    fn normalize_groups(
        &self,
        x: &Self::Tensor,
        moments: &Self::Tensor,
        weight: &Self::Tensor,
        bias: &Self::Tensor,
        eps: f32,
        silu: bool,
    ) -> Result<Self::Tensor> {
        let args = NormalizeGroupsArgs { x, moments, weight, bias, eps, silu };
        let shape = args.check()?;
        self.run_normalize_groups(args, shape)
    }

    /// Runs [`NormalizeGroupsOp::normalize_groups`] on checked arguments.
    fn run_normalize_groups(
        &self,
        args: NormalizeGroupsArgs<'_, Self::Tensor>,
        shape: [usize; 4],
    ) -> Result<Self::Tensor>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{Fake, f32s, gives, rejects, u32s};
    use super::*;

    fn check(x: &Fake, moments: &Fake, weight: usize, bias: usize) -> Result<[usize; 4]> {
        let (weight, bias) = (f32s(&[weight]), f32s(&[bias]));
        NormalizeGroupsArgs { x, moments, weight: &weight, bias: &bias, eps: 0.0, silu: true }.check()
    }

    #[test]
    fn moments_must_fit_the_picture() {
        let op = "normalize_groups";
        let x = f32s(&[2, 5, 7, 12]);
        gives(check(&x, &f32s(&[2, 4, 2]), 12, 12), [2, 5, 7, 12]);
        rejects(check(&x, &f32s(&[1, 4, 2]), 12, 12), op, &["the moments", "[2, 4, 2]", "[1, 4, 2]"]);
        rejects(check(&x, &f32s(&[2, 4, 3]), 12, 12), op, &["the moments", "[2, 4, 2]", "[2, 4, 3]"]);
        rejects(check(&x, &f32s(&[2, 8]), 12, 12), op, &["the moments must have 3 dimensions"]);
        rejects(check(&x, &u32s(&[2, 4, 2]), 12, 12), op, &["the moments must be F32, not U32"]);
        rejects(check(&x, &f32s(&[2, 5, 2]), 12, 12), op, &["12 channels", "5 groups"]);
    }

    #[test]
    fn weight_and_bias_must_fit_the_channels() {
        let (x, moments) = (f32s(&[2, 5, 7, 12]), f32s(&[2, 4, 2]));
        rejects(check(&x, &moments, 11, 12), "normalize_groups", &["the weight", "[11]"]);
        rejects(check(&x, &moments, 12, 13), "normalize_groups", &["the bias", "[13]"]);
    }
}
