//! Weights in another storage than their file's, made while they are uploaded.

use super::format::{E4M3_MAX, e4m3_code};
use super::weight::ReadAt;
use super::{Format, HostTensor, Scaled, Scales, Storage, Unquantizable, Weight, decoded, widen};
use crate::error::{Error, Result};
use crate::future::BoxFuture;
use crate::reserve::with_room;
use bytemuck::Pod;
use bytes::Bytes;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a piece of the source.
const SLAB: u64 = 16 << 20;
/// Elements that a thread converts at once.
const BLOCK: usize = 1 << 14;

/// The rows of a matrix in another storage.
struct Requantized<'a> {
    source: Weight<'a>,
    storage: Storage,
    error: Box<dyn Fn(Unquantizable) -> Error + 'a>,
}

impl ReadAt for Requantized<'_> {
    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Bytes> {
        Box::pin(async move {
            let columns = self.source.columns();
            let row = self.storage.bytes(1, columns).expect("whole blocks, as `requantized` checks") as usize;
            let [first, end] = [range.start, range.end].map(|at| (at / row as u64) as usize);
            let piece = self.source.piece(first, end - first).await?;
            let storage = &self.storage;
            let encode = |at: usize, values: &[f32], out: &mut [u8]| match storage {
                Storage::Plain(format) => format.quantize(values, out),
                Storage::Scaled { matrix, .. } => matrix.encode_rows(first + at, values, out),
            };
            converted(&piece, columns, row, encode).map_err(&self.error)
        })
    }
}

/// Rows of `out` elements from the rows of a piece. `convert` receives the index of the first of
/// some rows, and their values. All threads share the rows.
fn converted<T: Pod + Send>(
    piece: &HostTensor,
    columns: usize,
    out: usize,
    convert: impl Fn(usize, &[f32], &mut [T]) -> std::result::Result<(), Unquantizable> + Sync,
) -> std::result::Result<Bytes, Unquantizable> {
    thread_local! {
        static VALUES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    let dtype = piece.dtype();
    let count = (BLOCK / columns.max(1)).max(1);
    decoded::in_blocks(out, columns * dtype.size(), count, piece.bytes(), |first, bytes, out| {
        VALUES.with_borrow_mut(|values| {
            values.resize(bytes.len() / dtype.size(), 0.0);
            widen(dtype, bytes, values);
            convert(first, values, out)
        })
    })
}

impl<'a> Weight<'a> {
    /// The same matrix in `format`, one of [`Format::QUANTIZED`], converted piece by piece; itself
    /// if it is stored so, or if its rows are not whole blocks of the format. `error` reports
    /// values that the format cannot represent.
    pub fn requantized(self, format: Format, error: impl Fn(Unquantizable) -> Error + 'a) -> Self {
        let is_stored_so = match self.storage() {
            Some(Storage::Plain(stored)) => *stored == format,
            Some(Storage::Scaled { .. }) => false,
            None => !self.is_changed() && Format::of(self.dtype()) == Some(format),
        };
        if is_stored_so || self.columns() == 0 || format.bytes(self.columns()).is_none() {
            return self;
        }
        self.with_storage(Storage::Plain(format), Box::new(error))
    }

    /// The same matrix in E4M3 with a scale for each row, the largest magnitude / 448, as torchao's
    /// row-wise quantisation has them; itself if it is stored in E4M3. The matrix is read twice,
    /// and a LoRA of it computed twice: for the scales now, for its codes during the upload.
    ///
    /// # Errors
    /// Read errors; `error` of values that are not finite.
    pub async fn in_fp8(self, error: impl Fn(Unquantizable) -> Error + 'a) -> Result<Self> {
        let is_stored_so = self.storage().is_some_and(|storage| storage.format() == Format::F8E4m3);
        if is_stored_so { Ok(self) } else { self.in_fp8_rows(error).await }
    }

    /// As [`Weight::in_fp8`], for the operand of an FP8 gemm: a matrix in E4M3 with a scale for
    /// less than a row is converted too.
    ///
    /// # Errors
    /// As there.
    pub async fn in_fp8_rows(self, error: impl Fn(Unquantizable) -> Error + 'a) -> Result<Self> {
        if self.fp8_scales().is_some() || self.columns() == 0 {
            return Ok(self);
        }
        let columns = self.columns();
        let mut scales = with_room(self.rows(), "the scales of a matrix")?;
        let source = self.in_pieces(SLAB);
        let take = |_, piece: HostTensor| {
            let of_rows = converted(&piece, columns, 1, |_, values, scales: &mut [f32]| {
                let rows = values.chunks_exact(columns);
                scales.iter_mut().zip(rows).for_each(|(scale, row)| *scale = largest(row) / E4M3_MAX);
                Ok(())
            });
            let of_rows = of_rows.map_err(&error)?;
            scales.extend(of_rows.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)));
            Ok(())
        };
        Weight::each_piece(std::slice::from_ref(&source), take).await?;
        if !scales.iter().all(|scale| scale.is_finite()) {
            return Err(error(Unquantizable::NonFinite));
        }
        let shape = [source.rows(), columns];
        let matrix = Scaled::new(Format::F8E4m3, shape, shape, Scales::Rows(scales), None)
            .map_err(|mismatch| Error::internal(format!("{mismatch:?}")))?;
        Ok(source.with_storage(Storage::Scaled { matrix: Arc::new(matrix), first_row: 0 }, Box::new(error)))
    }

    fn with_storage(self, storage: Storage, error: Box<dyn Fn(Unquantizable) -> Error + 'a>) -> Self {
        let shape = self.shape().to_vec();
        let rows = (SLAB / self.row_bytes().max(1) as u64).max(1);
        let row = storage.bytes(1, self.columns()).expect("whole blocks, as the callers check");
        let requantized = Requantized { source: self, storage: storage.clone(), error };
        Weight::there(storage, &shape, requantized).expect("whole blocks").in_pieces(rows * row)
    }
}

/// The largest magnitude; NaN or infinite if a value is.
fn largest(row: &[f32]) -> f32 {
    // Magnitudes are ordered like their bits, and NaN is above infinity.
    f32::from_bits(row.iter().map(|value| value.to_bits() & 0x7fff_ffff).fold(0, u32::max))
}

impl Scaled {
    /// The codes of rows of E4M3 with row scales, from row `first` on: the nearest multiple of the
    /// scale.
    fn encode_rows(&self, first: usize, values: &[f32], out: &mut [u8]) -> std::result::Result<(), Unquantizable> {
        let Scales::Rows(scales) = self.scales() else { return Err(Unquantizable::Format(self.format())) };
        let [_, columns] = self.shape();
        let rows = values.chunks_exact(columns).zip(out.chunks_exact_mut(columns));
        for (scale, (values, out)) in scales[first..].iter().zip(rows) {
            // A row of zeros has the scale 0.
            let scale = if *scale > 0.0 { *scale } else { 1.0 };
            out.iter_mut().zip(values).for_each(|(code, value)| *code = e4m3_code(value / scale));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::future::expect_ready;
    use crate::tensor::DType;

    const SHAPE: [usize; 2] = [5, 512];

    fn source() -> HostTensor {
        let values = crate::numbers::noise(3, SHAPE[0] * SHAPE[1]);
        let values: Vec<f32> = values.iter().enumerate().map(|(i, v)| v * (1 << (i / SHAPE[1])) as f32).collect();
        HostTensor::rounded(DType::Bf16, &SHAPE, &values)
    }

    fn fails(_: Unquantizable) -> Error {
        Error::NonFinitePicture
    }

    #[test]
    fn rows_are_those_of_the_format_s_quantiser() {
        let values = source().to_f32();
        for format in [Format::Q8_0, Format::Q4K, Format::F16] {
            let mut expected = vec![0; format.bytes(values.len()).unwrap()];
            format.quantize(&values, &mut expected).unwrap();
            for piece in [1, 1 << 20] {
                let weight = Weight::from(source()).requantized(format, fails).in_pieces(piece);
                let mut expected_values = vec![0.0; values.len()];
                format.dequantize(&expected, &mut expected_values);
                assert_eq!(expect_ready(weight.whole()).unwrap().to_f32(), expected_values, "{format}");
                if weight.storage().is_some() {
                    assert_eq!(expect_ready(weight.whole_stored()).unwrap(), expected, "{format}");
                }
            }
        }
        let stored = source();
        let same = Weight::from(&stored).requantized(Format::Bf16, fails);
        assert_eq!(expect_ready(same.whole()).unwrap().bytes().as_ptr(), stored.bytes().as_ptr());
        // Rows of 5 are not whole blocks.
        let narrow = Weight::from(HostTensor::from_f32(&[2, 5], &[1.0; 10])).requantized(Format::Q8_0, fails);
        assert_eq!(narrow.dtype(), DType::F32);
        let infinite = Weight::from(HostTensor::from_f32(&[1, 32], &[f32::INFINITY; 32]));
        let infinite = infinite.requantized(Format::Q8_0, fails);
        assert!(matches!(expect_ready(infinite.whole()), Err(Error::NonFinitePicture)));
    }

    #[test]
    fn fp8_rows_are_within_half_a_step() {
        let values = source().to_f32();
        let weight = expect_ready(Weight::from(source()).in_fp8(fails)).unwrap();
        let found = expect_ready(weight.whole()).unwrap().to_f32();
        for (row, (values, found)) in values.chunks(SHAPE[1]).zip(found.chunks(SHAPE[1])).enumerate() {
            let largest = largest(values);
            for (&value, &found) in values.iter().zip(found) {
                // Four significant bits, and the subnormals' step at the lower end.
                let step = (value.abs() / 16.0).max(largest / E4M3_MAX / 1024.0);
                assert!((value - found).abs() <= step * 1.0001, "row {row}: {value} became {found}");
            }
            let peak = values.iter().position(|value| value.abs() == largest).unwrap();
            assert!((found[peak] / values[peak] - 1.0).abs() < 1e-6);
        }
        let zeros = expect_ready(Weight::from(HostTensor::from_f32(&[1, 2], &[0.0; 2])).in_fp8(fails)).unwrap();
        assert_eq!(expect_ready(zeros.whole()).unwrap().to_f32(), [0.0; 2]);
        let bad = Weight::from(HostTensor::from_f32(&[2, 1], &[1.0, f32::NAN])).in_fp8(fails);
        assert!(matches!(expect_ready(bad), Err(Error::NonFinitePicture)));
    }
}
