//! Matrices of linear layers as they are stored: dense, or stacked quantised rows, which a kernel
//! dequantises before each use.

use super::Matrix;
use super::quantized::QuantizedRows;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::error::Result;
use crate::tensor::Weight;
use std::borrow::Cow;

/// A matrix `[rows, width]`.
#[derive(Debug)]
pub(crate) enum StoredMatrix {
    Dense(Matrix),
    Quantized { dims: [usize; 2], segments: Vec<Segment> },
}

/// Quantised rows of a matrix, with their place in it.
#[derive(Debug)]
pub(crate) struct Segment {
    rows: QuantizedRows,
    /// The row of the matrix that the first one is.
    first: usize,
    /// The distance of two in the matrix.
    step: usize,
}

impl StoredMatrix {
    /// The rows of `parts`, each `[Nᵢ, width]`, one part after the other: `dims` is `[ΣNᵢ, width]`.
    pub(crate) async fn stacked(gpu: &Gpu, op: &'static str, parts: &[Weight<'_>], dims: [usize; 2]) -> Result<Self> {
        if !parts.iter().all(QuantizedRows::supports) {
            return Matrix::stacked(gpu, op, parts, dims).await.map(Self::Dense);
        }
        let mut segments = Vec::new();
        let mut first = 0;
        for joined in parts.chunk_by(QuantizedRows::may_join) {
            let rows = QuantizedRows::upload(gpu, op, joined).await?;
            let count = rows.rows;
            segments.push(Segment { rows, first, step: 1 });
            first += count;
        }
        Ok(Self::Quantized { dims, segments })
    }

    /// The rows of two matrices `[rows, width]`, alternating.
    pub(crate) async fn alternating(
        gpu: &Gpu,
        op: &'static str,
        pair: [&Weight<'_>; 2],
        [rows, width]: [usize; 2],
    ) -> Result<Self> {
        if !pair.iter().all(|weight| QuantizedRows::supports(weight)) {
            return Matrix::alternating(gpu, op, pair, [rows, width]).await.map(Self::Dense);
        }
        let mut segments = Vec::new();
        for (first, weight) in pair.into_iter().enumerate() {
            let rows = QuantizedRows::upload(gpu, op, std::slice::from_ref(weight)).await?;
            segments.push(Segment { rows, first, step: 2 });
        }
        Ok(Self::Quantized { dims: [2 * rows, width], segments })
    }

    /// `[N, K]`.
    pub(crate) fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(matrix) => matrix.dims(),
            Self::Quantized { dims, .. } => *dims,
        }
    }

    /// The matrix as a gemm reads it: itself, or dequantised into an output of `op`, which lives
    /// as long as the result.
    pub(crate) fn dense(&self, gpu: &Gpu, op: &'static str) -> Result<Cow<'_, Matrix>> {
        match self {
            Self::Dense(matrix) => Ok(Cow::Borrowed(matrix)),
            Self::Quantized { dims, segments } => {
                let matrix = Matrix::output(gpu, op, *dims)?;
                for Segment { rows, first, step } in segments {
                    rows.dequantize(gpu, &matrix, *first, *step)?;
                }
                Ok(Cow::Owned(matrix))
            }
        }
    }
}
