//! Tensors in device memory.

use super::arena::Memory;
use crate::backend::DeviceTensor;
use crate::tensor::DType;
use std::sync::Arc;

/// Elements of BF16 that a thread reads or writes at once.
pub(crate) const VECTOR: usize = 8;

/// 1 where rows of `width` can be read and written [`VECTOR`] elements at once, else 0: a constant of many kernels.
pub(crate) fn aligned(width: usize) -> usize {
    usize::from(width.is_multiple_of(VECTOR))
}

/// The elements of such rows that a thread takes at once.
pub(crate) fn vector(width: usize) -> usize {
    if width.is_multiple_of(VECTOR) { VECTOR } else { 1 }
}

/// A tensor of the `cuda` backend. Elements lie side by side.
#[derive(Debug, Clone)]
pub struct CudaTensor {
    shape: Vec<usize>,
    dtype: DType,
    memory: Arc<Memory>,
}

impl CudaTensor {
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

    /// Bytes of its elements.
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

    fn shares(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.memory, &other.memory)
    }

    fn with_shape(&self, shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), dtype: self.dtype, memory: self.memory.clone() }
    }
}
