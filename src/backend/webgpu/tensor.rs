//! Tensors in device memory.

use super::super::{DType, DeviceTensor, shapes};
use super::memory::Memory;
use crate::error::Result;
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
        padded(self.len(), self.dtype)
    }
}

/// Bytes of `len` elements in whole words of 4 bytes, at least one of 16 that a shader may read at once.
pub(super) fn padded(len: usize, dtype: DType) -> u64 {
    ((len * dtype.size()) as u64).next_multiple_of(16).max(16)
}

impl DeviceTensor for WebGpuTensor {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn reshaped(&self, shape: &[usize]) -> Result<Self> {
        shapes::reshaped(&self.shape, shape)?;
        Ok(Self { shape: shape.to_vec(), dtype: self.dtype, memory: self.memory.clone() })
    }
}
