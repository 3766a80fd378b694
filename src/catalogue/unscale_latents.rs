//! `unscale_latents`: latents of realistic and odd sizes, as input of the autoencoder's decoder.

use super::{
    Backend, Call, Entry, Feature, Inputs, Op, OpCase, POINTWISE, Result, Tolerance, Zeros, named, rejections, returns,
};

/// The scaling factor of Z-Image's autoencoder.
pub(super) const SCALING: f32 = 0.3611;
/// The shift factor of Z-Image's autoencoder.
pub(super) const SHIFT: f32 = 0.1159;

/// Latents `[batch, channels, height, width]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UnscaleLatentsCase {
    pub batch: usize,
    /// The first item that `unscale_latents` reads.
    pub first: usize,
    pub channels: usize,
    /// Height and width.
    pub size: [usize; 2],
    pub scale: f32,
}

impl UnscaleLatentsCase {
    /// The sizes that `unscale_latents` and `scale_latents` share.
    pub(super) fn cases() -> [(&'static str, Self); 6] {
        let z_image = Self { batch: 1, first: 0, channels: 16, size: [32, 24], scale: 3.0 };
        [
            ("z-image", z_image),
            ("batch-odd-size", Self { batch: 3, first: 0, channels: 5, size: [7, 9], scale: 1.0 }),
            ("last-items", Self { batch: 3, first: 1, channels: 5, size: [7, 9], scale: 1.0 }),
            ("one-pixel", Self { size: [1, 1], scale: 1.0, ..z_image }),
            ("latents-1e5", Self { size: [9, 8], scale: 1e5, ..z_image }),
            ("full", Self { size: [128, 128], ..z_image }),
        ]
    }
}

impl OpCase for UnscaleLatentsCase {
    const OP: &'static str = "unscale_latents";
    const TOLERANCE: Tolerance = POINTWISE;

    fn sizes(&self) -> String {
        let Self { batch, channels, size: [height, width], .. } = *self;
        format!("{:?}", [batch, channels, height, width])
    }

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { batch, first, channels, size: [height, width], scale } = *self;
        let x = inputs.latents(&[batch, channels, height, width], scale)?;
        returns(move |b: &B| Ok([b.unscale_latents(&x, first..batch, SCALING, SHIFT)?]))
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    let call = |b: &B, [latents]: [B::Tensor; 1]| b.unscale_latents(&latents, 0..1, SCALING, SHIFT).map(drop);
    let rejections = rejections(
        UnscaleLatentsCase::OP,
        call,
        [("rank-of-latents", [Zeros::F32(&[3, 5, 7])]), ("type-of-latents", [Zeros::U32(&[2, 3, 5, 7])])],
    );
    let op = Op { name: UnscaleLatentsCase::OP, features: &[Feature::Shift, Feature::BeyondF16] };
    Entry { op, cases: named(UnscaleLatentsCase::cases()), rejections }
}
