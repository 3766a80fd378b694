//! `residual_norm`: adds a branch to the residual stream and norms the sum for the next linear.

use super::{Branch, DeviceTensor, Result, RmsNorm, Runtime, check};
use crate::tensor::DType;

/// The arguments of [`ResidualNormOp::residual_norm`].
#[derive(Debug)]
pub struct ResidualNormArgs<'a, T> {
    /// The residual stream, `[B, T, D]`, changed in place.
    pub x: &'a mut T,
    /// The branch to add.
    pub branch: Branch<'a, T>,
    /// The norm of the sum.
    pub norm: RmsNorm<'a, T>,
}

impl<T: DeviceTensor> ResidualNormArgs<'_, T> {
    /// Checks the arguments where activations are of type `activation`; returns the shape of `x`.
    /// `computes_fp8`: [`Runtime::computes_fp8`].
    pub fn check(&self, activation: DType, computes_fp8: bool) -> Result<[usize; 3]> {
        let op = "residual_norm";
        let shape = check::activation(op, "x", self.x, activation)?;
        self.branch.check(op, self.x, shape)?;
        self.norm.check(op, shape, computes_fp8)?;
        let scale = self.norm.scale.map(|scale| scale.table);
        check::apart(op, ("x", self.x), &[("the norm's weight", Some(self.norm.weight)), ("the scale", scale)])?;
        Ok(shape)
    }
}

/// Residual additions with the norm of the sum.
pub trait ResidualNormOp: Runtime {
    /// Computes `x += branch` in place and returns the [`RmsNorm`] of the new `x`. `x` `[B, T, D]`;
    /// returns the same shape.
    fn residual_norm(
        &self,
        x: &mut Self::Tensor,
        branch: Branch<'_, Self::Tensor>,
        norm: RmsNorm<'_, Self::Tensor>,
    ) -> Result<Self::Tensor> {
        let args = ResidualNormArgs { x, branch, norm };
        let shape = args.check(self.activations(), self.computes_fp8())?;
        self.run_residual_norm(args, shape)
    }

    /// Runs [`ResidualNormOp::residual_norm`] on checked arguments.
    fn run_residual_norm(&self, args: ResidualNormArgs<'_, Self::Tensor>, shape: [usize; 3]) -> Result<Self::Tensor>;
}

#[cfg(test)]
mod tests {
    use super::super::Modulation;
    use super::check::tests::{Fake, f32s, gives, rejects};
    use super::*;
    use crate::tensor::Compute;

    #[test]
    fn the_norm_must_fit_and_not_alias() {
        let x = f32s(&[1, 2, 4]);
        let (y, weight, table) = (f32s(&[1, 2, 4]), f32s(&[4]), f32s(&[1, 1, 4]));
        let check = |weight: &Fake, table: &Fake| {
            let scale = Some(Modulation { table, row: 0 });
            let branch = Branch { y: &y, norm: None, gate: None, eps: 0.0 };
            let norm = RmsNorm { weight, scale, eps: 0.0, output: Compute::Native };
            ResidualNormArgs { x: &mut x.clone(), branch, norm }.check(DType::F32, false)
        };
        gives(check(&weight, &table), [1, 2, 4]);
        rejects(check(&f32s(&[5]), &table), "residual_norm", &["the norm's weight", "[4]", "[5]"]);
        rejects(check(&x.with_shape(&[4]), &table), "residual_norm", &["share memory with the norm's weight"]);
        rejects(check(&weight, &x.with_shape(&[1, 1, 4])), "residual_norm", &["share memory with the scale"]);
    }
}
