//! `concat_rows`: bands with rows of their neighbours, a single part, one row, odd widths.

use super::{
    Backend, COPY, Call, Entry, Feature, Inputs, Op, OpCase, Rejection, Result, Tolerance, Zeros, named, rejections,
    returns,
};
use std::ops::Range;

/// Parts `[1, height, width, channels]`, each with the rows of it to take.
#[derive(Debug, Clone, Copy)]
struct ConcatRowsCase {
    width: usize,
    channels: usize,
    /// The height of each part, its first row, and the row behind its last.
    parts: &'static [[usize; 3]],
}

impl OpCase for ConcatRowsCase {
    const OP: &'static str = "concat_rows";
    const TOLERANCE: Tolerance = COPY;

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { width, channels, parts } = *self;
        let tensors: Vec<B::Tensor> = parts
            .iter()
            .map(|&[height, ..]| inputs.activation(&[1, height, width, channels], 1e5))
            .collect::<Result<_>>()?;
        returns(move |b: &B| {
            let parts: Vec<(&B::Tensor, Range<usize>)> =
                tensors.iter().zip(parts).map(|(tensor, &[_, start, end])| (tensor, start..end)).collect();
            Ok([b.concat_rows(&parts)?])
        })
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    let cases = named([
        ("band", ConcatRowsCase { width: 33, channels: 64, parts: &[[7, 6, 7], [9, 0, 9], [5, 0, 1]] }),
        ("one-part", ConcatRowsCase { width: 16, channels: 128, parts: &[[12, 3, 8]] }),
        ("one-row", ConcatRowsCase { width: 1, channels: 1, parts: &[[3, 1, 2]] }),
        ("odd-width", ConcatRowsCase { width: 7, channels: 3, parts: &[[2, 0, 2], [4, 1, 4], [1, 0, 1], [3, 2, 3]] }),
        ("full", ConcatRowsCase { width: 1024, channels: 256, parts: &[[64, 63, 64], [64, 0, 64], [64, 0, 1]] }),
    ]);
    let op = Op { name: ConcatRowsCase::OP, features: &[Feature::BeyondF16] };
    Entry { op, cases, rejections: row_rejections() }
}

fn row_rejections<B: Backend + 'static>() -> Vec<Rejection<B>> {
    const X: Zeros = Zeros::Activation(&[1, 5, 3, 4]);
    let take = |start: usize, end: usize| {
        move |b: &B, [x, y]: [B::Tensor; 2]| b.concat_rows(&[(&x, start..end), (&y, 0..1)]).map(drop)
    };
    let mut all = rejections(
        ConcatRowsCase::OP,
        take(0, 2),
        [
            ("rank-of-a-part", [X, Zeros::Activation(&[5, 3, 4])]),
            ("type-of-a-part", [Zeros::U32(&[1, 5, 3, 4]), X]),
            ("items-of-a-part", [Zeros::Activation(&[2, 5, 3, 4]), X]),
            ("width-of-a-part", [X, Zeros::Activation(&[1, 5, 4, 3])]),
        ],
    );
    all.extend(rejections(ConcatRowsCase::OP, take(3, 6), [("rows-below", [X, X])]));
    all.extend(rejections(ConcatRowsCase::OP, take(2, 2), [("no-rows", [X, X])]));
    all
}
