//! The storage of a weight: its format, and the scales beside it.

use super::{DType, Format, RowChange, Scaled, decoded};
use crate::error::Result;
use bytes::Bytes;
use half::bf16;
use half::slice::HalfFloatSliceExt;
use std::cell::RefCell;
use std::sync::Arc;

/// The layout of a weight's elements in a file, as far as dequantising whole rows needs it.
#[derive(Debug, Clone)]
pub enum Storage {
    /// Elements of one format, in row-major order.
    Plain(Format),
    /// A matrix with scales beside it, or some of its rows.
    Scaled {
        /// The whole matrix.
        matrix: Arc<Scaled>,
        /// The first row of the weight in the matrix.
        first_row: usize,
    },
}

impl Storage {
    /// The format of the elements, or of the codes that have scales beside them.
    pub fn format(&self) -> Format {
        match self {
            Storage::Plain(format) => *format,
            Storage::Scaled { matrix, .. } => matrix.format(),
        }
    }

    /// The type that every element has after decoding: the stored one of F32, F16 and
    /// BF16, BF16 for FP8 without scales, which it holds exactly, and F32 for everything else.
    pub fn dtype(&self) -> DType {
        match self {
            Storage::Plain(Format::F16) => DType::F16,
            Storage::Plain(Format::Bf16 | Format::F8E4m3 | Format::F8E5m2) => DType::Bf16,
            Storage::Plain(_) | Storage::Scaled { .. } => DType::F32,
        }
    }

    /// Bytes of `rows` rows of `columns` elements; `None` when they are not whole blocks.
    pub fn bytes(&self, rows: usize, columns: usize) -> Option<u64> {
        let row = match self {
            Storage::Plain(format) => format.bytes(columns)?,
            Storage::Scaled { matrix, .. } => matrix.row_bytes(),
        };
        (rows as u64).checked_mul(row as u64)
    }

    /// True if the elements are stored in a type that backends read.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Storage::Plain(Format::F32 | Format::F16 | Format::Bf16))
    }

    /// Dequantises whole rows of `columns` elements, from row `first` of the weight on.
    ///
    /// # Panics
    /// If `bytes` and `out` do not have the same number of whole rows.
    pub fn dequantize_rows(&self, first: usize, bytes: &[u8], out: &mut [f32]) {
        match self {
            Storage::Plain(format) => format.dequantize(bytes, out),
            Storage::Scaled { matrix, first_row } => matrix.dequantize_rows(first_row + first, bytes, out),
        }
    }

    /// The elements of whole rows, from row `first` of the weight on, in the type `to`: that of
    /// [`Storage::dtype`], or F32 if they are changed, or BF16. Shared, not copied, if they are
    /// unchanged and stored in a type that backends read.
    ///
    /// # Errors
    /// Errors of `change`.
    ///
    /// # Panics
    /// If `bytes` are not those of whole rows of `columns` elements.
    pub(crate) fn decode(
        &self,
        first: usize,
        columns: usize,
        bytes: Bytes,
        to: DType,
        change: Option<&dyn RowChange>,
    ) -> Result<Bytes> {
        let row = usize::try_from(self.bytes(1, columns).expect("whole blocks")).expect("a row in memory");
        match (self, change) {
            (_, None) if self.is_plain() => Ok(bytes),
            (Storage::Plain(format @ (Format::F8E4m3 | Format::F8E5m2)), None) => {
                let codes: Vec<u8> = (0..=u8::MAX).collect();
                let mut values = [0.0; 256];
                format.dequantize(&codes, &mut values);
                let table = values.map(|value| bf16::from_f32(value).to_bits());
                decoded::in_blocks(columns, row, rows_of(UNCHANGED, columns), &bytes, |_, codes, out: &mut [u16]| {
                    out.iter_mut().zip(codes).for_each(|(out, &code)| *out = table[usize::from(code)]);
                    Ok(())
                })
            }
            (_, None) => values(columns, row, rows_of(UNCHANGED, columns), &bytes, to, |i, bytes, out| {
                self.dequantize_rows(first + i, bytes, out);
                Ok(())
            }),
            (_, Some(change)) => values(columns, row, rows_of(CHANGED, columns), &bytes, to, |i, bytes, out| {
                self.dequantize_rows(first + i, bytes, out);
                change.apply(first + i, out)
            }),
        }
    }
}

/// Elements that a thread decodes at once.
const UNCHANGED: usize = 1 << 12;
/// Elements that a thread changes at once: few enough for its core's cache as F32, and enough rows
/// for the product of a LoRA's matrices. Any power from 15 to 19 is as fast.
const CHANGED: usize = 1 << 16;

/// The rows of `columns` elements that have about `elements` elements.
fn rows_of(elements: usize, columns: usize) -> usize {
    (elements / columns.max(1)).max(1)
}

/// Rows of `columns` values in F32 or BF16, `count` rows at once by `dequantize`.
fn values(
    columns: usize,
    row: usize,
    count: usize,
    bytes: &[u8],
    to: DType,
    dequantize: impl Fn(usize, &[u8], &mut [f32]) -> Result<()> + Sync,
) -> Result<Bytes> {
    /// Values that are rounded at once.
    const ROUNDED: usize = 256;
    if to == DType::F32 {
        return decoded::in_blocks(columns, row, count, bytes, dequantize);
    }
    thread_local! {
        static VALUES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    decoded::in_blocks(columns, row, count, bytes, |i, bytes, out: &mut [u16]| {
        VALUES.with_borrow_mut(|values| {
            values.resize(out.len(), 0.0);
            dequantize(i, bytes, values)?;
            for (out, values) in out.chunks_mut(ROUNDED).zip(values.chunks(ROUNDED)) {
                bytemuck::cast_slice_mut::<u16, bf16>(out).convert_from_f32_slice(values);
            }
            Ok(())
        })
    })
}
