//! Matrices of linear layers as they are stored: dense, or stacked quantised rows, which a kernel
//! dequantises before each use, or the gemm itself. Streamed ones are in host memory.

use super::Matrix;
use super::fp8::Fp8Matrix;
use super::quantized::QuantizedRows;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::streaming::Staged;
use crate::backend::cuda::memory::arena::Home;
use crate::error::{Error, Result};
use crate::tensor::{Compute, Weight};
use std::borrow::Cow;
use std::ops::Deref;

/// A matrix `[rows, width]`.
#[derive(Debug)]
pub(crate) enum StoredMatrix {
    Dense(Matrix),
    Quantized { dims: [usize; 2], segments: Vec<Segment> },
    Fp8(Fp8Matrix),
}

/// Quantised rows of a matrix, with their place in it.
#[derive(Debug)]
pub(crate) struct Segment {
    pub rows: QuantizedRows,
    /// The row of the matrix that the first one is.
    pub first: usize,
    /// The distance of two in the matrix.
    step: usize,
}

/// A matrix as a gemm reads it.
#[derive(Debug)]
pub(crate) struct DenseMatrix<'a> {
    matrix: Cow<'a, Matrix>,
    /// The copy of a streamed one, which lives as long.
    _staged: Option<Staged<'a>>,
}

impl Deref for DenseMatrix<'_> {
    type Target = Matrix;

    fn deref(&self) -> &Matrix {
        &self.matrix
    }
}

impl StoredMatrix {
    /// The rows of `parts`, each `[Nᵢ, width]`, one part after the other: `dims` is `[ΣNᵢ, width]`.
    pub(crate) async fn stacked(gpu: &Gpu, op: &'static str, parts: &[Weight<'_>], dims: [usize; 2]) -> Result<Self> {
        let matrix = Self::upload_stacked(gpu, op, parts, dims).await?;
        matrix.size_ring(gpu);
        Ok(matrix)
    }

    async fn upload_stacked(gpu: &Gpu, op: &'static str, parts: &[Weight<'_>], dims: [usize; 2]) -> Result<Self> {
        if parts.iter().all(|part| part.compute() == Compute::Fp8) {
            return Fp8Matrix::stacked(gpu, op, parts, dims).await.map(Self::Fp8);
        }
        if !parts.iter().all(QuantizedRows::supports) {
            return Matrix::stacked(gpu, op, parts, dims).await.map(Self::Dense);
        }
        let mut segments = Vec::new();
        let mut first = 0;
        for joined in parts.chunk_by(QuantizedRows::may_join) {
            let rows = QuantizedRows::upload(gpu, op, joined, Home::of(joined)).await?;
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
        dims: [usize; 2],
    ) -> Result<Self> {
        let matrix = Self::upload_alternating(gpu, op, pair, dims).await?;
        matrix.size_ring(gpu);
        Ok(matrix)
    }

    async fn upload_alternating(
        gpu: &Gpu,
        op: &'static str,
        pair: [&Weight<'_>; 2],
        [rows, width]: [usize; 2],
    ) -> Result<Self> {
        if pair.iter().all(|weight| weight.compute() == Compute::Fp8) {
            return Fp8Matrix::interleaved(gpu, op, pair, [rows, width]).await.map(Self::Fp8);
        }
        if !pair.iter().all(|weight| QuantizedRows::supports(weight)) {
            return Matrix::alternating(gpu, op, pair, [rows, width]).await.map(Self::Dense);
        }
        let mut segments = Vec::new();
        for (first, weight) in pair.into_iter().enumerate() {
            let rows = QuantizedRows::upload(gpu, op, std::slice::from_ref(weight), Home::of([weight])).await?;
            segments.push(Segment { rows, first, step: 2 });
        }
        Ok(Self::Quantized { dims: [2 * rows, width], segments })
    }

    /// `[N, K]`.
    pub(crate) fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(matrix) => matrix.dims(),
            Self::Quantized { dims, .. } => *dims,
            Self::Fp8(matrix) => matrix.dims(),
        }
    }

    /// The type of the operands of its gemms.
    pub(crate) fn compute(&self) -> Compute {
        match self {
            Self::Dense(_) | Self::Quantized { .. } => Compute::Native,
            Self::Fp8(_) => Compute::Fp8,
        }
    }

    /// The matrix, if it is the operand of an FP8 gemm.
    pub(crate) fn as_fp8(&self) -> Option<&Fp8Matrix> {
        match self {
            Self::Dense(_) | Self::Quantized { .. } => None,
            Self::Fp8(matrix) => Some(matrix),
        }
    }

    /// The rows that are dequantised before or in a gemm; `None` for a dense matrix and for FP8.
    pub(crate) fn segments(&self) -> Option<&[Segment]> {
        match self {
            Self::Dense(_) | Self::Fp8(_) => None,
            Self::Quantized { segments, .. } => Some(segments),
        }
    }

    /// Makes the ring of streamed weights large enough.
    fn size_ring(&self, gpu: &Gpu) {
        match self {
            Self::Dense(matrix) => gpu.size_ring_for(matrix.tensor()),
            Self::Fp8(matrix) => gpu.size_ring_for(matrix.codes()),
            Self::Quantized { segments, .. } => {
                segments.iter().flat_map(|segment| segment.rows.tensors()).for_each(|tensor| gpu.size_ring_for(tensor));
            }
        }
    }

    /// The matrix as a gemm reads it: itself, a copy if it is streamed, or dequantised into an
    /// output of `op`. It lives as long as the result. The operand of an FP8 gemm has no such form.
    pub(crate) fn dense<'a>(&'a self, gpu: &'a Gpu, op: &'static str) -> Result<DenseMatrix<'a>> {
        match self {
            Self::Dense(matrix) => {
                let staged = gpu.staged(op, matrix.tensor())?;
                let matrix = match staged.is_copy() {
                    false => return Ok(DenseMatrix { matrix: Cow::Borrowed(matrix), _staged: None }),
                    true => Matrix { tensor: staged.clone(), ..*matrix },
                };
                Ok(DenseMatrix { matrix: Cow::Owned(matrix), _staged: Some(staged) })
            }
            Self::Fp8(_) => Err(Error::internal(format!("{op}: a matrix in FP8 in another gemm"))),
            Self::Quantized { dims, segments } => {
                let matrix = Matrix::output(gpu, op, *dims)?;
                for Segment { rows, first, step } in segments {
                    rows.dequantize(gpu, &matrix, *first, *step)?;
                }
                Ok(DenseMatrix { matrix: Cow::Owned(matrix), _staged: None })
            }
        }
    }
}
