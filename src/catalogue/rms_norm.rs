//! `rms_norm`: with and without a scale, with values from the size of eps to large squares.

use super::{
    Backend, Call, Compute, DType, Entry, FP8_NORM, Feature, Inputs, NORM, Op, OpCase, Rejection, Result, Tolerance,
    Zeros, fp8_rejection, named, rejections, returns, zeros,
};
use crate::backend::{Modulation, RmsNorm};

/// `x` `[batch, tokens, width]`.
#[derive(Debug, Clone, Copy)]
struct RmsNormCase {
    batch: usize,
    tokens: usize,
    width: usize,
    /// Items of the modulation table; 0 for no scale.
    table: usize,
    dtype: DType,
    eps: f32,
    scale: f32,
    output: Compute,
}

const PLAIN: RmsNormCase = RmsNormCase {
    batch: 1,
    tokens: 17,
    width: 256,
    table: 0,
    dtype: DType::F32,
    eps: 1e-5,
    scale: 1.0,
    output: Compute::Native,
};
const BF16: RmsNormCase = RmsNormCase { dtype: DType::Bf16, ..PLAIN };

impl OpCase for RmsNormCase {
    const OP: &'static str = "rms_norm";
    const TOLERANCE: Tolerance = NORM;

    fn tolerance(&self) -> Tolerance {
        if self.output == Compute::Fp8 { FP8_NORM } else { Self::TOLERANCE }
    }

    fn compute(&self) -> Compute {
        self.output
    }

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { batch, tokens, width, table, dtype, eps, scale, output } = *self;
        let x = inputs.activation(&[batch, tokens, width], scale)?;
        let weight = inputs.norm_weight(dtype, width)?;
        // The norm reads the middle one of three rows; the other two would give another result.
        let table = (table > 0).then(|| inputs.modulation([table, 3, width], 1, 0.5)).transpose()?;
        returns(move |b: &B| {
            let scale = table.as_ref().map(|table| Modulation { table, row: 1 });
            Ok([b.rms_norm(&x, RmsNorm { weight: &weight, scale, eps, output })?])
        })
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    let cases = named([
        ("one-token", RmsNormCase { tokens: 1, eps: 1e-6, ..BF16 }),
        ("width-3840-modulated", RmsNormCase { batch: 2, tokens: 33, width: 3840, table: 1, ..BF16 }),
        ("caption-2560", RmsNormCase { tokens: 32, width: 2560, ..BF16 }),
        ("modulated-by-item", RmsNormCase { batch: 3, tokens: 5, width: 128, table: 3, dtype: DType::F16, ..PLAIN }),
        ("257-tokens-odd-width", RmsNormCase { tokens: 257, width: 61, table: 1, ..PLAIN }),
        ("width-1", RmsNormCase { tokens: 3, width: 1, ..PLAIN }),
        ("activations-1e4", RmsNormCase { width: 3840, scale: 1e4, ..BF16 }),
        ("activations-1e9", RmsNormCase { width: 384, table: 1, scale: 1e9, ..PLAIN }),
        // The mean square is as small as eps.
        ("eps-decides", RmsNormCase { scale: 5e-3, ..PLAIN }),
        ("zeros", RmsNormCase { tokens: 4, width: 64, eps: 1e-6, scale: 0.0, ..PLAIN }),
        ("fp8", RmsNormCase { tokens: 33, table: 1, output: Compute::Fp8, ..PLAIN }),
        ("fp8-width-3840", RmsNormCase { width: 3840, scale: 1e4, output: Compute::Fp8, ..BF16 }),
        ("fp8-zeros", RmsNormCase { tokens: 4, width: 64, scale: 0.0, output: Compute::Fp8, ..PLAIN }),
        ("full", RmsNormCase { batch: 2, tokens: 4224, width: 3840, table: 1, ..BF16 }),
    ]);
    let features = &[Feature::Eps, Feature::NormScale, Feature::ModulationRow];
    Entry { op: Op { name: RmsNormCase::OP, features }, cases, rejections: norm_rejections() }
}

fn norm_rejections<B: Backend + 'static>() -> Vec<Rejection<B>> {
    const X: Zeros = Zeros::Activation(&[2, 3, 4]);
    const WEIGHT: Zeros = Zeros::F32(&[4]);
    const TABLE: Zeros = Zeros::Activation(&[1, 5, 4]);
    let with_row = |row| {
        move |b: &B, [x, weight, table]: [B::Tensor; 3]| {
            let scale = Some(Modulation { table: &table, row });
            b.rms_norm(&x, RmsNorm { weight: &weight, scale, eps: 1e-5, output: Compute::Native }).map(drop)
        }
    };
    let mut all = rejections(
        RmsNormCase::OP,
        with_row(4),
        [
            ("rank-of-x", [Zeros::Activation(&[6, 4]), WEIGHT, TABLE]),
            ("type-of-x", [Zeros::U32(&[2, 3, 4]), WEIGHT, TABLE]),
            ("size-of-weight", [X, Zeros::F32(&[3]), TABLE]),
            ("type-of-weight", [X, Zeros::U32(&[4]), TABLE]),
            ("items-of-scale", [X, WEIGHT, Zeros::Activation(&[3, 5, 4])]),
            ("width-of-scale", [X, WEIGHT, Zeros::Activation(&[1, 5, 3])]),
            ("type-of-scale", [X, WEIGHT, Zeros::U32(&[1, 5, 4])]),
        ],
    );
    all.extend(rejections(RmsNormCase::OP, with_row(5), [("row-of-scale", [X, WEIGHT, TABLE])]));
    all.push(fp8_rejection(RmsNormCase::OP, "fp8-width", |b: &B| {
        let x = b.upload(&zeros(b.activations(), &[1, 2, 40]))?;
        let weight = b.upload(&zeros(DType::F32, &[40]))?;
        let call = move |b: &B| {
            let norm = RmsNorm { weight: &weight, scale: None, eps: 1e-5, output: Compute::Fp8 };
            b.rms_norm(&x, norm).map(drop)
        };
        Ok(Box::new(call))
    }));
    all
}
