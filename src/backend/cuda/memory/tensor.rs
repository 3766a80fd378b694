//! Tensors in device memory.

use super::allocation::Allocation;
use super::projection::Projection;
use crate::backend::{DeviceTensor, Fp8Form};
use crate::tensor::{DType, FP8_BLOCK, Format};
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
    /// F32: `[blocks, rows]` of an operand, all scales of a projection.
    scales: CudaTensor,
    /// The layout of a projection.
    layout: Option<Projection>,
}

impl CudaTensor {
    pub(crate) fn new(shape: &[usize], dtype: DType, allocation: Arc<Allocation>) -> Self {
        Self { shape: shape.to_vec(), dtype, allocation, fp8: None }
    }

    /// The FP8 operand with these codes, U8 `[…, width]`, and scales, F32 `[blocks, rows]`: one
    /// block for a scale a row, else one for each [`FP8_BLOCK`] columns.
    pub(crate) fn fp8(codes: Self, scales: Self) -> Self {
        Self { fp8: Some(Box::new(Fp8 { form: Fp8Form::Operand, scales, layout: None })), ..codes }
    }

    /// The fused projection `[items, tokens, fused width]` in FP8 with this layout, codes, U8, and
    /// scales, F32.
    pub(crate) fn fp8_projection(codes: Self, scales: Self, layout: Projection) -> Self {
        let [queries, keys] = layout.columns();
        let [_, tokens, items] = layout.code_sizes();
        let fp8 = Fp8 { form: Fp8Form::Projection { queries, keys }, scales, layout: Some(layout) };
        Self { shape: vec![items, tokens, queries + 2 * keys], fp8: Some(Box::new(fp8)), ..codes }
    }

    /// The layout of a fused projection in FP8.
    pub(crate) fn projection(&self) -> Option<&Projection> {
        self.fp8.as_deref()?.layout.as_ref()
    }

    /// All bytes as elements of `dtype`, `[elements]`.
    pub(crate) fn elements(&self, dtype: DType) -> Self {
        Self { shape: vec![self.bytes() / dtype.size()], dtype, allocation: self.allocation.clone(), fp8: None }
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
        self.projection().map_or(self.len() * self.dtype.size(), Projection::bytes)
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

#[cfg(test)]
mod tests {
    use super::*;

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
