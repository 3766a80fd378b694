//! `group_norm`: GroupNorm over a picture, then SiLU.

use super::{DeviceTensor, Result, Runtime, check};

/// The arguments of [`GroupNormOp::group_norm`].
#[derive(Debug)]
pub struct GroupNormArgs<'a, T> {
    /// `[B, H, W, C]`.
    pub x: &'a T,
    /// `[C]`.
    pub weight: &'a T,
    /// `[C]`.
    pub bias: &'a T,
    /// Groups of neighbouring channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Applies SiLU to the result.
    pub silu: bool,
}

impl<T: DeviceTensor> GroupNormArgs<'_, T> {
    /// Checks the arguments; returns the shape of `x`.
    pub fn check(&self) -> Result<[usize; 4]> {
        let op = "group_norm";
        let shape @ [_, _, _, c] = check::floats(op, "x", self.x)?;
        check::vector(op, "the weight", self.weight, c)?;
        check::vector(op, "the bias", self.bias, c)?;
        check::groups(op, c, self.groups)?;
        Ok(shape)
    }
}

/// The norm of the autoencoder.
pub trait GroupNormOp: Runtime {
    /// `(x − mean)/√(var + eps)·weight + bias` with mean and (biased) variance over a group's
    /// channels and all pixels, then SiLU when `silu`. `x` `[B, H, W, C]`, `weight` and `bias`
    /// `[C]`; returns the same shape.
    fn group_norm(
        &self,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        bias: &Self::Tensor,
        groups: usize,
        eps: f32,
        silu: bool,
    ) -> Result<Self::Tensor> {
        let args = GroupNormArgs { x, weight, bias, groups, eps, silu };
        let shape = args.check()?;
        self.run_group_norm(args, shape)
    }

    /// Runs [`GroupNormOp::group_norm`] on checked arguments.
    fn run_group_norm(&self, args: GroupNormArgs<'_, Self::Tensor>, shape: [usize; 4]) -> Result<Self::Tensor>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{f32s, gives, rejects};
    use super::*;

    #[test]
    fn groups_must_divide_the_channels() {
        let x = f32s(&[2, 5, 7, 12]);
        let check = |weight, bias, groups| {
            let (weight, bias) = (f32s(&[weight]), f32s(&[bias]));
            GroupNormArgs { x: &x, weight: &weight, bias: &bias, groups, eps: 0.0, silu: true }.check()
        };
        gives(check(12, 12, 4), [2, 5, 7, 12]);
        rejects(check(11, 12, 4), "group_norm", &["the weight", "[11]"]);
        rejects(check(12, 13, 4), "group_norm", &["the bias", "[13]"]);
        rejects(check(12, 12, 5), "group_norm", &["12 channels", "5 groups"]);
        rejects(check(12, 12, 0), "group_norm", &["0 groups"]);
    }
}
