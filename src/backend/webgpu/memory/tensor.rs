//! Tensors in device memory.

use super::pool::Memory;
use crate::backend::DeviceTensor;
use crate::tensor::DType;
use std::sync::Arc;

/// A tensor of the `webgpu` backend. It is contiguous; U8, F16 and BF16 are packed into 32-bit
/// words.
#[derive(Debug, Clone)]
pub struct WebGpuTensor {
    shape: Vec<usize>,
    dtype: DType,
    memory: Arc<Memory>,
}

impl WebGpuTensor {
    pub(crate) fn new(shape: &[usize], dtype: DType, memory: Arc<Memory>) -> Self {
        Self { shape: shape.to_vec(), dtype, memory }
    }

    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The number of elements.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The bytes that are bound for it.
    pub(crate) fn bytes(&self) -> u64 {
        padded_bytes(&self.shape, self.dtype)
    }
}

/// Bytes of a tensor, rounded up to the 16 that a shader may read at once, and at least those,
/// because nothing empty can be bound. u64, because they may exceed this program's address space.
pub(crate) fn padded_bytes(shape: &[usize], dtype: DType) -> u64 {
    let bytes = shape.iter().fold(dtype.size() as u64, |product, &n| product.saturating_mul(n as u64));
    bytes.checked_next_multiple_of(16).unwrap_or(u64::MAX).max(16)
}

impl DeviceTensor for WebGpuTensor {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn shares(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.memory, &other.memory)
    }

    fn with_shape(&self, shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), dtype: self.dtype, memory: self.memory.clone() }
    }
}
