//! The block of both transformers: attention, then a gated feed-forward. Each half is normed and
//! added to the residual stream.
//!
//! With `h = RMS(x)·w·(1 + scale)`:
//!
//! - `x += tanh(gate) · RMS(Attention(h))`, then `x += tanh(gate) · RMS(W₂·(SiLU(W₁·h) ⊙ W₃·h))` in
//!   the image transformer, where scale and gate are modulated by the timestep (or absent);
//! - `x += Attention(h)`, then `x += W₂·(SiLU(W₁·h) ⊙ W₃·h)` in the text encoder.
//!
//! The op that ends a half also computes the norm that starts the next half, so the residual stream
//! is read and written once per half.

use super::load::Loader;
use super::stacked::Stacked;
use crate::backend::{Backend, Branch, DeviceWeight, Heads, Mask, Modulation, QkNormRope, RmsNorm, RopePairs, Runtime};
use crate::error::Result;
use crate::tensor::{Compute, FP8_BLOCK, FP8_VECTOR, StreamSource};
use crate::weights::Tensors;
use futures_util::future::{try_join, try_join3};

/// The weights of one block.
#[derive(Debug)]
pub(super) struct Block<B: Backend> {
    attention_norm: B::Tensor,
    qkv: B::Linear,
    q_norm: B::Tensor,
    k_norm: B::Tensor,
    attention_out: B::Linear,
    /// Norm of the attention's output; the text encoder has none.
    attention_post_norm: Option<B::Tensor>,
    ffn_norm: B::Tensor,
    ffn_in: B::SwiGlu,
    ffn_out: B::Linear,
    /// Norm of the feed-forward's output; the text encoder has none.
    ffn_post_norm: Option<B::Tensor>,
}

/// Tensor names of a block in one family of checkpoints, after the block's own prefix.
pub(super) struct Names {
    pub q: &'static str,
    pub k: &'static str,
    pub v: &'static str,
    pub out: &'static str,
    pub q_norm: &'static str,
    pub k_norm: &'static str,
    pub gate: &'static str,
    pub up: &'static str,
    pub down: &'static str,
    pub attention_norm: &'static str,
    pub ffn_norm: &'static str,
    /// Norms of the attention's and the feed-forward's output.
    pub post_norms: Option<[&'static str; 2]>,
}

/// The sizes of a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub width: usize,
    pub hidden: usize,
    pub heads: Heads,
}

/// The types of the operands of a block's gemms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Computes {
    pub qkv: Compute,
    /// Queries, keys and values.
    pub attention_in: Compute,
    pub attention_out: Compute,
    /// Both gemms of the feed-forward: the first one writes the operand of the second.
    pub ffn: Compute,
}

/// The types that the operands of gemms should have where their sizes allow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Wanted {
    /// Of the gemms with the block's matrices.
    pub matrices: Compute,
    /// Of attention's products.
    pub attention_in: Compute,
}

impl Wanted {
    /// The types that a network's tensors are for.
    pub(crate) fn of(tensors: &Tensors) -> Self {
        Self { matrices: tensors.compute(), attention_in: tensors.attention_in() }
    }
}

impl Sizes {
    /// The types of the operands where these types are wanted. FP8 operands are whole vectors wide,
    /// and attention reads and writes only heads of [`FP8_BLOCK`] as such.
    pub(crate) fn computes(self, wanted: Wanted) -> Computes {
        let Sizes { width, hidden, heads } = self;
        let Wanted { matrices, attention_in } = wanted;
        let matrices_if = |fits: bool| if fits { matrices } else { Compute::Native };
        let is_whole = |width: usize| width.is_multiple_of(FP8_VECTOR);
        Computes {
            qkv: matrices_if(is_whole(width)),
            attention_in: if heads.dim == FP8_BLOCK { attention_in } else { Compute::Native },
            attention_out: matrices_if(heads.dim == FP8_BLOCK),
            ffn: matrices_if(is_whole(width) && is_whole(hidden)),
        }
    }
}

/// The matrices of the block whose tensors start with `prefix`, for gemms with operands of the type
/// that `tensors` are for where their sizes allow it: queries, keys and values; the attention's
/// output; gate and up; down.
pub(super) fn matrices(prefix: &str, names: &Names, sizes: Sizes, tensors: &Tensors) -> [Stacked; 4] {
    let Sizes { width, hidden, heads } = sizes;
    let Computes { qkv, attention_out, ffn, .. } = sizes.computes(Wanted::of(tensors));
    let of = |name: &str, shape| (format!("{prefix}{name}.weight"), shape);
    let [query, key] = heads.columns();
    let q_k_v = vec![of(names.q, [query, width]), of(names.k, [key, width]), of(names.v, [key, width])];
    [
        Stacked { of: q_k_v, compute: qkv },
        Stacked { of: vec![of(names.out, [width, query])], compute: attention_out },
        Stacked { of: vec![of(names.gate, [hidden, width]), of(names.up, [hidden, width])], compute: ffn },
        Stacked { of: vec![of(names.down, [width, hidden])], compute: ffn },
    ]
}

/// State shared by all blocks of a stack.
#[derive(Debug)]
pub(super) struct Stack<'a, B: Backend> {
    pub heads: Heads,
    /// Epsilon of the norms over the width.
    pub eps: f32,
    /// Epsilon of the norms over a head.
    pub head_eps: f32,
    /// F32 `[1 or B, T, dim/2, 2]`.
    pub rotation: &'a B::Tensor,
    pub pairs: RopePairs,
    pub causal: bool,
    /// The type of queries, keys and values, one of [`Computes`].
    pub attention_in: Compute,
    /// Key lengths, U32 `[B]`.
    pub lengths: Option<&'a B::Tensor>,
    /// The modulation table and the row of the first block. A block reads four rows: attention
    /// scale and gate, feed-forward scale and gate.
    pub modulation: Option<(&'a B::Tensor, usize)>,
}

/// Receives the residual stream after every block, as `(index, x)`, for tests that compare block by
/// block.
pub(super) type BlockProbe<'a, B> = &'a mut dyn FnMut(usize, &<B as Runtime>::Tensor) -> Result<()>;

impl<B: Backend> Block<B> {
    /// Reads and uploads the block whose tensors start with `prefix`.
    pub(super) async fn load(load: &Loader<'_, B>, prefix: &str, names: &Names, sizes: Sizes) -> Result<Self> {
        let Sizes { width, heads, .. } = sizes;
        let b = load.b;
        let name = |name: &str| format!("{prefix}{name}.weight");
        let vector = async |of: &str, len: usize| load.vector(&name(of), len).await;
        let post_norm = async |which: usize| match names.post_norms {
            Some(norms) => vector(norms[which], width).await.map(Some),
            None => Ok(None),
        };
        let wide = try_join(vector(names.attention_norm, width), vector(names.ffn_norm, width));
        let narrow = try_join(vector(names.q_norm, heads.dim), vector(names.k_norm, heads.dim));
        let norms = try_join3(wide, narrow, try_join(post_norm(0), post_norm(1)));

        let [qkv, out, ffn_in, ffn_out] = matrices(prefix, names, sizes, load.tensors);
        let upload = async |stacked: &Stacked| b.upload_linear(&load.stacked(stacked).await?, &[]).await;
        let (((attention_norm, ffn_norm), (q_norm, k_norm), (attention_post_norm, ffn_post_norm)), qkv) =
            try_join(norms, upload(&qkv)).await?;
        let attention_out = upload(&out).await?;
        let pair = load.stacked(&ffn_in).await?;
        let [gate, up] = &pair[..] else { unreachable!("two matrices") };
        let ffn_in = b.upload_swiglu(gate, up).await?;
        let ffn_out = upload(&ffn_out).await?;
        Ok(Self {
            attention_norm,
            qkv,
            q_norm,
            k_norm,
            attention_out,
            attention_post_norm,
            ffn_norm,
            ffn_in,
            ffn_out,
            ffn_post_norm,
        })
    }

    /// Loads the `count` blocks of a stack in order. A tensor name is `prefix`, the block's number,
    /// and one of `names`; `streamed` tells for each number where the block is streamed from.
    pub(super) async fn load_all(
        load: &Loader<'_, B>,
        prefix: &str,
        count: usize,
        names: &Names,
        sizes: Sizes,
        streamed: impl Fn(usize) -> Option<StreamSource>,
    ) -> Result<Vec<Self>> {
        let mut blocks = Vec::with_capacity(count);
        for i in 0..count {
            let load = Loader { streamed: streamed(i), ..*load };
            blocks.push(Self::load(&load, &format!("{prefix}.{i}."), names, sizes).await?);
        }
        Ok(blocks)
    }
}

/// Runs `blocks` on the residual stream `x` `[B, T, D]`, in place.
pub(super) fn run<B: Backend>(
    b: &B,
    blocks: &[Block<B>],
    x: &mut B::Tensor,
    stack: &Stack<'_, B>,
    probe: BlockProbe<'_, B>,
) -> Result<()> {
    let Some(first) = blocks.first() else { return Ok(()) };
    let row = |block: usize, which: usize| {
        stack.modulation.map(|(table, base)| Modulation { table, row: base + 4 * block + which })
    };
    // A norm writes the operand of the matrix behind it.
    let norm = |weight, scale, output| RmsNorm { weight, scale, eps: stack.eps, output };

    let mut h = b.rms_norm(x, norm(&first.attention_norm, row(0, 0), first.qkv.compute()))?;
    for (i, block) in blocks.iter().enumerate() {
        let how = QkNormRope {
            q_norm: &block.q_norm,
            k_norm: &block.k_norm,
            eps: stack.head_eps,
            rotation: stack.rotation,
            pairs: stack.pairs,
        };
        let mask = Mask { causal: stack.causal, lengths: stack.lengths };
        // Queries, keys and values are freed before the feed-forward.
        let y = {
            let qkv = b.project_qkv(&h, &block.qkv, stack.heads, how, stack.attention_in)?;
            b.attention(&qkv, stack.heads, mask, block.attention_out.compute())?
        };
        let y = b.linear(&y, &block.attention_out)?;
        let post_norm = block.attention_post_norm.as_ref();
        let branch = Branch { y: &y, norm: post_norm, gate: row(i, 1), eps: stack.eps };
        h = b.residual_norm(x, branch, norm(&block.ffn_norm, row(i, 2), block.ffn_in.compute()))?;
        drop(y);

        let y = b.linear(&b.swiglu(&h, &block.ffn_in)?, &block.ffn_out)?;
        let branch = Branch { y: &y, norm: block.ffn_post_norm.as_ref(), gate: row(i, 3), eps: stack.eps };
        match blocks.get(i + 1) {
            Some(next) => {
                h = b.residual_norm(x, branch, norm(&next.attention_norm, row(i + 1, 0), next.qkv.compute()))?;
            }
            None => b.residual(x, branch)?,
        }
        probe(i, x)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fp8_is_for_whole_vectors_and_heads_of_a_block() {
        let computes = |width, hidden, dim| {
            let heads = Heads { query: 2, key_value: 2, dim };
            let wanted = Wanted { matrices: Compute::Fp8, attention_in: Compute::Fp8 };
            let Computes { qkv, attention_in, attention_out, ffn } = Sizes { width, hidden, heads }.computes(wanted);
            [qkv, attention_in, attention_out, ffn].map(|compute| compute == Compute::Fp8)
        };
        assert_eq!(computes(3840, 10_240, 128), [true; 4]);
        assert_eq!(computes(256, 682, 64), [true, false, false, false]);
        assert_eq!(computes(60, 160, 20), [false; 4]);
        let heads = Heads { query: 1, key_value: 1, dim: 128 };
        let sizes = Sizes { width: 128, hidden: 256, heads };
        let native = sizes.computes(Wanted::default());
        assert_eq!([native.qkv, native.attention_in, native.attention_out, native.ffn], [Compute::Native; 4]);
        let matrices = sizes.computes(Wanted { matrices: Compute::Fp8, ..Wanted::default() });
        assert_eq!([matrices.qkv, matrices.attention_in], [Compute::Fp8, Compute::Native]);
    }
}
