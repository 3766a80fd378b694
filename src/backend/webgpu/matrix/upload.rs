//! Matrices while their rows are uploaded.

use super::dequantize::QuantizedPiece;
use super::f16;
use super::quantized;
use super::stored::{Piece, Stored};
use super::{Matrix, Rows, padded_channels};
use crate::backend::webgpu::launch::gpu::Gpu;
use crate::backend::webgpu::launch::streaming::MAX_PIECE;
use crate::backend::webgpu::memory::allocate::Place;
use crate::backend::webgpu::memory::upload::Upload;
use crate::error::{Error, Result};
use crate::reserve::zeros;
use crate::tensor::{HostTensor, Weight};
use bytes::Bytes;

/// Bytes of a row of one or two `matrices` as gemms read them.
fn row_bytes(stored: Stored, width: usize, matrices: usize) -> u64 {
    (stored.row_stride(width) * stored.size() * matrices) as u64
}

/// The rows of a piece of a matrix of these `dims` [N, K].
fn piece_rows(gpu: &Gpu, op: &str, dims: [usize; 2], row_bytes: u64) -> Result<usize> {
    let limit = gpu.device.max_binding;
    match usize::try_from(limit / row_bytes).unwrap_or(usize::MAX) {
        0 => Err(Error::Device(format!(
            "{op}: one row of a matrix {dims:?} takes {row_bytes} bytes, and {} allows {limit} for one buffer",
            gpu.device.info.name
        ))),
        rows => Ok(rows),
    }
}

/// As [`piece_rows`], for pieces that pass through scratch memory: as few as possible, of equal
/// height.
fn scratch_rows(gpu: &Gpu, op: &str, dims: [usize; 2], row_bytes: u64) -> Result<usize> {
    let most = piece_rows(gpu, op, dims, row_bytes)?.min((MAX_PIECE / row_bytes).max(1) as usize);
    Ok(dims[0].div_ceil(dims[0].div_ceil(most)))
}

impl Matrix {
    /// Uploads the quantised rows of one or two `matrices` of these `dims` [N, K], each in parts
    /// that are stacked.
    pub(crate) async fn quantized(
        gpu: &Gpu,
        op: &'static str,
        matrices: &[&[Weight<'_>]],
        dims @ [rows, width]: [usize; 2],
    ) -> Result<Self> {
        let f16 = gpu.device.variant.f16();
        let stored = if f16 { Stored::F16 } else { Stored::of(matrices.iter().copied().flatten()) };
        let row_bytes = row_bytes(stored, width, matrices.len());
        let height = scratch_rows(gpu, op, dims, row_bytes)?;
        gpu.scratch.dequantized.count(height as u64 * row_bytes);
        let place = gpu.place(matrices.iter().copied().flatten(), Place::Host);
        let mut pieces: Vec<QuantizedPiece> = (0..rows)
            .step_by(height)
            .map(|first| {
                let matrices = matrices.iter().map(|_| Vec::new()).collect();
                QuantizedPiece { first, rows: height.min(rows - first), matrices }
            })
            .collect();
        let mut exponent = 0;
        for (matrix, parts) in matrices.iter().enumerate() {
            let mut above = 0;
            for part in *parts {
                let see = |first: usize, bytes: &[u8]| {
                    if f16 && let Some(storage) = part.storage() {
                        exponent = exponent.max(f16::quantized_exponent(storage, first, width, bytes));
                    }
                };
                for segment in quantized::upload(gpu, op, part, place, [above, height], see).await? {
                    pieces[segment.first / height].matrices[matrix].push(segment);
                }
                above += part.rows();
            }
        }
        let scale = if f16 { f16::power_of_two(f16::scale_exponent(exponent)) } else { 1.0 };
        Ok(Self { stored, rows, width, scale, pieces: pieces.into_iter().map(Rows::Quantized).collect() })
    }
}

/// A matrix, or the two of a swiglu, during its upload.
///
/// Rows are uploaded as they are stored. If the variant wants F16, the device converts them at
/// the end, when the largest magnitude is known.
pub(crate) struct MatrixUpload<'g> {
    gpu: &'g Gpu,
    op: &'static str,
    stored: Stored,
    rows: usize,
    width: usize,
    pieces: Vec<(Upload, Piece)>,
    /// The largest exponent so far, as F32 stores it. Only F16 matrices need it.
    exponent: u32,
}

impl<'g> MatrixUpload<'g> {
    /// Allocates `matrices` matrices `[rows, width]`, one or two, whose elements arrive as
    /// `stored`. Pieces are cut by the size of that type, even if F16 takes half of it in the end.
    pub(crate) fn new(
        gpu: &'g Gpu,
        op: &'static str,
        stored: Stored,
        [rows, width]: [usize; 2],
        matrices: usize,
        place: Place,
    ) -> Result<Self> {
        let row_bytes = row_bytes(stored, width, matrices);
        let piece_rows = match place {
            Place::Device => piece_rows(gpu, op, [rows, width], row_bytes)?,
            Place::Host | Place::HostBound | Place::Pageable => scratch_rows(gpu, op, [rows, width], row_bytes)?,
        };
        let limit = gpu.device.max_binding;
        let mut pieces = Vec::new();
        for first in (0..rows).step_by(piece_rows) {
            let rows = piece_rows.min(rows - first);
            let bytes = row_bytes * rows as u64;
            let upload = gpu.start_upload(op, &[rows, width], bytes, limit, place)?;
            let memory = upload.memory().clone();
            pieces.push((upload, Piece { memory, bytes, first, rows }));
        }
        Ok(Self { gpu, op, stored, rows, width, pieces, exponent: 0 })
    }

    /// Writes rows of the first matrix (0) or the second (1), from row `first` on.
    pub(crate) fn write(&mut self, first: usize, matrix: usize, rows: &HostTensor) -> Result<()> {
        self.write_bytes(first, matrix, &self.stored.bytes(rows)?)?;
        self.gpu.device.faults.check()
    }

    fn write_bytes(&mut self, first: usize, matrix: usize, bytes: &Bytes) -> Result<()> {
        if self.gpu.device.variant.f16() {
            self.exponent = self.exponent.max(f16::exponent(self.stored, bytes));
        }
        let row = self.width * self.stored.size();
        let stride = self.stored.row_stride(self.width) * self.stored.size();
        let end = first + bytes.len() / row;
        for (upload, piece) in &mut self.pieces {
            let from = first.max(piece.first);
            let until = end.min(piece.first + piece.rows);
            if from >= until {
                continue;
            }
            let part = bytes.slice((from - first) * row..(until - first) * row);
            let at = (matrix * piece.rows + from - piece.first) * stride;
            self.gpu.write_rows(upload, at, part, row, stride)?;
        }
        Ok(())
    }

    /// The rows as they were written.
    pub(crate) fn written(self) -> Result<Vec<Piece>> {
        let Self { gpu, pieces, .. } = self;
        pieces.into_iter().map(|(upload, piece)| gpu.finish_upload(upload).map(|_| piece)).collect()
    }

    /// The matrix, after all rows are written.
    pub(crate) fn finish(self) -> Result<Matrix> {
        let Self { gpu, op, stored, rows, width, exponent, .. } = self;
        let pieces = self.written()?;
        let mut scale = 1.0;
        let mut read = stored;
        let pieces: Vec<Rows> = if gpu.device.variant.f16() {
            let e = f16::scale_exponent(exponent);
            scale = f16::power_of_two(e);
            read = Stored::F16;
            let convert = |piece: Piece| match piece.memory.as_pageable() {
                Some(_) => Ok(Rows::Unconverted(f16::Unconverted { piece, stored, e })),
                None => f16::convert(gpu, op, stored, width, piece, e).map(Rows::Dense),
            };
            pieces.into_iter().map(convert).collect::<Result<_>>()?
        } else {
            pieces.into_iter().map(Rows::Dense).collect()
        };
        pieces.iter().for_each(|rows| rows.count_scratch(gpu, width));
        Ok(Matrix { stored: read, rows, width, scale, pieces })
    }

    /// A convolution's kernel `[O, I, kh, kw]` as `[O, kh·kw·P]`, where `P` is [`padded_channels`]
    /// of `I`.
    pub(crate) fn kernel(
        gpu: &Gpu,
        op: &'static str,
        kernel: &HostTensor,
        [o, i, kh, kw]: [usize; 4],
    ) -> Result<Matrix> {
        let stored = Stored::from(kernel.dtype());
        let size = stored.size();
        let taps = kh * kw;
        let padded = padded_channels(gpu, i);
        let width = taps * padded;
        let mut rows = zeros(o * width * size, "the kernel of a convolution")?;
        for (from, value) in stored.bytes(kernel)?.chunks_exact(size).enumerate() {
            let out = from / taps / i;
            let channel = from / taps % i;
            let tap = from % taps;
            let to = (out * width + tap * padded + channel) * size;
            rows[to..to + size].copy_from_slice(value);
        }
        let mut upload = MatrixUpload::new(gpu, op, stored, [o, width], 1, Place::Device)?;
        upload.write_bytes(0, 0, &rows.into())?;
        upload.finish()
    }
}
