//! `pad_rows`: ragged captions, only padding, no padding.

use super::{
    Backend, COPY, Call, DType, Entry, Feature, Inputs, Op, OpCase, Rejection, Result, Tolerance, Zeros, changes,
    named, rejections,
};

/// One item of `[tokens, width]` per length.
#[derive(Debug, Clone, Copy)]
struct PadRowsCase {
    tokens: usize,
    width: usize,
    dtype: DType,
    lengths: &'static [u32],
}

impl OpCase for PadRowsCase {
    const OP: &'static str = "pad_rows";
    const TOLERANCE: Tolerance = COPY;

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { tokens, width, dtype, lengths } = *self;
        let x = inputs.activation_in_place(&[lengths.len(), tokens, width], 1e5)?;
        let token = inputs.vector(dtype, width, 1.0)?;
        let lengths = inputs.integers(&[lengths.len()], lengths)?;
        changes(move |b: &B| {
            let mut x = x.clone();
            b.pad_rows(&mut x, &token, &lengths)?;
            Ok([x])
        })
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    use DType::{Bf16, F16, F32};
    let cases = named([
        ("width-3840", PadRowsCase { tokens: 32, width: 3840, dtype: Bf16, lengths: &[21, 32, 1] }),
        ("one-token", PadRowsCase { tokens: 1, width: 64, dtype: F32, lengths: &[1] }),
        ("nothing-to-pad", PadRowsCase { tokens: 33, width: 60, dtype: F16, lengths: &[33] }),
        ("all-is-padding", PadRowsCase { tokens: 32, width: 61, dtype: F32, lengths: &[0, 5] }),
        ("257-tokens", PadRowsCase { tokens: 257, width: 48, dtype: Bf16, lengths: &[256, 1, 33] }),
    ]);
    let op = Op { name: PadRowsCase::OP, features: &[Feature::BeyondF16] };
    Entry { op, cases, rejections: row_rejections() }
}

fn row_rejections<B: Backend + 'static>() -> Vec<Rejection<B>> {
    const X: Zeros = Zeros::Activation(&[1, 1, 4]);
    const TOKEN: Zeros = Zeros::F32(&[4]);
    const LENGTHS: Zeros = Zeros::U32(&[1]);
    let call = |b: &B, [mut x, token, lengths]: [B::Tensor; 3]| b.pad_rows(&mut x, &token, &lengths);
    rejections(
        PadRowsCase::OP,
        call,
        [
            ("rank-of-x", [Zeros::Activation(&[1, 4]), TOKEN, LENGTHS]),
            ("type-of-x", [Zeros::U32(&[1, 1, 4]), TOKEN, LENGTHS]),
            ("size-of-token", [X, Zeros::F32(&[3]), LENGTHS]),
            ("type-of-token", [X, Zeros::U32(&[4]), LENGTHS]),
            ("size-of-lengths", [X, TOKEN, Zeros::U32(&[2])]),
            ("type-of-lengths", [X, TOKEN, Zeros::F32(&[1])]),
            ("token-in-place", [X, Zeros::Alias(&[4]), LENGTHS]),
        ],
    )
}
