//! `attention`: the heads of all three networks, both kinds of masks, peaks, large values.

use super::{
    ATTENTION, Backend, Call, Compute, Entry, FP8_ATTENTION, Feature, Inputs, Op, OpCase, PEAKED_ATTENTION, Rejection,
    Result, Tolerance, Zeros, fp8_rejection, fp8_zeros, named, rejections, returns, zeros,
};
use crate::backend::{Heads, Mask};

/// The floating-point operations of attention whose query heads have `width` in total. A causal
/// mask skips nearly half of them.
pub(crate) fn attention_flop(tokens: usize, width: usize, causal: bool) -> f64 {
    let pairs = if causal { tokens * (tokens + 1) / 2 } else { tokens * tokens };
    4.0 * pairs as f64 * width as f64
}

/// A fused projection of `[batch, tokens]` and its mask.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionCase {
    pub batch: usize,
    pub tokens: usize,
    pub heads: Heads,
    /// The scale of queries and keys, about 1.7 for normed heads.
    pub scale: f32,
    /// The scale of values.
    pub values: f32,
    pub causal: bool,
    pub lengths: Lengths,
    /// The type of the result.
    pub output: Compute,
}

/// The number of keys of each item.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lengths {
    /// No lengths are given.
    None,
    /// Every item has as many keys as tokens.
    Full,
    /// One number per item.
    Ragged(&'static [u32]),
}

impl AttentionCase {
    pub(crate) const PLAIN: Self = Self {
        batch: 1,
        tokens: 33,
        heads: heads(4, 4, 64),
        scale: 1.7,
        values: 1.0,
        causal: false,
        lengths: Lengths::None,
        output: Compute::Native,
    };
    const QWEN: Self = Self { heads: heads(32, 8, 128), causal: true, ..Self::PLAIN };

    const fn peaked(self) -> Self {
        Self { scale: 13.0, ..self }
    }
}

const fn heads(query: usize, key_value: usize, dim: usize) -> Heads {
    Heads { query, key_value, dim }
}

impl OpCase for AttentionCase {
    const OP: &'static str = "attention";
    const TOLERANCE: Tolerance = ATTENTION;

    fn tolerance(&self) -> Tolerance {
        match self.output {
            Compute::Fp8 => FP8_ATTENTION,
            Compute::Native if self.scale > 10.0 => PEAKED_ATTENTION,
            Compute::Native => Self::TOLERANCE,
        }
    }

    fn compute(&self) -> Compute {
        self.output
    }

    fn sizes(&self) -> String {
        let Self { tokens, heads: Heads { query, key_value, dim }, causal, .. } = *self;
        let causal = if causal { ", causal" } else { "" };
        format!("{tokens} tokens, {query} and {key_value} heads of {dim}{causal}")
    }

    fn flop(&self) -> Option<f64> {
        let Self { batch, tokens, heads, causal, .. } = *self;
        Some(batch as f64 * attention_flop(tokens, heads.query * heads.dim, causal))
    }

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { batch, tokens, heads, scale, values, causal, lengths, output } = *self;
        let shape = [batch, tokens, heads.fused_width()];
        let qkv = if scale == values {
            inputs.activation(&shape, scale)?
        } else {
            let mut qkv = inputs.draw(shape.iter().product());
            for token in qkv.chunks_exact_mut(heads.fused_width()) {
                let (qk, v) = token.split_at_mut((heads.query + heads.key_value) * heads.dim);
                qk.iter_mut().for_each(|x| *x *= scale);
                v.iter_mut().for_each(|x| *x *= values);
            }
            inputs.activation_of(&shape, qkv)?
        };
        let lengths = match lengths {
            Lengths::None => None,
            Lengths::Full => Some(inputs.integers(&[batch], &vec![tokens as u32; batch])?),
            Lengths::Ragged(lengths) => Some(inputs.integers(&[batch], lengths)?),
        };
        returns(move |b: &B| {
            let mask = Mask { causal, lengths: lengths.as_ref() };
            Ok([b.attention(&qkv, heads, mask, output)?])
        })
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    use Lengths::Ragged;
    const PLAIN: AttentionCase = AttentionCase::PLAIN;
    const QWEN: AttentionCase = AttentionCase::QWEN;
    const PEAKED: AttentionCase = AttentionCase { tokens: 65, heads: heads(2, 2, 128), ..PLAIN }.peaked();
    const PEAKED_CAUSAL: AttentionCase = AttentionCase { tokens: 65, heads: heads(4, 1, 128), ..QWEN }.peaked();
    const FP8: AttentionCase = AttentionCase { heads: heads(3, 3, 128), output: Compute::Fp8, ..PLAIN };
    let ragged = |tokens, heads, lengths: &'static [u32], case| AttentionCase {
        batch: lengths.len(),
        tokens,
        heads,
        lengths: Ragged(lengths),
        ..case
    };
    let cases = named([
        ("one-token", AttentionCase { tokens: 1, ..PLAIN }),
        ("33-tokens", PLAIN),
        ("transformer-30-heads", AttentionCase { tokens: 96, heads: heads(30, 30, 128), ..PLAIN }),
        ("transformer-ragged", ragged(128, heads(3, 3, 128), &[128, 97, 64], PLAIN)),
        ("qwen-causal-ragged", ragged(64, QWEN.heads, &[64, 21], QWEN)),
        ("causal-gqa-257", AttentionCase { tokens: 257, heads: heads(8, 2, 128), ..QWEN }),
        ("causal-one-key", ragged(40, heads(2, 1, 64), &[1, 40], QWEN)),
        ("257-tokens", AttentionCase { tokens: 257, ..PLAIN }),
        ("lengths-no-tile-divides", ragged(130, PLAIN.heads, &[129, 1], PLAIN)),
        ("vae-one-head-of-512", AttentionCase { tokens: 144, heads: heads(1, 1, 512), ..PLAIN }),
        ("head-of-96", AttentionCase { tokens: 35, heads: heads(1, 1, 96), ..PLAIN }),
        ("odd-head", AttentionCase { tokens: 37, heads: heads(3, 3, 18), ..PLAIN }),
        // Items differ in their number of key tiles, and the queries leave a pair of tiles partly
        // empty.
        ("400-ragged", ragged(400, heads(2, 2, 128), &[400, 130, 1], PLAIN)),
        ("400-causal-ragged", ragged(400, heads(4, 2, 128), &[1, 400, 260], QWEN)),
        ("values-1e6", AttentionCase { values: 1e6, heads: heads(2, 1, 128), ..PLAIN }),
        // Equal scores give the mean of the values.
        ("flat", AttentionCase { tokens: 50, scale: 0.0, ..PLAIN }),
        ("full-transformer", AttentionCase { tokens: 4224, heads: heads(30, 30, 128), ..PLAIN }),
        ("full-ragged", ragged(4224, heads(6, 6, 128), &[4224, 4128], PLAIN)),
        ("full-qwen", AttentionCase { tokens: 512, ..QWEN }),
        ("full-vae", AttentionCase { tokens: 16_384, heads: heads(1, 1, 512), ..PLAIN }),
        // Scores reach some hundreds, so an exponential overflows unless it is relative to the row
        // maximum. The row maximum rises over many key tiles, by more than any kernel's rescale
        // threshold.
        ("peaked", PEAKED),
        ("peaked-449", AttentionCase { tokens: 449, ..PEAKED }),
        ("peaked-causal", PEAKED_CAUSAL),
        ("peaked-causal-449", AttentionCase { tokens: 449, ..PEAKED_CAUSAL }),
        ("fp8-one-token", AttentionCase { tokens: 1, ..FP8 }),
        ("fp8-33-tokens", FP8),
        ("fp8-causal-gqa-257", AttentionCase { tokens: 257, heads: heads(8, 2, 128), causal: true, ..FP8 }),
        ("fp8-400-ragged", ragged(400, heads(2, 2, 128), &[400, 130, 1], FP8)),
        ("fp8-values-1e6", AttentionCase { values: 1e6, ..FP8 }),
        ("full-fp8", AttentionCase { tokens: 4224, heads: heads(30, 30, 128), ..FP8 }),
    ]);
    let op = Op { name: AttentionCase::OP, features: &[Feature::BeyondF16] };
    Entry { op, cases, rejections: mask_rejections() }
}

fn mask_rejections<B: Backend + 'static>() -> Vec<Rejection<B>> {
    const OP: &str = AttentionCase::OP;
    const QKV: Zeros = Zeros::Activation(&[2, 3, 16]);
    const LENGTHS: Zeros = Zeros::U32(&[2]);
    let with_heads = |heads| {
        move |b: &B, [qkv, lengths]: [B::Tensor; 2]| {
            let mask = Mask { causal: true, lengths: Some(&lengths) };
            b.attention(&qkv, heads, mask, Compute::Native).map(drop)
        }
    };
    let mut all = rejections(
        OP,
        with_heads(heads(2, 1, 4)),
        [
            ("rank-of-qkv", [Zeros::Activation(&[6, 16]), LENGTHS]),
            ("width-of-qkv", [Zeros::Activation(&[2, 3, 15]), LENGTHS]),
            ("type-of-qkv", [Zeros::U32(&[2, 3, 16]), LENGTHS]),
            ("size-of-lengths", [QKV, Zeros::U32(&[3])]),
            ("type-of-lengths", [QKV, Zeros::F32(&[2])]),
        ],
    );
    all.extend(rejections(OP, with_heads(heads(3, 2, 4)), [("shared-keys", [QKV, LENGTHS])]));
    all.extend(rejections(OP, with_heads(heads(2, 0, 8)), [("no-keys", [QKV, LENGTHS])]));
    all.push(fp8_rejection(OP, "fp8-heads-of-64", |b: &B| {
        let qkv = b.upload(&zeros(b.activations(), &[1, 2, 192]))?;
        let mask = || Mask { causal: false, lengths: None };
        Ok(Box::new(move |b: &B| b.attention(&qkv, heads(1, 1, 64), mask(), Compute::Fp8).map(drop)))
    }));
    all.push(fp8_rejection(OP, "fp8-projection", |b: &B| {
        let qkv = fp8_zeros(b, [1, 2, 384])?;
        let mask = || Mask { causal: false, lengths: None };
        Ok(Box::new(move |b: &B| b.attention(&qkv, heads(1, 1, 128), mask(), Compute::Native).map(drop)))
    }));
    all
}
