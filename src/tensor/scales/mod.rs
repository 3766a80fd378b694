//! Matrices with scales beside them, as ComfyUI's safetensors store them.
//!
//! | scales | value of element \[n, k\] with code c |
//! | --- | --- |
//! | one a tensor | c·scale |
//! | one a row | c·scale\[n\] |
//! | MXFP8 | c·2^(scale\[n, k/32\] − 127) |
//! | NVFP4 | c·(tensor scale·scale\[n, k/16\]) |
//!
//! The values have the bits that the eager backend of `comfy_kitchen` computes in float32, except
//! those of a rotated matrix, where it leaves the order of the sums to its BLAS.

use super::Format;
use super::format::{E4M3, e8m0};
use bytes::Bytes;
use std::fmt;

/// The scales beside a matrix \[N, K\].
#[derive(Clone, PartialEq)]
pub enum Scales {
    /// No scale beside the matrix.
    None,
    /// One scale.
    Tensor(f32),
    /// One scale a row: N.
    Rows(Vec<f32>),
    /// An E8M0 byte for each 32 columns, in cuBLAS's layout of block scales.
    Mxfp8(Bytes),
    /// An E4M3 byte for each 16 columns, in cuBLAS's layout of block scales, and a factor of them
    /// all.
    Nvfp4 {
        /// The scales of the blocks.
        blocks: Bytes,
        /// The scale of the tensor.
        tensor: f32,
    },
}

impl fmt::Debug for Scales {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scales::None => f.write_str("None"),
            Scales::Tensor(scale) => write!(f, "Tensor({scale})"),
            Scales::Rows(scales) => write!(f, "Rows({})", scales.len()),
            Scales::Mxfp8(blocks) => write!(f, "Mxfp8({})", blocks.len()),
            Scales::Nvfp4 { blocks, tensor } => write!(f, "Nvfp4({} · {tensor})", blocks.len()),
        }
    }
}

/// The difference between a matrix and its scales, for [`crate::Error::Tensor`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The sizes or types that would fit.
    pub expected: String,
    /// The sizes or types that were given.
    pub found: String,
}

/// The layout of a matrix \[N, K\] in a file with the scales beside it: all that is needed to
/// dequantise any of its rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Scaled {
    format: Format,
    shape: [usize; 2],
    /// Columns in the file, with padding.
    stored_columns: usize,
    scales: Scales,
    /// Columns of a rotated group.
    rotation: Option<usize>,
}

impl Scaled {
    /// A matrix of `shape` \[N, K\] that the file stores as `stored` \[rows, columns\] elements,
    /// two a byte in NVFP4. With MXFP8 scales the file may pad both sizes to multiples of 32, with
    /// NVFP4 scales to multiples of 16.
    ///
    /// `rotation` is the `convrot_groupsize` G of I8 matrices that are stored rotated: W·H for each
    /// group of G columns, with the orthogonal matrix H = H₄ ⊗ … ⊗ H₄ / √G and
    /// H₄ = \[\[1, 1, 1, −1\], \[1, 1, −1, 1\], \[1, −1, 1, 1\], \[−1, 1, 1, 1\]\]. The rows that
    /// are dequantised are rotated back.
    ///
    /// # Errors
    /// [`Mismatch`] if sizes, format, scales and rotation do not fit together.
    pub fn new(
        format: Format,
        shape: [usize; 2],
        stored: [usize; 2],
        scales: Scales,
        rotation: Option<usize>,
    ) -> Result<Self, Mismatch> {
        let mismatch = |expected: String, found: String| Err(Mismatch { expected, found });
        let (block, formats): (usize, &[Format]) = match &scales {
            Scales::Mxfp8(_) => (32, &[Format::F8E4m3, Format::F8E5m2]),
            Scales::Nvfp4 { .. } => (16, &[Format::Nvfp4]),
            _ => (1, &[]),
        };
        if block > 1 && !formats.contains(&format) {
            return mismatch(format!("{} for block scales of {block} columns", formats[0]), format.to_string());
        }
        if block == 1 && format == Format::Nvfp4 {
            return mismatch("block scales beside NVFP4".into(), format!("{scales:?}"));
        }
        let fits = |size: usize, stored: usize| stored == size || Some(stored) == size.checked_next_multiple_of(block);
        if !fits(shape[0], stored[0]) || !fits(shape[1], stored[1]) {
            let padded = if block > 1 { format!(", or padded to multiples of {block}") } else { String::new() };
            return mismatch(format!("{shape:?}{padded}"), format!("{stored:?}"));
        }
        let elements = format.block().elements.max(block);
        if !stored[1].is_multiple_of(elements) || format.bytes(stored[1]).is_none() {
            return mismatch(format!("rows of {format} with a multiple of {elements} columns"), format!("{stored:?}"));
        }
        match &scales {
            Scales::Rows(scales) if scales.len() != shape[0] => {
                return mismatch(format!("{} scales, one a row", shape[0]), scales.len().to_string());
            }
            Scales::Mxfp8(blocks) | Scales::Nvfp4 { blocks, .. } => {
                let expected = BlockScales::bytes(stored[0], stored[1] / block);
                if expected != Some(blocks.len()) {
                    let [rows, columns] = [stored[0], stored[1] / block];
                    let tiles = format!("block scales {rows} × {columns}, padded to multiples of 128 × 4");
                    return mismatch(tiles, format!("{} scales", blocks.len()));
                }
            }
            _ => {}
        }
        if let Some(group) = rotation {
            if format != Format::I8 || block > 1 {
                return mismatch("a rotated matrix of I8".into(), format.to_string());
            }
            if !ROTATIONS.contains(&group) || !stored[1].is_multiple_of(group) {
                let expected = format!("a rotation of 4, 16, 64, … 65536 columns that divides {}", stored[1]);
                return mismatch(expected, group.to_string());
            }
        }
        Ok(Self { format, shape, stored_columns: stored[1], scales, rotation })
    }

    /// The format of the codes.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The scales.
    pub fn scales(&self) -> &Scales {
        &self.scales
    }

    /// The sizes \[N, K\], without padding.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Blocks of a row that have a scale each, without the padding to whole tiles; 0 without block
    /// scales.
    pub fn block_columns(&self) -> usize {
        match self.scales {
            Scales::Mxfp8(_) => self.stored_columns / 32,
            Scales::Nvfp4 { .. } => self.stored_columns / 16,
            _ => 0,
        }
    }

    /// Bytes of a row in the file, with padding.
    pub fn row_bytes(&self) -> usize {
        self.format.bytes(self.stored_columns).expect("whole blocks, as `new` checks")
    }

    /// Dequantises rows from `first_row` on: `bytes` are those of whole rows in the file, and `out`
    /// receives K values a row.
    ///
    /// # Panics
    /// If `bytes` and `out` do not have the same number of whole rows, or the matrix fewer rows.
    pub fn dequantize_rows(&self, first_row: usize, bytes: &[u8], out: &mut [f32]) {
        let [rows, columns] = self.shape;
        if columns == 0 {
            return assert!(bytes.is_empty() && out.is_empty(), "rows without elements");
        }
        let (row_bytes, count) = (self.row_bytes(), out.len() / columns);
        assert!(out.len() == count * columns && bytes.len() == count * row_bytes, "whole rows");
        assert!(first_row + count <= rows, "rows {first_row}..{} of {rows}", first_row + count);
        if self.scales == Scales::None && self.rotation.is_none() {
            return self.format.dequantize(bytes, out);
        }
        let rows = bytes.chunks_exact(row_bytes).zip(out.chunks_exact_mut(columns));
        for (row, (bytes, out)) in (first_row..).zip(rows) {
            self.unscaled(bytes, out);
            if let Some(group) = self.rotation {
                rotate(out, group);
            }
            match &self.scales {
                Scales::None => {}
                Scales::Tensor(scale) => multiply(out, *scale),
                Scales::Rows(scales) => multiply(out, scales[row]),
                Scales::Mxfp8(codes) => {
                    let scales = BlockScales { codes, columns: self.block_columns() };
                    for (block, out) in out.chunks_mut(32).enumerate() {
                        multiply(out, e8m0(scales.code(row, block)));
                    }
                }
                Scales::Nvfp4 { blocks: codes, tensor } => {
                    let scales = BlockScales { codes, columns: self.block_columns() };
                    for (block, out) in out.chunks_mut(16).enumerate() {
                        multiply(out, tensor * E4M3[usize::from(scales.code(row, block))]);
                    }
                }
            }
        }
    }

    /// The codes of a row without scales and padding.
    fn unscaled(&self, bytes: &[u8], out: &mut [f32]) {
        let block = self.format.block();
        let (whole, rest) = out.split_at_mut(out.len() / block.elements * block.elements);
        let (bytes, padded) = bytes.split_at(whole.len() / block.elements * block.bytes);
        self.format.dequantize(bytes, whole);
        // Only padding cuts a block: a pair of NVFP4.
        if let [out] = rest {
            let mut pair = [0.0; 2];
            self.format.dequantize(&padded[..1], &mut pair);
            *out = pair[0];
        }
    }
}

/// Scales of blocks in the layout of cuBLAS's block-scaled gemms: row-major tiles of 128 rows × 4
/// columns, the last ones padded. Row `r` of a tile has its four scales at `(r % 32)·16 + r/32·4`.
///
/// Source: cuBLAS's documentation, "1D Block Scaling Factors Layout".
struct BlockScales<'a> {
    codes: &'a [u8],
    /// Columns without padding.
    columns: usize,
}

impl BlockScales<'_> {
    /// Bytes of the scales of `rows` × `columns` blocks, with padding; `None` for more than a
    /// `usize` counts.
    fn bytes(rows: usize, columns: usize) -> Option<usize> {
        rows.checked_next_multiple_of(128)?.checked_mul(columns.checked_next_multiple_of(4)?)
    }

    /// The scale of a block.
    fn code(&self, row: usize, column: usize) -> u8 {
        let tile = row / 128 * self.columns.div_ceil(4) + column / 4;
        self.codes[tile * 512 + row % 32 * 16 + row % 128 / 32 * 4 + column % 4]
    }
}

/// The sizes of a rotated group: powers of 4, up to the largest whose sums of bytes are exact in
/// F32.
const ROTATIONS: [usize; 8] = [4, 16, 64, 256, 1024, 4096, 16384, 65536];

/// Multiplies each group of columns by the orthogonal matrix H of [`Scaled::new`], which is its own
/// inverse. Codes are integers, so every sum is exact, as is the division by √G, a power of two:
/// the only rounding of a value is the multiplication by its scale.
fn rotate(row: &mut [f32], group: usize) {
    for group in row.chunks_exact_mut(group) {
        // Constant strides let the compiler unroll the inner loop.
        add_and_subtract(group, 1);
        if group.len() > 4 {
            add_and_subtract(group, 4);
        }
        let mut stride = 16;
        while stride < group.len() {
            add_and_subtract(group, stride);
            stride *= 4;
        }
    }
    multiply(row, 1.0 / (group as f32).sqrt());
}

/// Multiplies every four values that are `stride` apart by H₄: their sum, less twice one of them.
#[inline(always)]
fn add_and_subtract(group: &mut [f32], stride: usize) {
    for four in group.chunks_exact_mut(4 * stride) {
        let (ab, cd) = four.split_at_mut(2 * stride);
        let ((a, b), (c, d)) = (ab.split_at_mut(stride), cd.split_at_mut(stride));
        for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
            let sum = *a + *b + *c + *d;
            [*a, *b, *c, *d] = [sum - 2.0 * *d, sum - 2.0 * *c, sum - 2.0 * *b, sum - 2.0 * *a];
        }
    }
}

/// Multiplies each value by `factor`.
fn multiply(values: &mut [f32], factor: f32) {
    for value in values {
        *value *= factor;
    }
}

#[cfg(test)]
mod tests;
