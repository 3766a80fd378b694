//! `project_qkv`: a fused projection, ready for attention.

use super::{
    DeviceTensor, DeviceWeight, Heads, LinearArgs, LinearOp, QkNormRope, QkNormRopeArgs, QkNormRopeOp, Result,
};
use super::{check, linear};

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
}

impl<T: DeviceTensor, W: DeviceWeight<2>> ProjectQkvArgs<'_, T, W> {
    /// Checks the arguments; returns the output's shape `[B, T, fused width]`.
    pub fn check(&self) -> Result<[usize; 3]> {
        let op = "project_qkv";
        let [b, t, _] = check::dims(op, "x", self.x.shape())?;
        let w = self.w.dims();
        linear::multiplied(op, self.x, self.w)?;
        self.heads.check_width(op, w[0])?;
        self.how.check(op, self.heads, [b, t])?;
        Ok([b, t, w[0]])
    }
}

/// The projection in front of attention.
pub trait ProjectQkvOp: LinearOp + QkNormRopeOp {
    /// [`QkNormRopeOp::qk_norm_rope`] of [`LinearOp::linear`]. A fused implementation rounds once.
    /// `x` `[B, T, K]`, `W` `[fused width, K]`; returns `[B, T, fused width]`.
    fn project_qkv(
        &self,
        x: &Self::Tensor,
        w: &Self::Linear,
        heads: Heads,
        how: QkNormRope<'_, Self::Tensor>,
    ) -> Result<Self::Tensor> {
        let args = ProjectQkvArgs { x, w, heads, how };
        let shape = args.check()?;
        self.run_project_qkv(args, shape)
    }

    /// Runs [`ProjectQkvOp::project_qkv`] on checked arguments, by default as two ops.
    fn run_project_qkv(
        &self,
        args: ProjectQkvArgs<'_, Self::Tensor, Self::Linear>,
        shape: [usize; 3],
    ) -> Result<Self::Tensor> {
        let ProjectQkvArgs { x, w, heads, how } = args;
        let [b, t, _] = shape;
        let mut qkv = self.run_linear(LinearArgs { x, w }, &shape)?;
        self.run_qk_norm_rope(QkNormRopeArgs { qkv: &mut qkv, heads, how }, [b, t])?;
        Ok(qkv)
    }
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
            ProjectQkvArgs { x: &f32s(x), w: &Sizes(w), heads: Heads { query: 4, key_value: 2, dim: 6 }, how }.check()
        };
        gives(check(&[2, 3, 5], [48, 5]), [2, 3, 48]);
        rejects(check(&[6, 5], [48, 5]), op, &["x must have 3 dimensions"]);
        rejects(check(&[2, 3, 4], [48, 5]), op, &["[48, 5]", "[2, 3, 4]"]);
        rejects(check(&[2, 3, 5], [47, 5]), op, &["48 wide", "47"]);
        rejects(check(&[2, 4, 5], [48, 5]), op, &["a rotation [1, 3, 3, 2]", "4 tokens"]);
    }
}
