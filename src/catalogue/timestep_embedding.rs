//! `timestep_embedding`: sinusoids of small and large angles, and every row of a table of times.

use super::{
    Backend, Call, DType, Entry, Feature, GEMM, Inputs, Op, OpCase, Rejection, Result, TIMESTEP, Tolerance, Zeros,
    expect_ready, named, rejections_with, returns, zeros,
};
use crate::backend::LinearOp;

/// Sinusoids of `width` numbers, then two layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimestepEmbeddingCase {
    pub width: usize,
    pub hidden: usize,
    pub out: usize,
    pub dtype: DType,
    /// Times of each step.
    pub items: usize,
    pub times: &'static [f32],
    /// The step whose times are read.
    pub step: u32,
}

/// The times of Turbo; the first is pure noise.
const TURBO: TimestepEmbeddingCase = TimestepEmbeddingCase {
    width: 256,
    hidden: 1024,
    out: 256,
    dtype: DType::F32,
    items: 1,
    times: &[0.0, 45.5, 100.0, 166.7, 250.0, 357.1, 500.0, 700.0],
    step: 5,
};

impl TimestepEmbeddingCase {
    /// The largest angle whose sinusoids are as exact as a gemm.
    const MAX_EXACT: f32 = 30.0;

    fn read(&self) -> &'static [f32] {
        &self.times[self.step as usize * self.items..][..self.items]
    }
}

impl OpCase for TimestepEmbeddingCase {
    const OP: &'static str = "timestep_embedding";
    const TOLERANCE: Tolerance = TIMESTEP;

    fn tolerance(&self) -> Tolerance {
        if self.read().iter().all(|time| *time <= Self::MAX_EXACT) { GEMM } else { Self::TOLERANCE }
    }

    fn sizes(&self) -> String {
        let Self { width, hidden, out, .. } = self;
        format!("{width} → {hidden} → {out}")
    }

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { width, hidden, out, dtype, items, times, step } = *self;
        let w1 = inputs.linear(dtype, hidden, width, true)?;
        let w2 = inputs.linear(dtype, out, hidden, true)?;
        let table = inputs.floats(&[times.len() / items, items], times)?;
        let step = inputs.integers(&[1], &[step])?;
        returns(move |b: &B| Ok([b.timestep_embedding(&table, &step, &w1, &w2)?]))
    }
}

pub(super) fn entry<B: Backend + 'static>() -> Entry<B> {
    use DType::{Bf16, F16};
    let by_item = &[1.0, 2.0, 3.0, 20.5, 333.3, 999.0];
    let one = |time: &'static [f32]| TimestepEmbeddingCase { times: time, step: 0, out: 64, ..TURBO };
    let cases = named([
        ("z-image", TURBO),
        ("noise", TimestepEmbeddingCase { dtype: Bf16, step: 0, ..TURBO }),
        ("time-30", TimestepEmbeddingCase { hidden: 256, ..one(&[30.0]) }),
        ("last-step", TimestepEmbeddingCase { dtype: Bf16, step: 7, ..TURBO }),
        ("time-1000", TimestepEmbeddingCase { hidden: 512, dtype: F16, ..one(&[1000.0]) }),
        (
            "time-for-each-item",
            TimestepEmbeddingCase { hidden: 64, out: 60, items: 3, times: by_item, step: 1, ..TURBO },
        ),
        ("odd-widths", TimestepEmbeddingCase { width: 6, hidden: 13, out: 7, times: &[0.5, 3.0], step: 1, ..TURBO }),
    ]);
    let op = Op { name: TimestepEmbeddingCase::OP, features: &[Feature::Bias] };
    Entry { op, cases, rejections: layer_rejections() }
}

/// The two layers.
struct Layers<L> {
    w1: L,
    w2: L,
}

fn layer_rejections<B: Backend + 'static>() -> Vec<Rejection<B>> {
    const OP: &str = TimestepEmbeddingCase::OP;
    const TIMES: Zeros = Zeros::F32(&[9, 2]);
    const STEP: Zeros = Zeros::U32(&[1]);
    let layers = |w1, w2| {
        move |b: &B| {
            let upload = |sizes: &[usize; 2]| expect_ready(b.upload_linear(&[zeros(DType::F32, sizes).into()], &[]));
            Ok(Layers { w1: upload(&w1)?, w2: upload(&w2)? })
        }
    };
    type L<B> = Layers<<B as LinearOp>::Linear>;
    let call = |b: &B, layers: &L<B>, [times, step]: [B::Tensor; 2]| {
        b.timestep_embedding(&times, &step, &layers.w1, &layers.w2).map(drop)
    };
    let mut all = rejections_with(
        OP,
        layers([16, 8], [5, 16]),
        call,
        [
            ("rank-of-times", [Zeros::F32(&[9]), STEP]),
            ("type-of-times", [Zeros::U32(&[9, 2]), STEP]),
            ("size-of-step", [TIMES, Zeros::U32(&[2])]),
            ("type-of-step", [TIMES, Zeros::F32(&[1])]),
        ],
    );
    all.extend(rejections_with(OP, layers([16, 7], [5, 16]), call, [("odd-sinusoids", [TIMES, STEP])]));
    all.extend(rejections_with(OP, layers([16, 8], [5, 15]), call, [("size-of-layers", [TIMES, STEP])]));
    all
}
