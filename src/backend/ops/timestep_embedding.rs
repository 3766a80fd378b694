//! `timestep_embedding`: sinusoids of the time, then a two-layer MLP.

use super::{DeviceTensor, DeviceWeight, LinearOp, Result, check};
use crate::tensor::DType;

/// The longest period of the sinusoids over 2π.
pub(crate) const MAX_PERIOD: f32 = 10_000.0;

/// The arguments of [`TimestepEmbeddingOp::timestep_embedding`].
#[derive(Debug)]
pub struct TimestepEmbeddingArgs<'a, T, W> {
    /// F32 `[N, R]`.
    pub times: &'a T,
    /// U32 `[1]`: the row of `times`.
    pub step: &'a T,
    /// The first layer, `[M, 2h]`.
    pub w1: &'a W,
    /// The second layer, `[A, M]`.
    pub w2: &'a W,
}

impl<T: DeviceTensor, W: DeviceWeight<2>> TimestepEmbeddingArgs<'_, T, W> {
    /// Checks the arguments; returns the output's shape `[R, A]`.
    pub fn check(&self) -> Result<[usize; 2]> {
        let op = "timestep_embedding";
        let [_, r] = check::exactly(op, "the table of times", self.times, DType::F32)?;
        check::integers(op, "the step", self.step, 1)?;
        let (w1, w2) = (check::native(op, "w1", self.w1)?, check::native(op, "w2", self.w2)?);
        check::ensure(w1[1].is_multiple_of(2) && w2[1] == w1[0], op, || {
            format!("the matrices {w1:?} and {w2:?} do not follow sinusoids and each other")
        })?;
        Ok([r, w2[0]])
    }
}

/// The timestep embedder of the diffusion transformer.
pub trait TimestepEmbeddingOp: LinearOp {
    /// `W₂·SiLU(W₁·e + b₁) + b₂` with `e = [cos(u·f), sin(u·f)]` and `fᵢ = 10000^(−i/h)`, `i < h`.
    /// `2h` is the width of `W₁`'s rows, and `u` is read from the device-side table `times` F32
    /// `[N, R]` at row `step` (U32 `[1]`). Returns `[R, A]`.
    fn timestep_embedding(
        &self,
        times: &Self::Tensor,
        step: &Self::Tensor,
        w1: &Self::Linear,
        w2: &Self::Linear,
    ) -> Result<Self::Tensor> {
        let args = TimestepEmbeddingArgs { times, step, w1, w2 };
        let shape = args.check()?;
        self.run_timestep_embedding(args, shape)
    }

    /// Runs [`TimestepEmbeddingOp::timestep_embedding`] on checked arguments.
    fn run_timestep_embedding(
        &self,
        args: TimestepEmbeddingArgs<'_, Self::Tensor, Self::Linear>,
        shape: [usize; 2],
    ) -> Result<Self::Tensor>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{Fp8Sizes, Sizes, f32s, gives, rejects, u32s};
    use super::*;

    #[test]
    fn the_layers_must_follow_each_other() {
        let op = "timestep_embedding";
        let check = |times: &[usize], step, w1, w2| {
            let (w1, w2) = (Sizes(w1), Sizes(w2));
            TimestepEmbeddingArgs { times: &f32s(times), step: &u32s(&[step]), w1: &w1, w2: &w2 }.check()
        };
        gives(check(&[9, 2], 1, [16, 8], [5, 16]), [2, 5]);
        rejects(check(&[9], 1, [16, 8], [5, 16]), op, &["the table of times", "[9]"]);
        rejects(check(&[9, 2], 2, [16, 8], [5, 16]), op, &["the step", "[2]"]);
        rejects(check(&[9, 2], 1, [16, 7], [5, 16]), op, &["[16, 7]"]);
        rejects(check(&[9, 2], 1, [16, 8], [5, 15]), op, &["[16, 8]", "[5, 15]"]);
        let (times, step, w1, w2) = (f32s(&[9, 2]), u32s(&[1]), Fp8Sizes([16, 8]), Fp8Sizes([5, 16]));
        let args = TimestepEmbeddingArgs { times: &times, step: &step, w1: &w1, w2: &w2 };
        rejects(args.check(), op, &["w1 must not be computed in FP8"]);
    }
}
