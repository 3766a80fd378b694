//! `attention`: softmax attention over a fused projection.

use super::{DeviceTensor, Result, Runtime, check};
use crate::tensor::Compute;

/// The heads of an attention. A *fused projection* is `[B, T, (query + 2·key_value)·dim]`: each
/// token holds all query heads, then all key heads, then all value heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub query: usize,
    /// Key heads, and as many value heads; query head `h` reads key head `h / (query / key_value)`.
    pub key_value: usize,
    /// The width of a head.
    pub dim: usize,
}

impl Heads {
    /// The width of the fused projection.
    pub fn fused_width(&self) -> usize {
        (self.query + 2 * self.key_value) * self.dim
    }

    /// The columns of the queries and of the keys in the fused projection; values have as many as
    /// keys.
    pub fn columns(&self) -> [usize; 2] {
        [self.query, self.key_value].map(|count| count * self.dim)
    }

    /// Checks that these heads are possible and make a fused projection of `width`.
    pub(super) fn check_width(self, op: &'static str, width: usize) -> Result<()> {
        let Heads { query, key_value, .. } = self;
        check::ensure(key_value > 0 && query > 0 && query.is_multiple_of(key_value), op, || {
            format!("{query} query heads cannot share {key_value} key heads")
        })?;
        check::ensure(width == self.fused_width(), op, || {
            format!("{self:?} need a fused projection {} wide, not {width}", self.fused_width())
        })
    }
}

/// The keys that a query attends to.
#[derive(Debug)]
pub struct Mask<'a, T> {
    /// Causal: a query sees the keys up to its own position.
    pub causal: bool,
    /// U32 `[B]`: item `b` has this many keys (1 to `T`), and all others are masked. Every query
    /// row is computed, also past the length.
    pub lengths: Option<&'a T>,
}

/// The arguments of [`AttentionOp::attention`].
#[derive(Debug)]
pub struct AttentionArgs<'a, T> {
    /// The fused projection, `[B, T, fused width]`, an activation or in FP8.
    pub qkv: &'a T,
    /// Its heads.
    pub heads: Heads,
    /// The visible keys.
    pub mask: Mask<'a, T>,
    /// The type of the result, which is the operand of a gemm.
    pub output: Compute,
}

impl<T: DeviceTensor> AttentionArgs<'_, T> {
    /// Checks the arguments; returns the output's shape `[B, T, query·dim]`. `computes_fp8`:
    /// [`Runtime::computes_fp8`].
    pub fn check(&self, computes_fp8: bool) -> Result<[usize; 3]> {
        let op = "attention";
        let ([b, t, width], fp8) = check::projection(op, self.qkv)?;
        self.heads.check_width(op, width)?;
        if let Some(columns) = fp8 {
            check::projected_heads(op, columns, [self.heads.query, self.heads.key_value], self.heads.dim)?;
        }
        check::heads_output(op, self.output, computes_fp8, self.heads.dim)?;
        if let Some(lengths) = self.mask.lengths {
            check::integers(op, "the key lengths", lengths, b)?;
        }
        Ok([b, t, self.heads.query * self.heads.dim])
    }
}

/// Attention.
pub trait AttentionOp: Runtime {
    /// `softmax(q·kᵀ/√dim + mask)·v` for every head of a fused projection; returns `[B, T,
    /// query·dim]`, heads side by side. In FP8 every head of a token has one scale.
    ///
    /// With a projection in FP8, as [`project_qkv`](super::ProjectQkvOp::project_qkv) writes it,
    /// both products have FP8 operands. Probabilities are rounded to E4M3 before they are divided
    /// by their sum, relative to a power of two from the largest of a query on; their sum is that
    /// before the rounding.
    fn attention(
        &self,
        qkv: &Self::Tensor,
        heads: Heads,
        mask: Mask<'_, Self::Tensor>,
        output: Compute,
    ) -> Result<Self::Tensor> {
        let args = AttentionArgs { qkv, heads, mask, output };
        let shape = args.check(self.computes_fp8())?;
        self.run_attention(args, shape)
    }

    /// Runs [`AttentionOp::attention`] on checked arguments.
    fn run_attention(&self, args: AttentionArgs<'_, Self::Tensor>, shape: [usize; 3]) -> Result<Self::Tensor>;
}

#[cfg(test)]
mod tests {
    use super::check::tests::{Fake, f32s, gives, rejects, u32s};
    use super::*;

    const HEADS: Heads = Heads { query: 4, key_value: 2, dim: 6 };

    #[test]
    fn heads_must_fit_the_projection() {
        let fused = |width, heads: Heads| heads.check_width("attention", width);
        fused(48, HEADS).unwrap();
        rejects(fused(47, HEADS), "attention", &["48 wide", "47"]);
        for (query, key_value) in [(4, 0), (4, 3), (0, 2), (1, 2)] {
            let message = format!("{query} query heads cannot share {key_value} key heads");
            rejects(fused(48, Heads { query, key_value, dim: 6 }), "attention", &[&message]);
        }
    }

    #[test]
    fn lengths_are_one_u32_per_item() {
        let qkv = f32s(&[2, 3, 48]);
        let check = |lengths: Option<Fake>| {
            let lengths = lengths.as_ref();
            let mask = Mask { causal: true, lengths };
            AttentionArgs { qkv: &qkv, heads: HEADS, mask, output: Compute::Native }.check(false)
        };
        gives(check(None), [2, 3, 24]);
        gives(check(Some(u32s(&[2]))), [2, 3, 24]);
        rejects(check(Some(u32s(&[3]))), "attention", &["the key lengths must have shape [2], has [3]"]);
        rejects(check(Some(f32s(&[2]))), "attention", &["the key lengths must be U32, not F32"]);
    }
}
