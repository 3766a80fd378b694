//! `residual`: adds a branch to the residual stream.

use super::{DeviceTensor, Modulation, Result, Runtime, check};
use crate::tensor::DType;

/// A branch of the residual stream: `tanh(gate) ⊙ RMS(y)·norm`. Without a norm, `y` is used
/// unchanged; without a gate, the first factor is 1.
#[derive(Debug)]
pub struct Branch<'a, T> {
    /// The branch's output, `[B, T, D]`.
    pub y: &'a T,
    /// Weight `[D]` of the norm on the branch's output.
    pub norm: Option<&'a T>,
    /// The gate before its `tanh`.
    pub gate: Option<Modulation<'a, T>>,
    /// Added to the mean square inside the norm.
    pub eps: f32,
}

impl<'a, T: DeviceTensor> Branch<'a, T> {
    /// Checks that the branch fits the residual stream `x` of `shape`, and that the branch does not
    /// read the stream.
    pub(super) fn check(&self, op: &'static str, x: &T, shape: [usize; 3]) -> Result<()> {
        check::same(op, "the branch", self.y.shape(), &shape)?;
        check::floating(op, "the branch", self.y.dtype())?;
        if let Some(norm) = self.norm {
            check::vector(op, "the branch's norm", norm, shape[2])?;
        }
        if let Some(gate) = self.gate {
            gate.check(op, shape)?;
        }
        let gate = self.gate.map(|gate| gate.table);
        check::apart(
            op,
            ("x", x),
            &[("the branch", Some(self.y)), ("the branch's norm", self.norm), ("the gate", gate)],
        )
    }
}

/// The arguments of [`ResidualOp::residual`].
#[derive(Debug)]
pub struct ResidualArgs<'a, T> {
    /// The residual stream, `[B, T, D]`, changed in place.
    pub x: &'a mut T,
    /// The branch to add.
    pub branch: Branch<'a, T>,
}

impl<T: DeviceTensor> ResidualArgs<'_, T> {
    /// Checks the arguments where activations are of type `activation`; returns the shape of `x`.
    pub fn check(&self, activation: DType) -> Result<[usize; 3]> {
        let op = "residual";
        let shape = check::activation(op, "x", self.x, activation)?;
        self.branch.check(op, self.x, shape)?;
        Ok(shape)
    }
}

/// Residual additions.
pub trait ResidualOp: Runtime {
    /// `x += branch`, in place. `x` `[B, T, D]`.
    fn residual(&self, x: &mut Self::Tensor, branch: Branch<'_, Self::Tensor>) -> Result<()> {
        let args = ResidualArgs { x, branch };
        let shape = args.check(self.activations())?;
        self.run_residual(args, shape)
    }

    /// Runs [`ResidualOp::residual`] on checked arguments; `shape` is that of `x`.
    fn run_residual(&self, args: ResidualArgs<'_, Self::Tensor>, shape: [usize; 3]) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{Fake, f32s, gives, rejects};
    use super::*;

    #[test]
    fn the_branch_must_fit_the_stream() {
        let check = |y: &[usize], norm: usize, table: &[usize]| {
            let (y, norm, table) = (f32s(y), f32s(&[norm]), f32s(table));
            let gate = Some(Modulation { table: &table, row: 1 });
            ResidualArgs { x: &mut f32s(&[2, 3, 4]), branch: Branch { y: &y, norm: Some(&norm), gate, eps: 0.0 } }
                .check(DType::F32)
        };
        gives(check(&[2, 3, 4], 4, &[1, 2, 4]), [2, 3, 4]);
        rejects(check(&[2, 3, 5], 4, &[1, 2, 4]), "residual", &["the branch", "[2, 3, 4]", "[2, 3, 5]"]);
        rejects(check(&[2, 3, 4], 5, &[1, 2, 4]), "residual", &["the branch's norm", "[4]", "[5]"]);
        rejects(check(&[2, 3, 4], 4, &[1, 1, 4]), "residual", &["row 1", "[1, 1, 4]"]);
    }

    #[test]
    fn the_branch_must_not_read_the_stream() {
        let x = f32s(&[1, 2, 4]);
        let (other, norm, table) = (f32s(&[1, 2, 4]), f32s(&[4]), f32s(&[1, 1, 4]));
        let check = |y: &Fake, norm: &Fake, table: &Fake| {
            let gate = Some(Modulation { table, row: 0 });
            ResidualArgs { x: &mut x.clone(), branch: Branch { y, norm: Some(norm), gate, eps: 0.0 } }.check(DType::F32)
        };
        gives(check(&other, &norm, &table), [1, 2, 4]);
        rejects(check(&x, &norm, &table), "residual", &["x must not share memory with the branch"]);
        rejects(check(&other, &x.with_shape(&[4]), &table), "residual", &["share memory with the branch's norm"]);
        rejects(check(&other, &norm, &x.with_shape(&[1, 1, 4])), "residual", &["share memory with the gate"]);
    }
}
