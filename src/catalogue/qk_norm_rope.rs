//! `qk_norm_rope`: both kinds of pairs, grouped heads, rotations shared or per item.

use super::{
    Backend, Call, DType, Entry, Feature, Inputs, NORM, Op, OpCase, Rejection, Result, Tolerance, Zeros, changes,
    fp8_projection_zeros, fp8_rejection, named, rejections, zeros,
};
use crate::backend::{Heads, QkNormRope, RopePairs};

/// A fused projection of `[batch, tokens]` and its rotations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QkNormRopeCase {
    pub batch: usize,
    pub tokens: usize,
    pub heads: Heads,
    pub pairs: RopePairs,
    /// Items of the rotation.
    pub rotations: usize,
    /// The stored type of the key norm's weight. The query norm's weight is BF16.
    pub k_norm: DType,
    /// The mean weights of the query norm and of the key norm.
    pub norms: [f32; 2],
    pub scale: f32,
}

impl QkNormRopeCase {
    /// One item with the heads of the image transformer.
    pub(crate) const PLAIN: Self = Self {
        batch: 1,
        tokens: 33,
        heads: Heads { query: 30, key_value: 30, dim: 128 },
        pairs: RopePairs::Interleaved,
        rotations: 1,
        k_norm: DType::F32,
        norms: [1.0; 2],
        scale: 1.0,
    };
}

impl OpCase for QkNormRopeCase {
    const OP: &'static str = "qk_norm_rope";
    const TOLERANCE: Tolerance = NORM;

    fn sizes(&self) -> String {
        let Self { tokens, heads: Heads { query, key_value, dim }, .. } = self;
        format!("{tokens} tokens, {query} and {key_value} heads of {dim}")
    }

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { batch, tokens, heads, scale, .. } = *self;
        let qkv = inputs.activation_in_place(&[batch, tokens, heads.fused_width()], scale)?;
        // Values are neither read nor written.
        inputs.skipped(2 * batch * tokens * heads.key_value * heads.dim);
        let norm_rope = self.norm_rope(inputs)?;
        changes(move |b: &B| {
            let mut qkv = qkv.clone();
            b.qk_norm_rope(&mut qkv, heads, norm_rope.args())?;
            Ok([qkv])
        })
    }
}

/// The uploaded norms and rotation of heads.
pub(super) struct NormRope<B: Backend> {
    q_norm: B::Tensor,
    k_norm: B::Tensor,
    rotation: B::Tensor,
    pairs: RopePairs,
}

impl QkNormRopeCase {
    /// Uploads the norms and the rotation.
    pub(super) fn norm_rope<B: Backend>(&self, inputs: &mut Inputs<'_, B>) -> Result<NormRope<B>> {
        let Self { tokens, heads: Heads { dim, .. }, pairs, rotations, k_norm, norms, .. } = *self;
        let q_norm = inputs.norm_weight_around(norms[0], DType::Bf16, dim)?;
        let k_norm = inputs.norm_weight_around(norms[1], k_norm, dim)?;
        let angles = inputs.draw(rotations * tokens * dim / 2).into_iter().map(|v| v * 100.0);
        let table: Vec<f32> = angles.flat_map(|angle| [angle.cos(), angle.sin()]).collect();
        let rotation = inputs.floats(&[rotations, tokens, dim / 2, 2], &table)?;
        Ok(NormRope { q_norm, k_norm, rotation, pairs })
    }
}

impl<B: Backend> NormRope<B> {
    pub(super) fn args(&self) -> QkNormRope<'_, B::Tensor> {
        let Self { q_norm, k_norm, rotation, pairs } = self;
        QkNormRope { q_norm, k_norm, eps: 1e-5, rotation, pairs: *pairs }
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    let interleaved = |batch, tokens, [query, key_value, dim]: [usize; 3]| QkNormRopeCase {
        batch,
        tokens,
        heads: Heads { query, key_value, dim },
        ..QkNormRopeCase::PLAIN
    };
    let halves =
        |batch, tokens, heads| QkNormRopeCase { pairs: RopePairs::Halves, ..interleaved(batch, tokens, heads) };
    let by_item = |case: QkNormRopeCase| QkNormRopeCase { rotations: case.batch, ..case };
    let cases = named([
        ("transformer-30-heads", QkNormRopeCase::PLAIN),
        ("qwen-32-8-heads", halves(1, 33, [32, 8, 128])),
        ("one-token", halves(1, 1, [4, 1, 64])),
        ("257-tokens-by-item", by_item(interleaved(2, 257, [3, 3, 20]))),
        ("batch-of-one-rotation", interleaved(3, 5, [4, 2, 64])),
        ("narrow-heads", by_item(halves(2, 7, [2, 1, 2]))),
        ("head-of-96", halves(1, 19, [3, 1, 96])),
        ("activations-1e4", QkNormRopeCase { scale: 1e4, ..interleaved(1, 17, [4, 4, 128]) }),
        ("activations-1e6", QkNormRopeCase { scale: 1e6, ..halves(1, 17, [4, 2, 128]) }),
        ("eps-decides", QkNormRopeCase { scale: 5e-3, ..interleaved(1, 17, [4, 2, 64]) }),
        ("full", by_item(interleaved(2, 4224, [30, 30, 128]))),
    ]);
    let features = &[Feature::Eps, Feature::QkNormRope, Feature::Accumulates, Feature::BeyondF16];
    Entry { op: Op { name: QkNormRopeCase::OP, features }, cases, rejections: heads_rejections() }
}

/// Two query heads and one key head of 4.
pub(super) const SMALL: Heads = Heads { query: 2, key_value: 1, dim: 4 };
pub(super) const SMALL_NORM: Zeros = Zeros::F32(&[4]);
/// The rotation of three tokens.
pub(super) const SMALL_ROTATION: Zeros = Zeros::F32(&[1, 3, 2, 2]);

fn heads_rejections<B: Backend + 'static>() -> Vec<Rejection<B>> {
    const QKV: Zeros = Zeros::Activation(&[2, 3, 16]);
    let with_heads = |heads| {
        move |b: &B, [mut qkv, q_norm, k_norm, rotation]: [B::Tensor; 4]| {
            let pairs = RopePairs::Halves;
            let args = QkNormRope { q_norm: &q_norm, k_norm: &k_norm, eps: 1e-5, rotation: &rotation, pairs };
            b.qk_norm_rope(&mut qkv, heads, args)
        }
    };
    let mut all = rejections(
        QkNormRopeCase::OP,
        with_heads(SMALL),
        [
            ("rank-of-qkv", [Zeros::Activation(&[6, 16]), SMALL_NORM, SMALL_NORM, SMALL_ROTATION]),
            ("width-of-qkv", [Zeros::Activation(&[2, 3, 15]), SMALL_NORM, SMALL_NORM, SMALL_ROTATION]),
            ("type-of-qkv", [Zeros::U32(&[2, 3, 16]), SMALL_NORM, SMALL_NORM, SMALL_ROTATION]),
            ("size-of-query-norm", [QKV, Zeros::F32(&[5]), SMALL_NORM, SMALL_ROTATION]),
            ("type-of-query-norm", [QKV, Zeros::U32(&[4]), SMALL_NORM, SMALL_ROTATION]),
            ("size-of-key-norm", [QKV, SMALL_NORM, Zeros::F32(&[3]), SMALL_ROTATION]),
            ("type-of-key-norm", [QKV, SMALL_NORM, Zeros::U32(&[4]), SMALL_ROTATION]),
            ("items-of-rotation", [QKV, SMALL_NORM, SMALL_NORM, Zeros::F32(&[3, 3, 2, 2])]),
            ("tokens-of-rotation", [QKV, SMALL_NORM, SMALL_NORM, Zeros::F32(&[1, 4, 2, 2])]),
            ("type-of-rotation", [QKV, SMALL_NORM, SMALL_NORM, Zeros::U32(&[1, 3, 2, 2])]),
            ("query-norm-in-place", [QKV, Zeros::Alias(&[4]), SMALL_NORM, SMALL_ROTATION]),
            ("key-norm-in-place", [QKV, SMALL_NORM, Zeros::Alias(&[4]), SMALL_ROTATION]),
        ],
    );
    let three = Heads { query: 3, key_value: 2, dim: 4 };
    let tensors = [QKV, SMALL_NORM, SMALL_NORM, SMALL_ROTATION];
    all.extend(rejections(QkNormRopeCase::OP, with_heads(three), [("heads", tensors)]));
    all.push(fp8_rejection(QkNormRopeCase::OP, "fp8-projection", |b: &B| {
        let heads = Heads { query: 1, key_value: 1, dim: 128 };
        let qkv = fp8_projection_zeros(b, heads)?;
        let norm = b.upload(&zeros(DType::F32, &[128]))?;
        let rotation = b.upload(&zeros(DType::F32, &[1, 2, 64, 2]))?;
        Ok(Box::new(move |b: &B| {
            let pairs = RopePairs::Interleaved;
            let how = QkNormRope { q_norm: &norm, k_norm: &norm, eps: 1e-5, rotation: &rotation, pairs };
            b.qk_norm_rope(&mut qkv.clone(), heads, how)
        }))
    }));
    all
}
