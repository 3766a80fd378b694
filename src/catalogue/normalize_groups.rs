//! `normalize_groups`: the autoencoder's widths, one row, moments that are not those of the values.

use super::{
    Backend, Call, DType, Entry, Feature, Inputs, NORM, NORM_FAR, Op, OpCase, Rejection, Result, Tolerance, Zeros,
    named, rejections, returns,
};
use crate::tensor::HostTensor;

/// Bands `[batch, size, channels]` of pictures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct NormalizeGroupsCase {
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

impl NormalizeGroupsCase {
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

impl OpCase for NormalizeGroupsCase {
    const OP: &'static str = "normalize_groups";
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
        // The picture's moments differ from group to group, and from those of this band.
        let of_group = |i: usize| {
            let near_one = 0.5 + (i * 7 % 11) as f32 / 11.0;
            [mean + 0.5 * scale * (near_one - 0.75), (scale * near_one).powi(2)]
        };
        let moments: Vec<f32> = (0..batch * groups).flat_map(of_group).collect();
        let moments = inputs.b.upload(&HostTensor::from_f32(&[batch, groups, 2], &moments))?;
        let weight = inputs.norm_weight(DType::Bf16, channels)?;
        let bias = inputs.vector(bias, channels, 0.5)?;
        returns(move |b: &B| Ok([b.normalize_groups(&x, &moments, &weight, &bias, 1e-6, silu)?]))
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    const PLAIN: NormalizeGroupsCase = NormalizeGroupsCase::PLAIN;
    const SILU: NormalizeGroupsCase = NormalizeGroupsCase { silu: true, ..PLAIN };
    let cases = named([
        ("512-silu", NormalizeGroupsCase { size: [9, 7], channels: 512, mean: 0.1, ..SILU }),
        ("128-silu", NormalizeGroupsCase { size: [33, 65], channels: 128, ..SILU }),
        ("one-row", NormalizeGroupsCase { size: [1, 65], channels: 128, bias: DType::Bf16, ..SILU }),
        ("batch", NormalizeGroupsCase { batch: 3, size: [5, 7], mean: 0.5, ..SILU }),
        ("one-pixel", NormalizeGroupsCase { size: [1, 1], channels: 96, groups: 16, ..PLAIN }),
        ("group-a-channel", NormalizeGroupsCase { size: [9, 11], channels: 12, groups: 12, ..SILU }),
        ("one-group", NormalizeGroupsCase { batch: 2, size: [9, 11], channels: 12, groups: 1, ..PLAIN }),
        ("many-groups", NormalizeGroupsCase { batch: 2, size: [3, 2], channels: 300, groups: 300, ..PLAIN }),
        ("odd-groups", NormalizeGroupsCase { size: [13, 17], channels: 18, groups: 6, ..SILU }),
        ("activations-1e4", NormalizeGroupsCase { scale: 1e4, ..SILU }),
        ("activations-1e9", NormalizeGroupsCase { scale: 1e9, ..PLAIN }),
        // The variance is as small as eps.
        ("eps-decides", NormalizeGroupsCase { scale: 1e-3, ..PLAIN }),
        ("far-from-0", NormalizeGroupsCase { size: [32, 32], mean: 100.0, ..PLAIN }),
        ("full", NormalizeGroupsCase { size: [1024, 1024], channels: 128, mean: 0.1, ..SILU }),
    ]);
    let op = Op { name: NormalizeGroupsCase::OP, features: &[Feature::Eps, Feature::Silu] };
    Entry { op, cases, rejections: normalize_rejections() }
}

fn normalize_rejections<B: Backend + 'static>() -> Vec<Rejection<B>> {
    const X: Zeros = Zeros::Activation(&[2, 5, 7, 12]);
    const MOMENTS: Zeros = Zeros::F32(&[2, 4, 2]);
    const VECTOR: Zeros = Zeros::F32(&[12]);
    rejections(
        NormalizeGroupsCase::OP,
        |b: &B, [x, moments, weight, bias]: [B::Tensor; 4]| {
            b.normalize_groups(&x, &moments, &weight, &bias, 1e-6, true).map(drop)
        },
        [
            ("rank-of-x", [Zeros::Activation(&[5, 7, 12]), MOMENTS, VECTOR, VECTOR]),
            ("type-of-x", [Zeros::U32(&[2, 5, 7, 12]), MOMENTS, VECTOR, VECTOR]),
            ("rank-of-moments", [X, Zeros::F32(&[2, 8]), VECTOR, VECTOR]),
            ("items-of-moments", [X, Zeros::F32(&[1, 4, 2]), VECTOR, VECTOR]),
            ("width-of-moments", [X, Zeros::F32(&[2, 4, 3]), VECTOR, VECTOR]),
            ("groups-of-moments", [X, Zeros::F32(&[2, 5, 2]), VECTOR, VECTOR]),
            ("type-of-moments", [X, Zeros::U32(&[2, 4, 2]), VECTOR, VECTOR]),
            ("size-of-weight", [X, MOMENTS, Zeros::F32(&[11]), VECTOR]),
            ("type-of-weight", [X, MOMENTS, Zeros::U32(&[12]), VECTOR]),
            ("size-of-bias", [X, MOMENTS, VECTOR, Zeros::F32(&[13])]),
            ("type-of-bias", [X, MOMENTS, VECTOR, Zeros::U32(&[12])]),
        ],
    )
}
