//! `attention`: the heads of all three networks, both kinds of masks, peaks, large values.

use super::qk_norm_rope::QkNormRopeCase;
use super::{
    ATTENTION, Backend, Call, Compute, DType, Entry, FP8_ATTENTION, FP8_PRODUCTS, FP8_PRODUCTS_TO_FP8, Feature, Inputs,
    Op, OpCase, PEAKED_ATTENTION, PEAKED_FP8_PRODUCTS, Rejection, Result, Tolerance, Zeros, expect_ready,
    fp8_projection_zeros, fp8_rejection, fp8_zeros, named, rejections, returns, zeros,
};
use crate::backend::{Heads, Mask};
use crate::tensor::{FP8_VALUE_TOKENS, HostTensor};

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
    /// The type of queries, keys and values.
    pub qkv: Compute,
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
        qkv: Compute::Native,
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
        match (self.output, self.qkv) {
            (Compute::Fp8, Compute::Native) => FP8_ATTENTION,
            (Compute::Fp8, Compute::Fp8) => FP8_PRODUCTS_TO_FP8,
            (Compute::Native, Compute::Fp8) if self.scale > 10.0 => PEAKED_FP8_PRODUCTS,
            (Compute::Native, Compute::Fp8) => FP8_PRODUCTS,
            (Compute::Native, Compute::Native) if self.scale > 10.0 => PEAKED_ATTENTION,
            (Compute::Native, Compute::Native) => Self::TOLERANCE,
        }
    }

    fn compute(&self) -> Compute {
        if self.qkv == Compute::Fp8 { Compute::Fp8 } else { self.output }
    }

    fn sizes(&self) -> String {
        let Self { tokens, heads: Heads { query, key_value, dim }, causal, qkv, .. } = *self;
        let causal = if causal { ", causal" } else { "" };
        let fp8 = if qkv == Compute::Fp8 { ", in FP8" } else { "" };
        format!("{tokens} tokens, {query} and {key_value} heads of {dim}{causal}{fp8}")
    }

    fn flop(&self) -> Option<f64> {
        let Self { batch, tokens, heads, causal, .. } = *self;
        Some(batch as f64 * attention_flop(tokens, heads.query * heads.dim, causal))
    }

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { batch, tokens, heads, scale, values, causal, lengths, qkv: compute, output } = *self;
        let shape = [batch, tokens, heads.fused_width()];
        let qkv = if compute == Compute::Fp8 {
            self.fp8_projection(inputs)?
        } else if scale == values {
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

impl AttentionCase {
    /// A fused projection in FP8, which an op has to make. Backends make the same one, up to the
    /// rounding of F32: every sum of its gemm is a whole number times a power of two. Values
    /// differ in magnitude by token, block and head.
    fn fp8_projection<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<B::Tensor> {
        const WIDTH: usize = 16;
        // The standard deviation of such sums is near 8.
        const UNIT: f32 = 0.125;
        // Of the values in 16 tokens, in a block, and of a head. Queries and keys are normed.
        const FACTORS: [f32; 3] = [1.0, 4.0, 0.5];
        let Self { batch, tokens, heads, scale, values, .. } = *self;
        let normed = (heads.query + heads.key_value) * heads.dim;
        let bytes = batch * tokens * heads.fused_width();
        // Uniform values within ±scale have this root mean square; queries and keys share it.
        let norm = scale / 3f32.sqrt();
        let case = QkNormRopeCase { batch, tokens, heads, norms: [norm / 2.0, norm * 2.0], ..QkNormRopeCase::PLAIN };
        inputs.made(bytes, |inputs| {
            let mut x: Vec<f32> = inputs.draw(batch * tokens * WIDTH).into_iter().map(|v| (1.5 * v).round()).collect();
            for (token, x) in x.chunks_exact_mut(WIDTH).enumerate() {
                let factor = |size: usize| FACTORS[token % tokens / size % FACTORS.len()];
                x.iter_mut().for_each(|v| *v *= factor(16) * factor(FP8_VALUE_TOKENS));
            }
            let x = inputs.activation_of(&[batch, tokens, WIDTH], x)?;
            let mut w: Vec<f32> = inputs.draw(heads.fused_width() * WIDTH);
            w.iter_mut().for_each(|v| *v = (4.5 * *v).round());
            // A power of two keeps the values exact.
            let unit = UNIT * (values / 3f32.sqrt()).log2().round().exp2();
            for (head, w) in w[normed * WIDTH..].chunks_exact_mut(heads.dim * WIDTH).enumerate() {
                w.iter_mut().for_each(|v| *v *= unit * FACTORS[head % FACTORS.len()]);
            }
            let w = HostTensor::rounded(DType::Bf16, &[heads.fused_width(), WIDTH], &w);
            let w = expect_ready(inputs.b.upload_linear(&[w.into()], &[]))?;
            let norm_rope = case.norm_rope(inputs)?;
            inputs.b.project_qkv(&x, &w, heads, norm_rope.args(), Compute::Fp8)
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
    const QKV: AttentionCase = AttentionCase { heads: heads(3, 3, 128), qkv: Compute::Fp8, ..PLAIN };
    const BOTH: AttentionCase = AttentionCase { output: Compute::Fp8, ..QKV };
    let ragged = |tokens, heads, lengths: &'static [u32], case| AttentionCase {
        batch: lengths.len(),
        tokens,
        heads,
        lengths: Ragged(lengths),
        ..case
    };
    let mut cases = named([
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
        // Two items, and a last pair of tiles with less than one.
        ("heads-of-512-272-tokens", AttentionCase { batch: 2, tokens: 272, heads: heads(2, 1, 512), ..PLAIN }),
        ("head-of-512-one-token", AttentionCase { tokens: 1, heads: heads(1, 1, 512), ..PLAIN }),
        ("head-of-512-causal-ragged", ragged(70, heads(1, 1, 512), &[70, 33], QWEN)),
        ("head-of-512-peaked-257", AttentionCase { tokens: 257, heads: heads(1, 1, 512), ..PLAIN }.peaked()),
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
    let causal = |tokens, case| AttentionCase { tokens, heads: heads(8, 2, 128), causal: true, ..case };
    cases.extend(named([
        ("fp8-qkv-one-token", AttentionCase { tokens: 1, ..QKV }),
        ("fp8-qkv-33-tokens", QKV),
        ("fp8-qkv-transformer-ragged", ragged(128, QKV.heads, &[128, 97, 64], QKV)),
        ("fp8-qkv-causal-gqa-257", causal(257, QKV)),
        ("fp8-qkv-400-ragged", ragged(400, heads(2, 2, 128), &[400, 130, 1], QKV)),
        (
            "fp8-qkv-400-causal-ragged",
            AttentionCase { causal: true, ..ragged(400, heads(4, 2, 128), &[1, 400, 260], QKV) },
        ),
        ("fp8-qkv-values-1e6", AttentionCase { values: 1e6, ..QKV }),
        ("fp8-qkv-peaked-449", AttentionCase { tokens: 449, heads: heads(2, 2, 128), ..QKV.peaked() }),
        ("fp8-qkv-to-fp8-one-token", AttentionCase { tokens: 1, ..BOTH }),
        ("fp8-qkv-to-fp8-96-tokens", AttentionCase { tokens: 96, ..BOTH }),
        ("fp8-qkv-to-fp8-causal-gqa-257", causal(257, BOTH)),
        ("fp8-qkv-to-fp8-400-ragged", ragged(400, heads(2, 2, 128), &[400, 130, 1], BOTH)),
        // More tiles of keys than stages.
        ("fp8-qkv-to-fp8-700-tokens", AttentionCase { tokens: 700, heads: heads(2, 1, 128), ..BOTH }),
        ("full-fp8-qkv", AttentionCase { tokens: 4224, heads: heads(30, 30, 128), ..QKV }),
        ("full-fp8-qkv-to-fp8", AttentionCase { tokens: 4224, heads: heads(30, 30, 128), ..BOTH }),
        ("full-fp8-qkv-ragged", ragged(4224, heads(6, 6, 128), &[4224, 4128], BOTH)),
    ]));
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
    all.push(fp8_rejection(OP, "fp8-operand", |b: &B| {
        let qkv = fp8_zeros(b, [1, 2, 384])?;
        let mask = || Mask { causal: false, lengths: None };
        Ok(Box::new(move |b: &B| b.attention(&qkv, heads(1, 1, 128), mask(), Compute::Native).map(drop)))
    }));
    all.push(fp8_rejection(OP, "fp8-queries-of-other-heads", |b: &B| {
        let qkv = fp8_projection_zeros(b, heads(2, 2, 128))?;
        let mask = || Mask { causal: false, lengths: None };
        Ok(Box::new(move |b: &B| b.attention(&qkv, heads(4, 1, 128), mask(), Compute::Native).map(drop)))
    }));
    all
}
