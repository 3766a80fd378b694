//! Tensors in device memory.

use super::allocation::Allocation;
use crate::backend::DeviceTensor;
use crate::tensor::{Compute, DType, FP8_BLOCK, Format};
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
    /// F32 `[blocks, rows]`, beside the codes of an FP8 operand.
    scales: Option<Box<CudaTensor>>,
}

impl CudaTensor {
    pub(crate) fn new(shape: &[usize], dtype: DType, allocation: Arc<Allocation>) -> Self {
        Self { shape: shape.to_vec(), dtype, allocation, scales: None }
    }

    /// The FP8 operand with these codes, U8 `[…, width]`, and scales, F32 `[blocks, rows]`: one
    /// block for a scale a row, else one for each [`FP8_BLOCK`] columns.
    pub(crate) fn fp8(codes: Self, scales: Self) -> Self {
        Self { scales: Some(Box::new(scales)), ..codes }
    }

    /// The scales of an FP8 operand.
    pub(crate) fn scales(&self) -> Option<&CudaTensor> {
        self.scales.as_deref()
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
        self.len() * self.dtype.size()
    }
}

impl DeviceTensor for CudaTensor {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn compute(&self) -> Compute {
        if self.scales.is_some() { Compute::Fp8 } else { Compute::Native }
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
