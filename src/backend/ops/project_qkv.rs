//! `project_qkv`: a fused projection, ready for attention.

use super::{
    DeviceTensor, DeviceWeight, Heads, LinearArgs, LinearOp, QkNormRope, QkNormRopeArgs, QkNormRopeOp, Result,
};
use super::{check, linear};
use crate::tensor::Compute;

/// The arguments of [`ProjectQkvOp::project_qkv`].
#[derive(Debug)]
pub struct ProjectQkvArgs<'a, T, W> {
    /// `[B, T, K]`.
    pub x: &'a T,
    /// `[fused width, K]`.
    pub w: &'a W,
    /// The heads of the projection.
    pub heads: Heads,
    /// The norm and the rotation.
    pub how: QkNormRope<'a, T>,
    /// The type of queries, keys and values, which are operands of attention's products.
    pub output: Compute,
}

impl<T: DeviceTensor, W: DeviceWeight<2>> ProjectQkvArgs<'_, T, W> {
    /// Checks the arguments; returns the output's shape `[B, T, fused width]`. `computes_fp8`:
    /// [`Runtime::computes_fp8`](super::Runtime::computes_fp8).
    pub fn check(&self, computes_fp8: bool) -> Result<[usize; 3]> {
        let op = "project_qkv";
        let [b, t, _] = check::dims(op, "x", self.x.shape())?;
        let w = self.w.dims();
        linear::multiplied(op, self.x, self.w)?;
        self.heads.check_width(op, w[0])?;
        self.how.check(op, self.heads, [b, t])?;
        check::heads_output(op, self.output, computes_fp8, self.heads.dim)?;
        Ok([b, t, w[0]])
    }
}

/// The projection in front of attention.
pub trait ProjectQkvOp: LinearOp + QkNormRopeOp {
    /// [`QkNormRopeOp::qk_norm_rope`] of [`LinearOp::linear`]. A fused implementation rounds once.
    /// `x` `[B, T, K]`, `W` `[fused width, K]`; returns `[B, T, fused width]`.
    ///
    /// In FP8, for heads of 128, the result is a
    /// [`Fp8Form::Projection`](super::Fp8Form::Projection). All queries have one scale and all keys
    /// have one, [`fp8_head_bound`](crate::tensor::fp8_head_bound) / 448: a normed head has at most
    /// this norm and a rotation keeps it, so no code saturates. The values of a head in each
    /// [`FP8_VALUE_TOKENS`](crate::tensor::FP8_VALUE_TOKENS) tokens of an item, from token 0 on,
    /// have the least power of two from 2⁻⁴⁰ on with which their largest magnitude is at most 448.
    fn project_qkv(
        &self,
        x: &Self::Tensor,
        w: &Self::Linear,
        heads: Heads,
        how: QkNormRope<'_, Self::Tensor>,
        output: Compute,
    ) -> Result<Self::Tensor> {
        let args = ProjectQkvArgs { x, w, heads, how, output };
        let shape = args.check(self.computes_fp8())?;
        self.run_project_qkv(args, shape)
    }

    /// Runs [`ProjectQkvOp::project_qkv`] on checked arguments, by default as two ops. A backend
    /// that computes in FP8 implements it.
    fn run_project_qkv(
        &self,
        args: ProjectQkvArgs<'_, Self::Tensor, Self::Linear>,
        shape: [usize; 3],
    ) -> Result<Self::Tensor> {
        debug_assert_eq!(args.output, Compute::Native);
        project_in_two_ops(self, args, shape)
    }
}

/// `linear` and `qk_norm_rope`, with a result in the backend's own type.
pub(in super::super) fn project_in_two_ops<B: LinearOp + QkNormRopeOp>(
    b: &B,
    args: ProjectQkvArgs<'_, B::Tensor, B::Linear>,
    shape: [usize; 3],
) -> Result<B::Tensor> {
    let ProjectQkvArgs { x, w, heads, how, .. } = args;
    let [items, tokens, _] = shape;
    let mut qkv = b.run_linear(LinearArgs { x, w }, &shape)?;
    b.run_qk_norm_rope(QkNormRopeArgs { qkv: &mut qkv, heads, how }, [items, tokens])?;
    Ok(qkv)
}

#[cfg(test)]
mod tests {
    use super::super::RopePairs;
    use super::check::tests::{Sizes, f32s, gives, rejects};
    use super::*;

    #[test]
    fn the_matrix_must_make_the_heads() {
        let op = "project_qkv";
        let (norm, rotation) = (f32s(&[6]), f32s(&[1, 3, 3, 2]));
        let check = |x: &[usize], w| {
            let pairs = RopePairs::Interleaved;
            let how = QkNormRope { q_norm: &norm, k_norm: &norm, eps: 0.0, rotation: &rotation, pairs };
            let heads = Heads { query: 4, key_value: 2, dim: 6 };
            ProjectQkvArgs { x: &f32s(x), w: &Sizes(w), heads, how, output: Compute::Native }.check(false)
        };
        gives(check(&[2, 3, 5], [48, 5]), [2, 3, 48]);
        rejects(check(&[6, 5], [48, 5]), op, &["x must have 3 dimensions"]);
        rejects(check(&[2, 3, 4], [48, 5]), op, &["[48, 5]", "[2, 3, 4]"]);
        rejects(check(&[2, 3, 5], [47, 5]), op, &["48 wide", "47"]);
        rejects(check(&[2, 4, 5], [48, 5]), op, &["a rotation [1, 3, 3, 2]", "4 tokens"]);
    }

    #[test]
    fn only_heads_of_a_block_are_written_in_fp8() {
        let op = "project_qkv";
        let check = |dim: usize, computes_fp8| {
            let (norm, rotation) = (f32s(&[dim]), f32s(&[1, 3, dim / 2, 2]));
            let pairs = RopePairs::Halves;
            let how = QkNormRope { q_norm: &norm, k_norm: &norm, eps: 0.0, rotation: &rotation, pairs };
            let heads = Heads { query: 1, key_value: 1, dim };
            let (x, w) = (f32s(&[2, 3, 5]), Sizes([3 * dim, 5]));
            ProjectQkvArgs { x: &x, w: &w, heads, how, output: Compute::Fp8 }.check(computes_fp8)
        };
        gives(check(128, true), [2, 3, 384]);
        rejects(check(64, true), op, &["must be 128 wide, not 64"]);
        rejects(check(128, false), op, &["the backend multiplies no FP8 operands"]);
    }
}
