//! `group_moments`: the autoencoder's widths, one row, values far from 0.

use super::{
    Backend, Call, Entry, Feature, Inputs, Op, OpCase, Rejection, Result, STEP, Tolerance, Zeros, named, rejections,
    returns,
};

/// Pictures `[batch, size, channels]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct GroupMomentsCase {
    pub batch: usize,
    /// Height and width.
    pub size: [usize; 2],
    pub channels: usize,
    pub groups: usize,
    pub mean: f32,
    pub scale: f32,
}

impl GroupMomentsCase {
    /// 32 groups, as in the autoencoder, with a mean as large as the deviation.
    pub(crate) const PLAIN: Self = Self { batch: 1, size: [16, 16], channels: 64, groups: 32, mean: 1.0, scale: 1.0 };
}

impl OpCase for GroupMomentsCase {
    const OP: &'static str = "group_moments";
    const TOLERANCE: Tolerance = STEP;

    fn sizes(&self) -> String {
        let Self { size: [height, width], channels, groups, .. } = self;
        format!("{height}×{width}×{channels} in {groups} groups")
    }

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { batch, size: [height, width], channels, groups, mean, scale } = *self;
        let x = inputs.activation_around(&[batch, height, width, channels], mean, scale)?;
        returns(move |b: &B| Ok([b.group_moments(&x, groups)?]))
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    const PLAIN: GroupMomentsCase = GroupMomentsCase::PLAIN;
    let cases = named([
        ("512", GroupMomentsCase { size: [9, 7], channels: 512, ..PLAIN }),
        ("128-around-0", GroupMomentsCase { size: [33, 65], channels: 128, mean: 0.0, ..PLAIN }),
        ("one-row", GroupMomentsCase { size: [1, 65], channels: 128, ..PLAIN }),
        ("batch", GroupMomentsCase { batch: 3, size: [5, 7], ..PLAIN }),
        ("group-a-channel", GroupMomentsCase { size: [9, 11], channels: 12, groups: 12, ..PLAIN }),
        ("one-group", GroupMomentsCase { batch: 2, size: [9, 11], channels: 12, groups: 1, ..PLAIN }),
        ("odd-groups", GroupMomentsCase { size: [13, 17], channels: 18, groups: 6, ..PLAIN }),
        ("activations-1e4", GroupMomentsCase { mean: 1e4, scale: 1e4, ..PLAIN }),
        ("far-from-0", GroupMomentsCase { size: [32, 32], mean: 100.0, ..PLAIN }),
        ("full", GroupMomentsCase { size: [1024, 1024], channels: 128, ..PLAIN }),
    ]);
    let op = Op { name: GroupMomentsCase::OP, features: &[Feature::F32Result, Feature::BeyondF16] };
    Entry { op, cases, rejections: moments_rejections() }
}

fn moments_rejections<B: Backend + 'static>() -> Vec<Rejection<B>> {
    const OP: &str = GroupMomentsCase::OP;
    const X: Zeros = Zeros::Activation(&[2, 5, 7, 12]);
    let with_groups = |groups| move |b: &B, [x]: [B::Tensor; 1]| b.group_moments(&x, groups).map(drop);
    let mut all = rejections(
        OP,
        with_groups(4),
        [("rank-of-x", [Zeros::Activation(&[5, 7, 12])]), ("type-of-x", [Zeros::U32(&[2, 5, 7, 12])])],
    );
    all.extend(rejections(OP, with_groups(5), [("groups", [X])]));
    all.extend(rejections(OP, with_groups(0), [("no-groups", [X])]));
    all
}
