//! `concat_rows`: rows of several pictures as one picture.

use super::{DeviceTensor, Result, Runtime, check};
use crate::tensor::DType;
use std::ops::Range;

/// The arguments of [`ConcatRowsOp::concat_rows`].
#[derive(Debug)]
pub struct ConcatRowsArgs<'a, T> {
    /// Activations `[1, Hᵢ, W, C]`, each with the rows of it to take.
    pub parts: &'a [(&'a T, Range<usize>)],
}

impl<T: DeviceTensor> ConcatRowsArgs<'_, T> {
    /// Checks the arguments, where activations have the type `activation`; returns the output's
    /// shape `[1, ΣHᵢ, W, C]`.
    pub fn check(&self, activation: DType) -> Result<[usize; 4]> {
        let op = "concat_rows";
        let mut whole = [1, 0, 0, 0];
        for (x, rows) in self.parts {
            let [items, height, width, channels] = check::activation(op, "a part", *x, activation)?;
            check::ensure(items == 1, op, || format!("a part has {items} items, not one"))?;
            check::ensure(!rows.is_empty() && rows.end <= height, op, || {
                format!("a part of {height} rows has no rows {rows:?}")
            })?;
            if whole[1] == 0 {
                whole = [1, 0, width, channels];
            }
            check::ensure(whole[2..] == [width, channels], op, || {
                format!("rows of {width}×{channels} do not continue rows of {}×{}", whole[2], whole[3])
            })?;
            whole[1] += rows.len();
        }
        check::ensure(whole[1] > 0, op, || "there are no parts".into())?;
        Ok(whole)
    }
}

/// A band of a picture whose rows are in several tensors.
pub trait ConcatRowsOp: Runtime {
    /// The rows of the parts, one after the other, unchanged. `parts`: activations `[1, Hᵢ, W, C]`,
    /// each with the rows of it to take; returns an activation `[1, H, W, C]`, where `H` is the
    /// number of rows taken.
    fn concat_rows(&self, parts: &[(&Self::Tensor, Range<usize>)]) -> Result<Self::Tensor> {
        let args = ConcatRowsArgs { parts };
        let shape = args.check(self.activations())?;
        self.run_concat_rows(args, shape)
    }

    /// Runs [`ConcatRowsOp::concat_rows`] on checked arguments.
    fn run_concat_rows(&self, args: ConcatRowsArgs<'_, Self::Tensor>, shape: [usize; 4]) -> Result<Self::Tensor>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{Fake, f32s, gives, rejects};
    use super::*;

    #[test]
    fn parts_have_equal_rows() {
        let op = "concat_rows";
        let check = |parts: &[(&Fake, Range<usize>)]| ConcatRowsArgs { parts }.check(DType::F32);
        let (x, y) = (f32s(&[1, 5, 3, 4]), f32s(&[1, 2, 3, 4]));
        gives(check(&[(&x, 1..5), (&y, 0..1), (&x, 0..5)]), [1, 10, 3, 4]);
        rejects(check(&[]), op, &["there are no parts"]);
        rejects(check(&[(&x, 0..2), (&f32s(&[1, 5, 4, 3]), 0..2)]), op, &["4×3", "3×4"]);
        rejects(check(&[(&x, 2..6)]), op, &["5 rows", "2..6"]);
        rejects(check(&[(&x, 2..2)]), op, &["2..2"]);
        rejects(check(&[(&f32s(&[2, 5, 3, 4]), 0..2)]), op, &["2 items"]);
        rejects(check(&[(&Fake::new(DType::F16, &[1, 5, 3, 4]), 0..2)]), op, &["must be an activation, not F16"]);
    }
}
