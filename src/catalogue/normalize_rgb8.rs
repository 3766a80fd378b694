//! `normalize_rgb8`: pictures of realistic and odd sizes, as input of the autoencoder's encoder.

use super::to_rgb8::shapes;
use super::{
    Backend, Call, Entry, Inputs, Op, OpCase, POINTWISE, Result, Tolerance, Zeros, named, rejections, returns,
};

/// Pictures of a shape.
#[derive(Debug, Clone, Copy)]
struct NormalizeRgb8Case([usize; 4]);

impl OpCase for NormalizeRgb8Case {
    const OP: &'static str = "normalize_rgb8";
    const TOLERANCE: Tolerance = POINTWISE;

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let pixels = inputs.pixels(&self.0)?;
        returns(move |b: &B| Ok([b.normalize_rgb8(&pixels)?]))
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    const OP: &str = NormalizeRgb8Case::OP;
    let call = |b: &B, [pixels]: [B::Tensor; 1]| b.normalize_rgb8(&pixels).map(drop);
    let rejections = rejections(
        OP,
        call,
        [("rank-of-pixels", [Zeros::U8(&[2, 3, 3])]), ("type-of-pixels", [Zeros::F32(&[1, 2, 3, 3])])],
    );
    let cases = named(shapes().map(|(name, shape)| (name, NormalizeRgb8Case(shape))));
    Entry { op: Op { name: OP, features: &[] }, cases, rejections }
}
