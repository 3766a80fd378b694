//! `to_rgb8`: pictures of realistic and odd sizes, with values beyond both ends.

use super::{Backend, Call, Entry, Inputs, LEVELS, Op, OpCase, Result, Tolerance, Zeros, named, rejections, returns};

/// Pictures of a shape.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ToRgb8Case {
    pub shape: [usize; 4],
    pub values: Values,
}

/// The values of a picture.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Values {
    /// Values within ± this.
    Within(f32),
    /// These values.
    Are(&'static [f32]),
}

impl OpCase for ToRgb8Case {
    const OP: &'static str = "to_rgb8";
    const TOLERANCE: Tolerance = LEVELS;

    fn sizes(&self) -> String {
        let [_, height, width, channels] = self.shape;
        format!("{height}×{width}×{channels}")
    }

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let x = match self.values {
            Values::Within(scale) => inputs.picture(&self.shape, scale)?,
            Values::Are(values) => inputs.picture_of(&self.shape, values.to_vec())?,
        };
        returns(move |b: &B| Ok([b.to_rgb8(&x)?]))
    }
}

/// The shapes that `normalize_rgb8` and `to_rgb8` share.
pub(super) fn shapes() -> [(&'static str, [usize; 4]); 4] {
    [
        ("picture", [1, 48, 64, 3]),
        ("batch-odd-size", [2, 7, 5, 3]),
        ("one-pixel", [1, 1, 1, 3]),
        ("full", [1, 1024, 1024, 3]),
    ]
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    const OP: &str = ToRgb8Case::OP;
    // A quarter of the values is beyond either end.
    let within = |shape| ToRgb8Case { shape, values: Values::Within(1.3) };
    let mut cases = named(shapes().map(|(name, shape)| (name, within(shape))));
    cases.extend(named([
        ("values-1e9", ToRgb8Case { shape: [1, 9, 7, 3], values: Values::Within(1e9) }),
        // 0 maps to 127.5 exactly, whose even neighbour is 128. The ends are exact levels.
        ("halves-to-even", ToRgb8Case { shape: [1, 1, 2, 3], values: Values::Are(&[0.0, -1.0, 1.0, -0.0, 2.0, -2.0]) }),
    ]));
    let call = |b: &B, [x]: [B::Tensor; 1]| b.to_rgb8(&x).map(drop);
    let rejections = rejections(
        OP,
        call,
        [("rank-of-picture", [Zeros::Activation(&[2, 3, 3])]), ("type-of-picture", [Zeros::U32(&[1, 2, 3, 3])])],
    );
    Entry { op: Op { name: OP, features: &[] }, cases, rejections }
}
