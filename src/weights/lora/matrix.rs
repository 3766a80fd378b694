//! Matrices of a LoRA file, and the products that make a difference of weights.

use super::file::Stored;
use crate::error::Result;
use crate::reserve;
use crate::tensor::widen;

/// Elements of a matrix that a thread reads at once.
const CHUNK: usize = 1 << 16;

/// Rows and columns.
pub(super) type Size = (usize, usize);

/// A shape as a matrix: a vector is a column, and the kernel of a 1×1 convolution is left out.
pub(super) fn size(shape: &[usize]) -> Option<Size> {
    match *shape {
        [] => Some((1, 1)),
        [rows] => Some((rows, 1)),
        [rows, columns, ref kernel @ ..] => kernel.iter().all(|&n| n == 1).then_some((rows, columns)),
    }
}

/// A size in the form of a shape, for messages.
pub(super) fn shown((rows, columns): Size) -> String {
    format!("[{rows}, {columns}]")
}

/// A stored matrix.
#[derive(Debug)]
pub(super) struct Matrix {
    pub(super) stored: Stored,
    pub(super) size: Size,
}

impl Matrix {
    pub(super) fn new(stored: Stored) -> Result<Self, String> {
        match size(stored.tensor.shape()) {
            Some(size) => Ok(Self { stored, size }),
            None => Err(format!("expected a matrix, found {stored}, as of a convolution")),
        }
    }

    /// All elements, read by all threads.
    pub(super) fn values(&self) -> Result<Vec<f32>> {
        let mut values = reserve::zeros(self.stored.tensor.len(), "a LoRA")?;
        in_chunks(&mut values, CHUNK, |chunk, out| {
            self.read(chunk * CHUNK, out);
            Ok(())
        })?;
        Ok(values)
    }

    /// Elements from `first` on, as many as `out` has.
    pub(super) fn read(&self, first: usize, out: &mut [f32]) {
        let dtype = self.stored.tensor.dtype();
        let bytes = &self.stored.tensor.bytes()[first * dtype.size()..][..out.len() * dtype.size()];
        widen(dtype, bytes, out);
    }
}

/// A product `left · core · right` of stored matrices, without a core in most files.
#[derive(Debug)]
pub(super) struct Product {
    left: Matrix,
    core: Option<Matrix>,
    right: Matrix,
    /// True if the file stores the transpose of the left matrix, as the Tucker form does.
    transposed: bool,
}

impl Product {
    /// A product whose ranks agree.
    pub(super) fn new(left: Stored, core: Option<Stored>, right: Stored, transposed: bool) -> Result<Self, String> {
        let transposed = transposed && core.is_some();
        let [left, right] = [Matrix::new(left)?, Matrix::new(right)?];
        let core = core.map(Matrix::new).transpose()?;
        let left_rank = if transposed { left.size.0 } else { left.size.1 };
        let (first, last) = core.as_ref().map_or((left_rank, left_rank), |core| core.size);
        // A square core also bounds the memory of `core · right` by the size of the file.
        if first != left_rank || last != right.size.0 || first != last {
            let core = core.map_or(String::new(), |core| format!(", {}", core.stored));
            return Err(format!("the ranks differ: {}{core} and {}", left.stored, right.stored));
        }
        Ok(Self { left, core, right, transposed })
    }

    /// The divisor of alpha.
    pub(super) fn rank(&self) -> usize {
        self.right.size.0
    }

    pub(super) fn size(&self) -> Size {
        (if self.transposed { self.left.size.1 } else { self.left.size.0 }, self.right.size.1)
    }

    /// Reads the matrices that every row needs.
    pub(super) fn open(&self) -> Result<OpenProduct<'_>> {
        let (rows, columns) = self.size();
        let rank = self.rank();
        let mut right = self.right.values()?;
        if let Some(core) = &self.core {
            let core = Operand { values: &core.values()?, rows: rank, row_stride: rank, column_stride: 1 };
            let mut product = reserve::zeros(rank * columns, "a LoRA")?;
            add_product(&mut product, columns, core, &right, rank, 1.0);
            right = product;
        }
        let left = match self.transposed {
            true => Left::Transposed { values: self.left.values()?, rows },
            false => Left::Rows(&self.left),
        };
        Ok(OpenProduct { left, right, rank, columns })
    }
}

/// A product that is ready to be multiplied by rows.
#[derive(Debug)]
pub(super) struct OpenProduct<'a> {
    left: Left<'a>,
    right: Vec<f32>,
    rank: usize,
    columns: usize,
}

/// The left matrix of a product.
#[derive(Debug)]
enum Left<'a> {
    /// Its rows are read when they are needed.
    Rows(&'a Matrix),
    /// All values of its transpose.
    Transposed { values: Vec<f32>, rows: usize },
}

impl OpenProduct<'_> {
    /// Adds rows of the product, times `scale`, to `out`: as many rows as it has, from `first` on.
    pub(super) fn add(&self, first: usize, out: &mut [f32], scale: f32) -> Result<()> {
        let (rank, columns) = (self.rank, self.columns);
        let rows = out.len() / columns;
        let read;
        let left = match &self.left {
            Left::Rows(left) => {
                let mut values = reserve::zeros(rows * rank, "a LoRA")?;
                left.read(first * rank, &mut values);
                read = values;
                Operand { values: &read, rows, row_stride: rank, column_stride: 1 }
            }
            Left::Transposed { values, rows: stride } => {
                Operand { values: &values[first..], rows, row_stride: 1, column_stride: *stride }
            }
        };
        add_product(out, columns, left, &self.right, rank, scale);
        Ok(())
    }

    /// The whole product of `rows` rows.
    pub(super) fn whole(&self, rows: usize) -> Result<Vec<f32>> {
        let mut out = reserve::zeros(rows * self.columns, "a LoRA")?;
        self.add(0, &mut out, 1.0)?;
        Ok(out)
    }
}

/// The left operand of a product, in any order.
#[derive(Clone, Copy)]
struct Operand<'a> {
    values: &'a [f32],
    rows: usize,
    row_stride: usize,
    column_stride: usize,
}

/// `out += scale · left · right` on this thread, with a row-major `out` and `right` of `columns`.
fn add_product(out: &mut [f32], columns: usize, left: Operand<'_>, right: &[f32], rank: usize, scale: f32) {
    let Operand { values, rows, row_stride, column_stride } = left;
    if rows == 0 || columns == 0 || rank == 0 {
        return;
    }
    let last = (rows - 1) * row_stride + (rank - 1) * column_stride;
    assert!(last < values.len() && right.len() == rank * columns && out.len() == rows * columns, "sizes differ");
    // SAFETY: the assertion keeps every element of the three matrices inside its slice, and `out`
    // is borrowed mutably, so it overlaps neither of the others nor itself.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            rank,
            out.as_mut_ptr(),
            1,
            columns as isize,
            true,
            values.as_ptr(),
            column_stride as isize,
            row_stride as isize,
            right.as_ptr(),
            1,
            columns as isize,
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Calls `f` with the index of each chunk of `size` values and the chunk, on all threads.
pub(super) fn in_chunks<T: Send>(
    values: &mut [T],
    size: usize,
    f: impl Fn(usize, &mut [T]) -> Result<()> + Send + Sync,
) -> Result<()> {
    #[cfg(not(target_family = "wasm"))]
    {
        use rayon::prelude::*;
        values.par_chunks_mut(size.max(1)).enumerate().try_for_each(|(chunk, values)| f(chunk, values))
    }
    #[cfg(target_family = "wasm")]
    {
        values.chunks_mut(size.max(1)).enumerate().try_for_each(|(chunk, values)| f(chunk, values))
    }
}
