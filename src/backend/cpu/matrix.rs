//! Gemms: strided views over slices, multiplied by the `gemm` crate, and matrices as they are
//! stored, quantised ones included.

use super::packed::{Panels, multiply, packed_rows};
use super::parallel::*;
use super::tensor::floats;
use crate::error::Result;
use crate::reserve::zeros;
use crate::tensor::{DType, HostTensor, Storage, Weight, widen};
use bytes::Bytes;
use futures_util::future::try_join_all;
use std::borrow::Cow;
use std::sync::Arc;

/// Elements per panel of widened weights: few enough for the caches, enough for full gemm speed.
const PANEL: usize = 1 << 20;
/// The most elements of a matrix that is packed during its upload, as F32.
const PACKED: usize = 1 << 19;

/// A matrix inside a slice: element `(i, j)` is `data[i·row_stride + j·col_stride]`.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
}

/// As [`View`], for writing. The elements of a row are contiguous.
pub(super) struct ViewMut<'a> {
    pub data: &'a mut [f32],
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
}

impl<'a> View<'a> {
    /// `rows` rows of `cols` elements, `row_stride` apart.
    pub(super) fn new(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose.
    pub(super) fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    fn end(&self) -> usize {
        if self.rows == 0 || self.cols == 0 {
            return 0;
        }
        (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride + 1
    }
}

/// `out = a·b`, on all threads if `parallel`.
pub(super) fn product(out: ViewMut<'_>, a: View<'_>, b: View<'_>, parallel: bool) {
    assert!(a.cols == b.rows && out.rows == a.rows && out.cols == b.cols, "matrices that do not fit");
    if out.rows == 0 || out.cols == 0 {
        return;
    }
    let end = (out.rows - 1) * out.row_stride + out.cols;
    assert!(out.cols <= out.row_stride || out.rows == 1, "rows that overlap");
    assert!(end <= out.data.len() && a.end() <= a.data.len() && b.end() <= b.data.len(), "a view past its slice");
    let parallelism = match parallel {
        #[cfg(not(target_family = "wasm"))]
        true => gemm::Parallelism::Rayon(0),
        _ => gemm::Parallelism::None,
    };
    // SAFETY: the assertions above keep every element that the three views name inside its slice;
    // `out` is borrowed mutably, so it overlaps neither `a` nor `b`, and its rows do not overlap
    // each other.
    unsafe {
        gemm::gemm(
            out.rows,
            out.cols,
            a.cols,
            out.data.as_mut_ptr(),
            1,
            out.row_stride as isize,
            false,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Rows of a stored matrix as F32.
pub(super) struct Panel<'a> {
    /// Index of the panel's first row.
    pub first: usize,
    pub rows: usize,
    pub values: Cow<'a, [f32]>,
}

/// Rows as they are stored.
#[derive(Debug, Clone)]
pub(super) enum StoredRows {
    Plain(HostTensor),
    Quantized { rows: usize, storage: Storage, bytes: Bytes },
}

impl StoredRows {
    pub(super) async fn upload(weight: &Weight<'_>) -> Result<Self> {
        Ok(match weight.storage() {
            Some(storage) => {
                let bytes = weight.whole_stored().await?;
                StoredRows::Quantized { rows: weight.rows(), storage: storage.clone(), bytes }
            }
            None => StoredRows::Plain(weight.whole().await?),
        })
    }

    fn rows(&self) -> usize {
        match self {
            StoredRows::Plain(tensor) => tensor.shape()[0],
            StoredRows::Quantized { rows, .. } => *rows,
        }
    }

    /// Writes rows of `width` elements as F32, from row `first` on, as many as `out` has.
    pub(super) fn widen(&self, first: usize, width: usize, out: &mut [f32]) {
        let range = |row_bytes: usize| first * row_bytes..(first + out.len() / width) * row_bytes;
        match self {
            StoredRows::Plain(tensor) => {
                widen(tensor.dtype(), &tensor.bytes()[range(width * tensor.dtype().size())], out);
            }
            StoredRows::Quantized { rows, storage, bytes } => {
                storage.dequantize_rows(first, &bytes[range(bytes.len() / rows)], out);
            }
        }
    }

    /// `count` rows of `width` elements as F32, from row `first` on; borrowed if they are F32.
    fn widened(&self, first: usize, count: usize, width: usize) -> Result<Cow<'_, [f32]>> {
        if let StoredRows::Plain(tensor) = self
            && tensor.dtype() == DType::F32
        {
            let stride = width * DType::F32.size();
            return floats(DType::F32, &tensor.bytes()[first * stride..(first + count) * stride]);
        }
        let mut values = zeros(count * width, "a part of a matrix as F32")?;
        self.widen_on_all_threads(first, width, &mut values);
        Ok(Cow::Owned(values))
    }

    /// As [`StoredRows::widen`], on all threads.
    fn widen_on_all_threads(&self, first: usize, width: usize, out: &mut [f32]) {
        let rows = (4096 / width.max(1)).max(1);
        let chunks = out.par_chunks_mut(rows * width.max(1)).enumerate();
        chunks.for_each(|(chunk, out)| self.widen(first + chunk * rows, width, out));
    }
}

/// Matrices `[Nᵢ, K]` stacked as one `[N, K]`.
#[derive(Debug, Clone)]
pub(super) enum StoredMatrix {
    /// Packed for [`multiply`], as F32.
    Packed { values: Arc<Vec<f32>>, dims: [usize; 2] },
    /// Each in its own type and memory.
    Parts { parts: Arc<[StoredRows]>, dims: [usize; 2] },
}

/// True if a matrix `[N, K]` is packed during its upload. Its size alone decides, so that every
/// storage of the same values gives the same bits.
pub(super) fn is_packed([rows, width]: [usize; 2]) -> bool {
    rows * width <= PACKED
}

impl StoredMatrix {
    /// Stacks `parts`, whose shapes have been checked.
    pub(super) async fn upload(parts: &[Weight<'_>], dims: [usize; 2]) -> Result<Self> {
        let parts = try_join_all(parts.iter().map(StoredRows::upload)).await?;
        if is_packed(dims) {
            return Ok(Self::Packed { values: Arc::new(packed(&parts, dims)?), dims });
        }
        Ok(Self::Parts { parts: parts.into(), dims })
    }

    /// `[N, K]`.
    pub(super) fn dims(&self) -> [usize; 2] {
        match self {
            Self::Packed { dims, .. } | Self::Parts { dims, .. } => *dims,
        }
    }

    /// `out = x·Wᵀ + b` for `x` of whole rows; `out` `[M, N]`.
    pub(super) fn apply(&self, x: &[f32], bias: Option<&[f32]>, out: &mut [f32]) -> Result<()> {
        match self {
            Self::Packed { values, dims: [rows, width] } => {
                multiply(x, *width, Panels::new(values, *width, *rows), bias, out);
            }
            Self::Parts { parts, dims: [rows, width] } => {
                let m = x.len() / width;
                for panel in panels(parts, *width) {
                    let Panel { first, rows: count, values } = panel?;
                    let columns = ViewMut { data: &mut out[first..], rows: m, cols: count, row_stride: *rows };
                    let weights = View::new(&values, count, *width, *width);
                    product(columns, View::new(x, m, *width, *width), weights.t(), true);
                }
                if let Some(bias) = bias {
                    out.par_chunks_mut(*rows).for_each(|row| row.iter_mut().zip(bias).for_each(|(o, b)| *o += b));
                }
            }
        }
        Ok(())
    }
}

/// The matrix `[N, K]` of `parts`, packed for [`multiply`].
fn packed(parts: &[StoredRows], dims @ [rows, width]: [usize; 2]) -> Result<Vec<f32>> {
    packed_rows(&stacked(parts, dims)?, rows, width, "a packed matrix")
}

/// The matrix `[N, K]` of `parts` as F32.
pub(super) fn stacked(parts: &[StoredRows], [rows, width]: [usize; 2]) -> Result<Vec<f32>> {
    let mut all = zeros(rows * width, "a matrix as F32")?;
    let mut rest = &mut all[..];
    for part in parts {
        let (values, others) = rest.split_at_mut(part.rows() * width);
        part.widen_on_all_threads(0, width, values);
        rest = others;
    }
    Ok(all)
}

/// Splits the rows of `parts` of `width` values into panels, none across two parts. Panels of equal
/// matrices are equal, so two matrices can be walked in step. A failed allocation is an error.
pub(super) fn panels(parts: &[StoredRows], width: usize) -> impl Iterator<Item = Result<Panel<'_>>> {
    let height = (PANEL / width.max(1)).max(1);
    let mut first = 0;
    parts.iter().flat_map(move |part| {
        let base = first;
        let rows = part.rows();
        first += rows;
        (0..rows).step_by(height).map(move |row| {
            let count = height.min(rows - row);
            let values = part.widened(row, count, width)?;
            Ok(Panel { first: base + row, rows: count, values })
        })
    })
}
