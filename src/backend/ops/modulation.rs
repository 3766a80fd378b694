//! `modulation`: the adaLN linears of every block.

use super::{DeviceTensor, DeviceWeight, LinearOp, Result, check};

/// The arguments of [`ModulationOp::modulation`].
#[derive(Debug)]
pub struct ModulationArgs<'a, T, W> {
    /// The timestep embedding, `[R, A]`.
    pub t: &'a T,
    /// `[n·width, A]`.
    pub w: &'a W,
    /// Applies SiLU to `t` first.
    pub silu: bool,
    /// The width of a row of the table.
    pub width: usize,
}

impl<T: DeviceTensor, W: DeviceWeight<2>> ModulationArgs<'_, T, W> {
    /// Checks the arguments; returns the output's shape `[R, n, width]`.
    pub fn check(&self) -> Result<[usize; 3]> {
        let op = "modulation";
        let t @ [r, a] = check::floats(op, "the timestep embedding", self.t)?;
        let (w, width) = (check::native(op, "w", self.w)?, self.width);
        check::ensure(a == w[1] && width > 0 && w[0].is_multiple_of(width), op, || {
            format!("a matrix {w:?} does not make rows of {width} from {t:?}")
        })?;
        Ok([r, w[0] / width, width])
    }
}

/// The modulation table of the diffusion transformer.
pub trait ModulationOp: LinearOp {
    /// The adaLN linears of every block at once: `W·a + b` with `a = t`, or `SiLU(t)` when `silu`.
    /// `t` `[R, A]`, `W` `[n·width, A]`; returns the modulation table `[R, n, width]`.
    fn modulation(&self, t: &Self::Tensor, w: &Self::Linear, silu: bool, width: usize) -> Result<Self::Tensor> {
        let args = ModulationArgs { t, w, silu, width };
        let shape = args.check()?;
        self.run_modulation(args, shape)
    }

    /// Runs [`ModulationOp::modulation`] on checked arguments.
    fn run_modulation(
        &self,
        args: ModulationArgs<'_, Self::Tensor, Self::Linear>,
        shape: [usize; 3],
    ) -> Result<Self::Tensor>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{Fp8Sizes, Sizes, f32s, gives, rejects};
    use super::*;

    #[test]
    fn the_matrix_must_make_whole_rows() {
        let check = |t: &[usize], width| ModulationArgs { t: &f32s(t), w: &Sizes([12, 8]), silu: true, width }.check();
        gives(check(&[2, 8], 4), [2, 3, 4]);
        rejects(check(&[2, 7], 4), "modulation", &["[12, 8]", "[2, 7]"]);
        rejects(check(&[2, 8], 5), "modulation", &["rows of 5"]);
        rejects(check(&[2, 8], 0), "modulation", &["rows of 0"]);
        let args = ModulationArgs { t: &f32s(&[2, 8]), w: &Fp8Sizes([12, 8]), silu: true, width: 4 };
        rejects(args.check(), "modulation", &["w must not be computed in FP8"]);
    }
}
