//! `group_norm`: the autoencoder's widths, one group per channel, values far from 0.

use super::{
    Backend, Call, DType, Entry, Feature, Inputs, NORM, NORM_FAR, Op, OpCase, Rejection, Result, Tolerance, Zeros,
    named, rejections, returns,
};

/// Pictures `[batch, size, channels]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct GroupNormCase {
    pub batch: usize,
    /// Height and width.
    pub size: [usize; 2],
    pub channels: usize,
    pub groups: usize,
    pub silu: bool,
    /// The stored type of the bias. The weight is BF16.
    pub bias: DType,
    pub mean: f32,
    pub scale: f32,
}

impl GroupNormCase {
    /// 32 groups, as in the autoencoder.
    pub(crate) const PLAIN: Self = Self {
        batch: 1,
        size: [16, 16],
        channels: 64,
        groups: 32,
        silu: false,
        bias: DType::F32,
        mean: 0.0,
        scale: 1.0,
    };
}

impl OpCase for GroupNormCase {
    const OP: &'static str = "group_norm";
    const TOLERANCE: Tolerance = NORM;

    fn tolerance(&self) -> Tolerance {
        if self.mean > 10.0 * self.scale { NORM_FAR } else { Self::TOLERANCE }
    }

    fn sizes(&self) -> String {
        let Self { size: [height, width], channels, groups, .. } = self;
        format!("{height}×{width}×{channels} in {groups} groups")
    }

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { batch, size: [height, width], channels, groups, silu, bias, mean, scale } = *self;
        let x = inputs.activation_around(&[batch, height, width, channels], mean, scale)?;
        let weight = inputs.norm_weight(DType::Bf16, channels)?;
        let bias = inputs.vector(bias, channels, 0.5)?;
        returns(move |b: &B| Ok([b.group_norm(&x, &weight, &bias, groups, 1e-6, silu)?]))
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    const PLAIN: GroupNormCase = GroupNormCase::PLAIN;
    const SILU: GroupNormCase = GroupNormCase { silu: true, ..PLAIN };
    let cases = named([
        ("512-silu", GroupNormCase { size: [9, 7], channels: 512, mean: 0.1, ..SILU }),
        ("512-before-attention", GroupNormCase { size: [8, 8], channels: 512, mean: 0.1, ..PLAIN }),
        ("128-silu", GroupNormCase { size: [33, 65], channels: 128, ..SILU }),
        ("batch", GroupNormCase { batch: 3, size: [5, 7], mean: 0.5, ..SILU }),
        ("one-pixel", GroupNormCase { size: [1, 1], channels: 96, groups: 16, ..PLAIN }),
        ("group-a-channel", GroupNormCase { size: [9, 11], channels: 12, groups: 12, ..SILU }),
        ("one-group", GroupNormCase { batch: 2, size: [9, 11], channels: 12, groups: 1, ..PLAIN }),
        ("odd-groups", GroupNormCase { size: [13, 17], channels: 18, groups: 6, ..SILU }),
        ("activations-1e4", GroupNormCase { scale: 1e4, ..SILU }),
        ("activations-1e9", GroupNormCase { scale: 1e9, ..PLAIN }),
        // The variance is as small as eps.
        ("eps-decides", GroupNormCase { scale: 1e-3, ..PLAIN }),
        ("far-from-0", GroupNormCase { size: [32, 32], mean: 100.0, ..PLAIN }),
        ("full", GroupNormCase { size: [1024, 1024], channels: 128, mean: 0.1, ..SILU }),
    ]);
    let op = Op { name: GroupNormCase::OP, features: &[Feature::Eps, Feature::Silu] };
    Entry { op, cases, rejections: group_rejections() }
}

fn group_rejections<B: Backend + 'static>() -> Vec<Rejection<B>> {
    const OP: &str = GroupNormCase::OP;
    const X: Zeros = Zeros::Activation(&[2, 5, 7, 12]);
    const VECTOR: Zeros = Zeros::F32(&[12]);
    let with_groups = |groups| {
        move |b: &B, [x, weight, bias]: [B::Tensor; 3]| b.group_norm(&x, &weight, &bias, groups, 1e-6, true).map(drop)
    };
    let mut all = rejections(
        OP,
        with_groups(4),
        [
            ("rank-of-x", [Zeros::Activation(&[5, 7, 12]), VECTOR, VECTOR]),
            ("type-of-x", [Zeros::U32(&[2, 5, 7, 12]), VECTOR, VECTOR]),
            ("size-of-weight", [X, Zeros::F32(&[11]), VECTOR]),
            ("type-of-weight", [X, Zeros::U32(&[12]), VECTOR]),
            ("size-of-bias", [X, VECTOR, Zeros::F32(&[13])]),
            ("type-of-bias", [X, VECTOR, Zeros::U32(&[12])]),
        ],
    );
    all.extend(rejections(OP, with_groups(5), [("groups", [X, VECTOR, VECTOR])]));
    all.extend(rejections(OP, with_groups(0), [("no-groups", [X, VECTOR, VECTOR])]));
    all
}
