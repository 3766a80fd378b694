//! `scale_latents`: latents of realistic and odd sizes, as output of the autoencoder's encoder.

use super::unscale_latents::{SCALING, SHIFT, UnscaleLatentsCase};
use super::{
    Backend, Call, Entry, Feature, Inputs, Op, OpCase, POINTWISE, Result, Tolerance, Zeros, named, rejections, returns,
};

/// The encoder's output for latents of these sizes.
#[derive(Debug, Clone, Copy)]
struct ScaleLatentsCase(UnscaleLatentsCase);

impl OpCase for ScaleLatentsCase {
    const OP: &'static str = "scale_latents";
    const TOLERANCE: Tolerance = POINTWISE;

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let UnscaleLatentsCase { batch, channels, size: [height, width], scale, .. } = self.0;
        // The encoder also returns the deviations, which the op does not read.
        let x = inputs.activation(&[batch, height, width, 2 * channels], scale)?;
        inputs.skipped(batch * height * width * channels);
        returns(move |b: &B| Ok([b.scale_latents(&x, channels, SCALING, SHIFT)?]))
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    const OP: &str = ScaleLatentsCase::OP;
    let with_channels =
        |channels| move |b: &B, [x]: [B::Tensor; 1]| b.scale_latents(&x, channels, SCALING, SHIFT).map(drop);
    const X: Zeros = Zeros::Activation(&[2, 5, 7, 6]);
    let mut all = rejections(
        OP,
        with_channels(3),
        [("rank-of-x", [Zeros::Activation(&[5, 7, 6])]), ("type-of-x", [Zeros::U32(&[2, 5, 7, 6])])],
    );
    all.extend(rejections(OP, with_channels(7), [("channels", [X])]));
    all.extend(rejections(OP, with_channels(0), [("no-channels", [X])]));
    let cases = named(UnscaleLatentsCase::cases().map(|(name, case)| (name, ScaleLatentsCase(case))));
    Entry { op: Op { name: OP, features: &[Feature::Shift, Feature::F32Result] }, cases, rejections: all }
}
