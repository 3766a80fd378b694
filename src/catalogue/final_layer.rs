//! `final_layer`: pictures of every aspect ratio, scales shared or per item, values of the size of
//! eps.

use super::{
    Backend, Call, DType, Entry, Feature, GEMM, GEMM_FAR, Inputs, Op, OpCase, Rejection, Result, Tolerance, Zeros,
    expect_ready, named, rejections_with, returns, zeros,
};
use crate::backend::Modulation;

/// Tokens `[batch, tokens, dim]` to a velocity of `channels` and `size`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FinalLayerCase {
    pub batch: usize,
    pub tokens: usize,
    pub dim: usize,
    pub channels: usize,
    /// Height and width of the velocity.
    pub size: [usize; 2],
    pub patch: usize,
    /// Items of the modulation table.
    pub table: usize,
    pub mean: f32,
    pub scale: f32,
}

impl FinalLayerCase {
    pub(crate) const PLAIN: Self =
        Self { batch: 1, tokens: 16, dim: 256, channels: 16, size: [8, 8], patch: 2, table: 1, mean: 0.0, scale: 1.0 };
}

impl OpCase for FinalLayerCase {
    const OP: &'static str = "final_layer";
    const TOLERANCE: Tolerance = GEMM;

    fn tolerance(&self) -> Tolerance {
        if self.mean > 10.0 * self.scale { GEMM_FAR } else { Self::TOLERANCE }
    }

    fn sizes(&self) -> String {
        let Self { size: [height, width], patch, channels, dim, .. } = self;
        let tokens = height / patch * (width / patch);
        format!("{tokens} tokens of {} values, {dim} wide", patch * patch * channels)
    }

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { batch, tokens, dim, channels, size, patch, table, mean, scale } = *self;
        let x = inputs.activation_around(&[batch, tokens, dim], mean, scale)?;
        let table = inputs.modulation([table, 2, dim], 1, 0.5)?;
        let w = inputs.linear(DType::Bf16, patch * patch * channels, dim, true)?;
        returns(move |b: &B| {
            let scale = Modulation { table: &table, row: 1 };
            Ok([b.final_layer(&x, scale, 1e-6, &w, patch, size)?])
        })
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    const PLAIN: FinalLayerCase = FinalLayerCase::PLAIN;
    const Z_IMAGE: FinalLayerCase = FinalLayerCase { dim: 3840, mean: 0.3, ..PLAIN };
    let each = FinalLayerCase { batch: 3, tokens: 17, dim: 60, channels: 4, table: 3, ..PLAIN };
    let odd = FinalLayerCase { batch: 2, tokens: 37, dim: 61, channels: 3, size: [7, 5], patch: 1, mean: 1.0, ..PLAIN };
    let large = FinalLayerCase { tokens: 40, size: [8, 16], ..PLAIN };
    let cases = named([
        ("z-image-width-3840", FinalLayerCase { tokens: 64, size: [10, 12], ..Z_IMAGE }),
        ("one-patch", FinalLayerCase { tokens: 64, dim: 64, size: [2, 2], ..PLAIN }),
        ("scale-for-each-item", each),
        ("odd-width", odd),
        ("patch-of-3", FinalLayerCase { tokens: 9, dim: 20, channels: 5, size: [9, 6], patch: 3, ..PLAIN }),
        ("activations-1e4", FinalLayerCase { scale: 1e4, ..large }),
        ("activations-1e9", FinalLayerCase { scale: 1e9, ..large }),
        ("far-from-0", FinalLayerCase { mean: 100.0, ..PLAIN }),
        // The variance is as small as eps.
        ("eps-decides", FinalLayerCase { scale: 1e-3, ..PLAIN }),
        ("full", FinalLayerCase { batch: 2, tokens: 4224, size: [128, 128], ..Z_IMAGE }),
    ]);
    let features = &[Feature::Bias, Feature::Eps, Feature::ModulationRow, Feature::F32Result];
    Entry { op: Op { name: FinalLayerCase::OP, features }, cases, rejections: picture_rejections() }
}

fn picture_rejections<B: Backend + 'static>() -> Vec<Rejection<B>> {
    const OP: &str = FinalLayerCase::OP;
    const X: Zeros = Zeros::Activation(&[2, 8, 5]);
    const TABLE: Zeros = Zeros::Activation(&[1, 1, 5]);
    let matrix = |b: &B| expect_ready(b.upload_linear(&[zeros(DType::Bf16, &[12, 5]).into()], &[]));
    let with = |row, patch, size| {
        move |b: &B, w: &B::Linear, [x, table]: [B::Tensor; 2]| {
            b.final_layer(&x, Modulation { table: &table, row }, 1e-6, w, patch, size).map(drop)
        }
    };
    let mut all = rejections_with(
        OP,
        matrix,
        with(0, 2, [4, 6]),
        [
            ("rank-of-x", [Zeros::Activation(&[8, 5]), TABLE]),
            ("type-of-x", [Zeros::U32(&[2, 8, 5]), TABLE]),
            ("tokens-of-x", [Zeros::Activation(&[2, 5, 5]), TABLE]),
            ("width-of-x", [Zeros::Activation(&[2, 8, 4]), Zeros::Activation(&[1, 1, 4])]),
            ("width-of-scale", [X, Zeros::Activation(&[1, 1, 4])]),
            ("type-of-scale", [X, Zeros::U32(&[1, 1, 5])]),
        ],
    );
    all.extend(rejections_with(OP, matrix, with(1, 2, [4, 6]), [("row-of-scale", [X, TABLE])]));
    all.extend(rejections_with(OP, matrix, with(0, 2, [5, 6]), [("height", [X, TABLE])]));
    all.extend(rejections_with(OP, matrix, with(0, 0, [4, 6]), [("patch", [X, TABLE])]));
    all
}
