//! Tensors in device memory.

use super::allocation::Allocation;
use crate::backend::{DeviceTensor, Fp8Form, Heads};
use crate::tensor::{DType, FP8_BLOCK, Format, widen};
use std::sync::Arc;

/// BF16 elements that a thread loads or stores at once.
pub(crate) const VECTOR: usize = 8;

/// 1 if rows of `width` consist of whole vectors, else 0: a constant of many kernels.
pub(crate) fn aligned(width: usize) -> usize {
    usize::from(width.is_multiple_of(VECTOR))
}

/// The elements of a row of `width` that a thread loads at once: [`VECTOR`] or 1.
pub(crate) fn vector(width: usize) -> usize {
    if width.is_multiple_of(VECTOR) { VECTOR } else { 1 }
}

/// A contiguous tensor of the `cuda` backend.
#[derive(Debug, Clone)]
pub struct CudaTensor {
    shape: Vec<usize>,
    dtype: DType,
    allocation: Arc<Allocation>,
    fp8: Option<Box<Fp8>>,
}

/// The form of a tensor in FP8, and the scales beside its memory.
#[derive(Debug, Clone)]
struct Fp8 {
    form: Fp8Form,
    /// F32: `[blocks, rows]` of an operand, `[2]` of the queries and keys of a projection.
    scales: CudaTensor,
}

/// The bytes of a token of a fused projection in FP8: codes of queries and keys, then BF16 values.
pub(crate) fn projection_bytes([queries, keys]: [usize; 2]) -> usize {
    queries + keys + keys * DType::Bf16.size()
}

impl CudaTensor {
    pub(crate) fn new(shape: &[usize], dtype: DType, allocation: Arc<Allocation>) -> Self {
        Self { shape: shape.to_vec(), dtype, allocation, fp8: None }
    }

    /// The FP8 operand with these codes, U8 `[…, width]`, and scales, F32 `[blocks, rows]`: one
    /// block for a scale a row, else one for each [`FP8_BLOCK`] columns.
    pub(crate) fn fp8(codes: Self, scales: Self) -> Self {
        Self { fp8: Some(Box::new(Fp8 { form: Fp8Form::Operand, scales })), ..codes }
    }

    /// The fused projection `[items, tokens, fused width]` of these heads with queries and keys in
    /// FP8: `rows` is U8 `[items, tokens, bytes]` of [`projection_bytes`], scales are F32 `[2]`.
    pub(crate) fn fp8_projection(rows: Self, scales: Self, heads: Heads) -> Self {
        let [items, tokens, _]: [usize; 3] = rows.dims();
        let [queries, keys] = heads.columns();
        let fp8 = Fp8 { form: Fp8Form::Projection { queries, keys }, scales };
        Self { shape: vec![items, tokens, heads.fused_width()], fp8: Some(Box::new(fp8)), ..rows }
    }

    /// The bytes of a fused projection in FP8 as elements of `dtype`, `[items, tokens, elements]`.
    pub(crate) fn projection_rows(&self, dtype: DType) -> Self {
        let [items, tokens, _]: [usize; 3] = self.dims();
        let elements = self.bytes() / (items * tokens * dtype.size());
        Self { shape: vec![items, tokens, elements], dtype, allocation: self.allocation.clone(), fp8: None }
    }

    /// The scales of a tensor in FP8.
    pub(crate) fn scales(&self) -> Option<&CudaTensor> {
        self.fp8.as_deref().map(|fp8| &fp8.scales)
    }

    pub(crate) fn allocation(&self) -> &Arc<Allocation> {
        &self.allocation
    }

    /// The sizes of a tensor whose rank is known.
    pub(crate) fn dims<const N: usize>(&self) -> [usize; N] {
        std::array::from_fn(|axis| self.shape[axis])
    }

    /// The number of elements.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The bytes of its elements.
    pub(crate) fn bytes(&self) -> usize {
        match self.fp8() {
            Some(Fp8Form::Projection { queries, keys }) => {
                self.len() / (queries + 2 * keys) * projection_bytes([queries, keys])
            }
            _ => self.len() * self.dtype.size(),
        }
    }
}

impl DeviceTensor for CudaTensor {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn fp8(&self) -> Option<Fp8Form> {
        self.fp8.as_deref().map(|fp8| fp8.form)
    }

    fn shares(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.allocation, &other.allocation)
    }

    fn with_shape(&self, shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), ..self.clone() }
    }
}

/// The values `[rows, width]` of an FP8 operand. `scales` has those of the first block of every
/// row, then those of the next.
pub(crate) fn fp8_values(codes: &[u8], scales: &[f32], rows: usize) -> Vec<f32> {
    let width = codes.len() / rows;
    let block = if scales.len() == rows { width } else { FP8_BLOCK };
    let mut values = vec![0.0; codes.len()];
    Format::F8E4m3.dequantize(codes, &mut values);
    for (row, values) in values.chunks_exact_mut(width).enumerate() {
        for (i, values) in values.chunks_mut(block).enumerate() {
            values.iter_mut().for_each(|value| *value *= scales[i * rows + row]);
        }
    }
    values
}

/// The place of the code of a column in the queries or keys of a projection in FP8: `code_place` of
/// `kernels/common/fp8.cuh`, which gives the reason for the order.
fn code_place(column: usize) -> usize {
    let (part, column) = (column / 64 * 64, column % 64);
    let [j, q, i] = [column / 8, column % 8 / 2, column % 2];
    part + 16 * q + 2 * j + i
}

/// The values of a fused projection in FP8 with so many columns of queries and of keys, which are
/// multiples of 64.
pub(crate) fn projection_values(bytes: &[u8], scales: [f32; 2], [queries, keys]: [usize; 2]) -> Vec<f32> {
    let width = queries + 2 * keys;
    let row_bytes = projection_bytes([queries, keys]);
    let mut values = vec![0.0; bytes.len() / row_bytes * width];
    for (row, values) in bytes.chunks_exact(row_bytes).zip(values.chunks_exact_mut(width)) {
        let (codes, stored) = row.split_at(queries + keys);
        let (normed, values) = values.split_at_mut(queries + keys);
        let ordered: Vec<u8> = (0..codes.len()).map(|column| codes[code_place(column)]).collect();
        Format::F8E4m3.dequantize(&ordered, normed);
        normed[..queries].iter_mut().for_each(|value| *value *= scales[0]);
        normed[queries..].iter_mut().for_each(|value| *value *= scales[1]);
        widen(DType::Bf16, stored, values);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projections_are_codes_then_values() {
        // 1 is 0x38, and 2 is 0x40; in BF16 they are 0x3f80 and 0x4000. Columns 8·j and 8·j + 1 of
        // the queries are the first 16 codes.
        let queries = [[0x40; 16].as_slice(), &[0x38; 48]].concat();
        let row = [queries, vec![0x38; 64], [0x80, 0x3f].repeat(63), vec![0x00, 0x40]].concat();
        assert_eq!(projection_bytes([64, 64]), row.len());
        let values = projection_values(&[row.clone(), row].concat(), [3.0, 5.0], [64, 64]);
        let expected = (0..192).map(|column| match column {
            0..64 if column % 8 < 2 => 6.0,
            0..64 => 3.0,
            64..128 => 5.0,
            191 => 2.0,
            _ => 1.0,
        });
        assert_eq!(values, expected.collect::<Vec<f32>>().repeat(2));
    }

    #[test]
    fn codes_are_in_the_order_of_accumulators() {
        assert_eq!([0, 1, 2, 3, 7, 8, 9, 63, 64].map(code_place), [0, 1, 16, 17, 49, 2, 3, 63, 64]);
        let mut places: Vec<_> = (0..128).map(code_place).collect();
        places.sort_unstable();
        assert_eq!(places, (0..128).collect::<Vec<_>>());
    }

    #[test]
    fn scales_are_of_rows_or_of_blocks() {
        // 1 is 0x38, and 2 is 0x40.
        let codes: Vec<u8> = [[0x38; 130], [0x40; 130]].concat();
        let rows = fp8_values(&codes, &[3.0, 5.0], 2);
        assert_eq!([rows[0], rows[129], rows[130], rows[259]], [3.0, 3.0, 10.0, 10.0]);
        let blocks = fp8_values(&codes, &[3.0, 5.0, 7.0, 9.0], 2);
        assert_eq!([blocks[127], blocks[128], blocks[257], blocks[258]], [3.0, 7.0, 10.0, 18.0]);
    }
}
