//! Matrices as operands of FP8 gemms: E4M3 codes with a scale for each row.

use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::streaming::Staged;
use crate::backend::cuda::memory::arena::Home;
use crate::backend::cuda::memory::tensor::CudaTensor;
use crate::error::{Error, Result};
use crate::tensor::{DType, Weight};
use bytes::Bytes;

/// A matrix `[rows, width]`; rows are multiples of 16 bytes, as
/// [`FP8_VECTOR`](crate::tensor::FP8_VECTOR) says.
#[derive(Debug)]
pub(crate) struct Fp8Matrix {
    /// U8 `[rows, width]`.
    codes: CudaTensor,
    /// F32 `[rows]`, always on the device.
    scales: CudaTensor,
}

impl Fp8Matrix {
    /// The rows of `parts`, each `[Nᵢ, width]`, one part after the other: `dims` is `[ΣNᵢ, width]`.
    pub(super) async fn stacked(gpu: &Gpu, op: &'static str, parts: &[Weight<'_>], dims: [usize; 2]) -> Result<Self> {
        let [_, width] = dims;
        let scales = parts.iter().map(|part| scales_of(op, part)).collect::<Result<Vec<_>>>()?.concat();
        let matrix = Self::upload_target(gpu, op, dims, &scales, Home::of(parts))?;
        let mut above = 0;
        for part in parts {
            let write = |row: usize, bytes: Bytes| gpu.upload_piece(op, &matrix.codes, (above + row) * width, bytes);
            part.each_stored_piece(write).await?;
            above += part.rows();
        }
        Ok(matrix)
    }

    /// The rows of two matrices `[rows, width]` in the order of [`source_of`], as `swiglu_fp8.cu`
    /// reads them; `rows` is a multiple of 16.
    pub(super) async fn interleaved(
        gpu: &Gpu,
        op: &'static str,
        pair: [&Weight<'_>; 2],
        [rows, width]: [usize; 2],
    ) -> Result<Self> {
        let both = [scales_of(op, pair[0])?, scales_of(op, pair[1])?];
        let scale = |row| {
            let (which, row) = source_of(row);
            both[which][row]
        };
        let scales: Vec<f32> = (0..2 * rows).map(scale).collect();
        let matrix = Self::upload_target(gpu, op, [2 * rows, width], &scales, Home::of(pair))?;
        let write = |first: usize, rows: [Bytes; 2]| {
            let bytes = 2 * rows[0].len();
            gpu.upload_owned_chunks(op, &matrix.codes, 2 * first * width, bytes, width, move |row, out| {
                let (which, row) = source_of(row);
                out.copy_from_slice(&rows[which][row * width..][..width]);
            })
        };
        Weight::each_stored_pair(pair, INTERLEAVED, write).await?;
        Ok(matrix)
    }

    /// A matrix whose codes an upload fills.
    fn upload_target(
        gpu: &Gpu,
        op: &'static str,
        [rows, width]: [usize; 2],
        scales: &[f32],
        home: Home,
    ) -> Result<Self> {
        let codes = gpu.upload_target(op, &[rows, width], DType::U8, home)?;
        Ok(Self { codes, scales: gpu.upload(op, &[rows], DType::F32, bytemuck::cast_slice(scales))? })
    }

    /// `[N, K]`.
    pub(super) fn dims(&self) -> [usize; 2] {
        self.codes.dims()
    }

    /// The codes, in host memory if they are streamed.
    pub(super) fn codes(&self) -> &CudaTensor {
        &self.codes
    }

    /// The matrix in device memory, as long as the result lives.
    pub(crate) fn staged<'a>(&'a self, gpu: &'a Gpu, op: &'static str) -> Result<StagedFp8<'a>> {
        Ok(StagedFp8 { codes: gpu.staged(op, &self.codes)?, scales: &self.scales })
    }
}

/// Rows of each of two interleaved matrices in a group.
const INTERLEAVED: usize = 16;

/// The matrix, 0 or 1, and its row that is row `row` of both interleaved. In a group of 32 rows, a
/// quarter of a warp has both factors of four neighbouring columns of the gated product: it holds
/// columns 8·j + 2·q and the next of the gemm, where q is the quarter.
fn source_of(row: usize) -> (usize, usize) {
    let (group, place) = (row / (2 * INTERLEAVED), row % (2 * INTERLEAVED));
    (place % 2, group * INTERLEAVED + place / 2 % 4 * 4 + place / 8)
}

/// The scale of each row of a matrix.
fn scales_of(op: &'static str, weight: &Weight<'_>) -> Result<Vec<f32>> {
    weight.fp8_scales().ok_or_else(|| Error::internal(format!("{op}: a matrix in FP8 without a scale a row")))
}

/// An FP8 matrix in device memory.
#[derive(Debug)]
pub(crate) struct StagedFp8<'a> {
    codes: Staged<'a>,
    scales: &'a CudaTensor,
}

impl StagedFp8<'_> {
    /// The codes, U8 `[N, K]`.
    pub(crate) fn codes(&self) -> &CudaTensor {
        &self.codes
    }

    /// The scales as an argument of a kernel.
    pub(crate) fn scales(&self) -> Arg<'_> {
        Arg::Read(self.scales)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_rows_are_a_permutation() {
        let mut sources: Vec<_> = (0..96).map(source_of).collect();
        assert_eq!(sources[..10], [(0, 0), (1, 0), (0, 4), (1, 4), (0, 8), (1, 8), (0, 12), (1, 12), (0, 1), (1, 1)]);
        assert_eq!(sources[32..34], [(0, 16), (1, 16)]);
        sources.sort_unstable();
        let all: Vec<_> = (0..2).flat_map(|which| (0..48).map(move |row| (which, row))).collect();
        assert_eq!(sources, all);
    }
}
