//! `rms_norm`: RMSNorm, optionally modulated.

use super::{DeviceTensor, Result, Runtime, check};
use crate::tensor::Compute;

/// A row of a modulation table `[R, n, D]`: `table[r, row]`, where `R` is 1 (shared by the batch)
/// or the batch size.
#[derive(Debug)]
pub struct Modulation<'a, T> {
    /// The table, an activation.
    pub table: &'a T,
    /// The row, below `n`.
    pub row: usize,
}

impl<T> Clone for Modulation<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Modulation<'_, T> {}

impl<T: DeviceTensor> Modulation<'_, T> {
    /// Checks that the row can modulate `[B, T, D]`.
    pub(super) fn check(&self, op: &'static str, [b, _, d]: [usize; 3]) -> Result<()> {
        let table @ [r, n, width] = check::floats(op, "the modulation table", self.table)?;
        let row = self.row;
        check::ensure((r == 1 || r == b) && row < n && width == d, op, || {
            format!("row {row} of a modulation table {table:?} does not fit {b} items of width {d}")
        })
    }
}

/// An RMSNorm: `x / √(mean(x²) + eps) · weight · (1 + scale)`, with the mean over the last
/// dimension. Without a scale the last factor is 1.
#[derive(Debug)]
pub struct RmsNorm<'a, T> {
    /// Weight `[D]`.
    pub weight: &'a T,
    /// The scale of the modulation.
    pub scale: Option<Modulation<'a, T>>,
    /// Added to the mean square.
    pub eps: f32,
    /// The type of the result, which is the operand of a gemm. In FP8 every row has one scale.
    pub output: Compute,
}

impl<T: DeviceTensor> RmsNorm<'_, T> {
    /// Checks that the norm fits `[B, T, D]`, and its output the backend.
    pub(super) fn check(&self, op: &'static str, x: [usize; 3], computes_fp8: bool) -> Result<()> {
        check::output(op, self.output, computes_fp8, x[2])?;
        check::vector(op, "the norm's weight", self.weight, x[2])?;
        self.scale.map_or(Ok(()), |scale| scale.check(op, x))
    }
}

/// The arguments of [`RmsNormOp::rms_norm`].
#[derive(Debug)]
pub struct RmsNormArgs<'a, T> {
    /// `[B, T, D]`.
    pub x: &'a T,
    /// The norm.
    pub norm: RmsNorm<'a, T>,
}

impl<T: DeviceTensor> RmsNormArgs<'_, T> {
    /// Checks the arguments; returns the shape of `x`. `computes_fp8`: [`Runtime::computes_fp8`].
    pub fn check(&self, computes_fp8: bool) -> Result<[usize; 3]> {
        let op = "rms_norm";
        let shape = check::floats(op, "x", self.x)?;
        self.norm.check(op, shape, computes_fp8)?;
        Ok(shape)
    }
}

/// The norm of the transformers.
pub trait RmsNormOp: Runtime {
    /// The [`RmsNorm`] of every token. `x` `[B, T, D]`; returns the same shape.
    fn rms_norm(&self, x: &Self::Tensor, norm: RmsNorm<'_, Self::Tensor>) -> Result<Self::Tensor> {
        let args = RmsNormArgs { x, norm };
        let shape = args.check(self.computes_fp8())?;
        self.run_rms_norm(args, shape)
    }

    /// Runs [`RmsNormOp::rms_norm`] on checked arguments.
    fn run_rms_norm(&self, args: RmsNormArgs<'_, Self::Tensor>, shape: [usize; 3]) -> Result<Self::Tensor>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{f32s, gives, rejects};
    use super::*;

    #[test]
    fn weight_and_scale_must_fit_the_width() {
        let check = |x: &[usize], weight: usize, scale: Option<([usize; 3], usize)>| {
            let (x, weight) = (f32s(x), f32s(&[weight]));
            let scale = scale.map(|(table, row)| (f32s(&table), row));
            let scale = scale.as_ref().map(|(table, row)| Modulation { table, row: *row });
            let norm = RmsNorm { weight: &weight, scale, eps: 0.0, output: Compute::Native };
            RmsNormArgs { x: &x, norm }.check(false)
        };
        gives(check(&[2, 3, 4], 4, None), [2, 3, 4]);
        rejects(check(&[2, 3, 4], 3, None), "rms_norm", &["the norm's weight", "[4]", "[3]"]);
        rejects(check(&[6, 4], 4, None), "rms_norm", &["3 dimensions", "[6, 4]"]);
        for r in [1, 2] {
            gives(check(&[2, 3, 4], 4, Some(([r, 5, 4], 4))), [2, 3, 4]);
        }
        for (table, row) in [([3, 5, 4], 0), ([1, 5, 4], 5), ([1, 5, 3], 0)] {
            let words = [&*format!("row {row} of"), "2 items", "width 4"];
            rejects(check(&[2, 3, 4], 4, Some((table, row))), "rms_norm", &words);
        }
    }
}
