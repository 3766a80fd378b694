//! `qk_norm_rope`: QK-norm and RoPE on a fused projection.

use super::{DeviceTensor, Heads, Result, Runtime, check};
use crate::tensor::DType;

/// The elements of a head that a rotation pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairs {
    /// Neighbours: `(x0, x1), (x2, x3), …`.
    Interleaved,
    /// The two halves: `(x0, x_{d/2}), (x1, x_{d/2+1}), …`.
    Halves,
}

/// The norm and the rotation of a head.
#[derive(Debug)]
pub struct QkNormRope<'a, T> {
    /// Weight `[dim]` of the RMSNorm over a query head.
    pub q_norm: &'a T,
    /// Weight `[dim]` of the RMSNorm over a key head.
    pub k_norm: &'a T,
    /// Added to the mean square of a head.
    pub eps: f32,
    /// F32 `[R, T, dim/2, 2]` with `R` 1 or `B`: `(cos, sin)` of each pair, `(a, b) → (a·cos −
    /// b·sin, a·sin + b·cos)`.
    pub rotation: &'a T,
    /// The elements of a pair.
    pub pairs: RopePairs,
}

impl<T: DeviceTensor> QkNormRope<'_, T> {
    /// Checks norm and rotation against a fused projection of `b` items with `t` tokens.
    pub(super) fn check(&self, op: &'static str, heads: Heads, [b, t]: [usize; 2]) -> Result<()> {
        let dim = heads.dim;
        check::vector(op, "the query norm", self.q_norm, dim)?;
        check::vector(op, "the key norm", self.k_norm, dim)?;
        check::ensure(dim.is_multiple_of(2), op, || format!("a head of {dim} cannot be rotated in pairs"))?;
        let rotation @ [r, ..]: [usize; 4] = check::exactly(op, "the rotation", self.rotation, DType::F32)?;
        check::ensure((r == 1 || r == b) && rotation[1..] == [t, dim / 2, 2], op, || {
            format!("a rotation {rotation:?} does not fit {b} items of {t} tokens with heads of {dim}")
        })
    }
}

/// The arguments of [`QkNormRopeOp::qk_norm_rope`].
#[derive(Debug)]
pub struct QkNormRopeArgs<'a, T> {
    /// The fused projection, `[B, T, fused width]`, changed in place.
    pub qkv: &'a mut T,
    /// Its heads.
    pub heads: Heads,
    /// The norm and the rotation.
    pub how: QkNormRope<'a, T>,
}

impl<T: DeviceTensor> QkNormRopeArgs<'_, T> {
    /// Checks the arguments where activations are of type `activation`; returns `[B, T]`.
    pub fn check(&self, activation: DType) -> Result<[usize; 2]> {
        let op = "qk_norm_rope";
        let [b, t, width] = check::activation(op, "the fused projection", self.qkv, activation)?;
        self.heads.check_width(op, width)?;
        let tokens = [b, t];
        self.how.check(op, self.heads, tokens)?;
        let read = [
            ("the query norm", Some(self.how.q_norm)),
            ("the key norm", Some(self.how.k_norm)),
            ("the rotation", Some(self.how.rotation)),
        ];
        check::apart(op, ("the fused projection", self.qkv), &read)?;
        Ok(tokens)
    }
}

/// QK-norm and RoPE.
pub trait QkNormRopeOp: Runtime {
    /// Prepares a fused projection `[B, T, fused width]` for
    /// [`attention`](super::AttentionOp::attention), in place: every query and key head is normed
    /// and then rotated by [`QkNormRope`]. Value heads stay unchanged.
    fn qk_norm_rope(&self, qkv: &mut Self::Tensor, heads: Heads, how: QkNormRope<'_, Self::Tensor>) -> Result<()> {
        let args = QkNormRopeArgs { qkv, heads, how };
        let tokens = args.check(self.activations())?;
        self.run_qk_norm_rope(args, tokens)
    }

    /// Runs [`QkNormRopeOp::qk_norm_rope`] on checked arguments; `tokens` is `[B, T]`.
    fn run_qk_norm_rope(&self, args: QkNormRopeArgs<'_, Self::Tensor>, tokens: [usize; 2]) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{f32s, gives, rejects};
    use super::*;

    fn check(qkv: &[usize], heads: Heads, norms: [usize; 2], rotation: &[usize]) -> Result<[usize; 2]> {
        let [q_norm, k_norm] = norms.map(|n| f32s(&[n]));
        let rotation = &f32s(rotation);
        let pairs = RopePairs::Halves;
        let how = QkNormRope { q_norm: &q_norm, k_norm: &k_norm, eps: 1e-6, rotation, pairs };
        QkNormRopeArgs { qkv: &mut f32s(qkv), heads, how }.check(DType::F32)
    }

    #[test]
    fn norms_and_rotation_must_fit_the_heads() {
        let op = "qk_norm_rope";
        let heads = Heads { query: 4, key_value: 2, dim: 6 };
        let qkv = [2, 3, 48];
        for r in [1, 2] {
            gives(check(&qkv, heads, [6, 6], &[r, 3, 3, 2]), [2, 3]);
        }
        rejects(check(&[2, 3, 47], heads, [6, 6], &[1, 3, 3, 2]), op, &["48 wide", "47"]);
        rejects(check(&qkv, heads, [5, 6], &[1, 3, 3, 2]), op, &["the query norm", "[5]"]);
        rejects(check(&qkv, heads, [6, 7], &[1, 3, 3, 2]), op, &["the key norm", "[7]"]);
        for rotation in [[3, 3, 3, 2], [1, 4, 3, 2], [1, 3, 6, 2], [1, 3, 3, 1]] {
            let words = [&*format!("{rotation:?}"), "2 items of 3 tokens", "heads of 6"];
            rejects(check(&qkv, heads, [6, 6], &rotation), op, &words);
        }
        let odd = Heads { query: 1, key_value: 1, dim: 3 };
        rejects(check(&[1, 1, 9], odd, [3, 3], &[1, 1, 1, 2]), op, &["a head of 3"]);
    }

    #[test]
    fn norms_must_not_be_the_target() {
        let mut qkv = f32s(&[1, 1, 6]);
        let norm = f32s(&[2]);
        let alias = qkv.with_shape(&[2]);
        let rotation = f32s(&[1, 1, 1, 2]);
        let pairs = RopePairs::Halves;
        let how = QkNormRope { q_norm: &norm, k_norm: &alias, eps: 0.0, rotation: &rotation, pairs };
        let args = QkNormRopeArgs { qkv: &mut qkv, heads: Heads { query: 1, key_value: 1, dim: 2 }, how };
        rejects(
            args.check(DType::F32),
            "qk_norm_rope",
            &["the fused projection must not share memory with the key norm"],
        );
    }
}
