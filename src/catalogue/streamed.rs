//! Streamed weights: more of them than a backend has room for at once, read in a row.

use super::{
    Backend, Call, Compute, FP8_GATED_GEMM, FP8_GEMM, GATED_GEMM, GEMM, Inputs, OpCase, Operand, Result, Stored,
    Tolerance, expect_ready, returns,
};
use crate::tensor::StreamSource;

/// `x` `[1, tokens, k]` times streamed matrices of so many rows each, which are as many results.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamedLinears {
    pub tokens: usize,
    pub source: StreamSource,
    pub stored: Stored,
    pub k: usize,
    pub rows: [usize; 9],
    pub x: Operand,
}

impl OpCase for StreamedLinears {
    const OP: &'static str = "linear";
    const TOLERANCE: Tolerance = GEMM;

    fn tolerance(&self) -> Tolerance {
        if self.compute() == Compute::Fp8 { FP8_GEMM } else { Self::TOLERANCE }
    }

    fn compute(&self) -> Compute {
        self.x.compute()
    }

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { tokens, source, stored, k, rows, x } = *self;
        let compute = x.compute();
        let x = inputs.operand(x, [1, tokens, k], 1.0)?;
        let mut matrices = Vec::new();
        for n in rows {
            let matrix = inputs.stored(stored, n, k).streamed(source).computed_in(compute);
            matrices.push(expect_ready(inputs.b.upload_linear(&[matrix], &[]))?);
        }
        let matrices: [B::Linear; 9] = matrices.try_into().expect("as many as rows");
        returns(move |b: &B| {
            let mut results = Vec::with_capacity(matrices.len());
            for w in &matrices {
                results.push(b.linear(&x, w)?);
            }
            let results: [B::Tensor; 9] = results.try_into().expect("as many as matrices");
            Ok(results)
        })
    }
}

/// `x` `[1, tokens, 256]` times the two streamed matrices of a swiglu, and of another one.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamedSwiGlus {
    pub tokens: usize,
    pub source: StreamSource,
    pub stored: [Stored; 2],
    pub hidden: usize,
    pub x: Operand,
}

impl OpCase for StreamedSwiGlus {
    const OP: &'static str = "swiglu";
    const TOLERANCE: Tolerance = GATED_GEMM;

    fn tolerance(&self) -> Tolerance {
        if self.compute() == Compute::Fp8 { FP8_GATED_GEMM } else { Self::TOLERANCE }
    }

    fn compute(&self) -> Compute {
        self.x.compute()
    }

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let Self { tokens, source, stored: [gate, up], hidden, x } = *self;
        let compute = x.compute();
        let x = inputs.operand(x, [1, tokens, 256], 1.0)?;
        let mut pair = || {
            let of = |stored| inputs.stored(stored, hidden, 256).streamed(source).computed_in(compute);
            let [gate, up] = [gate, up].map(of);
            expect_ready(inputs.b.upload_swiglu(&gate, &up))
        };
        let (first, second) = (pair()?, pair()?);
        returns(move |b: &B| Ok([b.swiglu(&x, &first)?, b.swiglu(&x, &second)?]))
    }
}
