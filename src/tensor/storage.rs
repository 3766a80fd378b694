//! The storage of a weight: its format, and the scales beside it.

use super::{DType, Format, Scaled};
use bytemuck::Pod;
use bytes::Bytes;
use half::bf16;
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
    /// The storage of elements in memory; `None` for types that are not floating.
    pub fn of(dtype: DType) -> Option<Self> {
        Some(Storage::Plain(match dtype {
            DType::F32 => Format::F32,
            DType::F16 => Format::F16,
            DType::Bf16 => Format::Bf16,
            DType::U32 | DType::U8 => return None,
        }))
    }

    /// The format of the elements, without their scales.
    pub fn format(&self) -> Format {
        match self {
            Storage::Plain(format) => *format,
            Storage::Scaled { matrix, .. } => matrix.format(),
        }
    }

    /// The type that every element has after [`Storage::decode`]: the stored one of F32, F16 and
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

    /// The elements of whole rows, from row `first` of the weight on, as elements of
    /// [`Storage::dtype`]. Shared, not copied, where the type is the stored one.
    ///
    /// # Panics
    /// If `bytes` are not those of whole rows of `columns` elements.
    pub(crate) fn decode(&self, first: usize, columns: usize, bytes: Bytes) -> Bytes {
        match self {
            Storage::Plain(Format::F32 | Format::F16 | Format::Bf16) => bytes,
            Storage::Plain(format @ (Format::F8E4m3 | Format::F8E5m2)) => {
                let codes: Vec<u8> = (0..=u8::MAX).collect();
                let mut values = [0.0; 256];
                format.dequantize(&codes, &mut values);
                let table = values.map(|value| bf16::from_f32(value).to_bits().to_le());
                each_row(columns, columns, &bytes, |_, codes, out: &mut [u16]| {
                    out.iter_mut().zip(codes).for_each(|(out, &code)| *out = table[usize::from(code)]);
                })
            }
            Storage::Plain(format) => {
                let row = format.bytes(columns).expect("whole blocks");
                each_row(columns, row, &bytes, |_, bytes, out| format.dequantize(bytes, out))
            }
            Storage::Scaled { matrix, first_row } => {
                let first = first_row + first;
                let row = matrix.row_bytes();
                each_row(columns, row, &bytes, |i, bytes, out| matrix.dequantize_rows(first + i, bytes, out))
            }
        }
    }
}

/// Rows of `columns` elements from rows of `row` bytes, each by `decode`, which receives the row's
/// index, its bytes and its elements.
fn each_row<T: Pod + Send>(
    columns: usize,
    row: usize,
    bytes: &[u8],
    decode: impl Fn(usize, &[u8], &mut [T]) + Sync,
) -> Bytes {
    if row == 0 {
        return Bytes::new();
    }
    let mut elements = vec![T::zeroed(); bytes.len() / row * columns];
    #[cfg(not(target_family = "wasm"))]
    {
        use rayon::prelude::*;
        let rows = bytes.par_chunks_exact(row).zip(elements.par_chunks_exact_mut(columns));
        rows.enumerate().for_each(|(i, (bytes, out))| decode(i, bytes, out));
    }
    #[cfg(target_family = "wasm")]
    {
        let rows = bytes.chunks_exact(row).zip(elements.chunks_exact_mut(columns));
        rows.enumerate().for_each(|(i, (bytes, out))| decode(i, bytes, out));
    }
    Bytes::from_owner(Elements(elements))
}

/// Elements as bytes.
struct Elements<T>(Vec<T>);

impl<T: Pod> AsRef<[u8]> for Elements<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}
