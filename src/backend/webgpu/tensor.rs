//! Tensors in device memory.

use super::super::DeviceTensor;
use super::memory::Memory;
use crate::tensor::DType;
use std::sync::Arc;

/// A tensor of the `webgpu` backend. Elements lie side by side; U8, F16 and BF16 are packed into 32-bit words.
#[derive(Debug, Clone)]
pub struct WebGpuTensor {
    shape: Vec<usize>,
    dtype: DType,
    memory: Arc<Memory>,
}

impl WebGpuTensor {
    pub(super) fn new(shape: &[usize], dtype: DType, memory: Arc<Memory>) -> Self {
        Self { shape: shape.to_vec(), dtype, memory }
    }

    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The number of elements.
    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of its elements, in whole words; at least one, as nothing can be bound that is empty.
    pub(super) fn bytes(&self) -> u64 {
        padded(&self.shape, self.dtype)
    }
}

/// Bytes of a tensor in steps of the 16 that a shader may read at once, at least one. They may be more than this program's
/// memory has addresses.
pub(super) fn padded(shape: &[usize], dtype: DType) -> u64 {
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
